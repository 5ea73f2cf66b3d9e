"""Count what was stored before the triggers of 0005, an owner at a time."""

from typing import Any

from django.db import migrations, transaction

OWNERS_SQL = """
SELECT DISTINCT s.owner_id
  FROM sessions_app_recording r JOIN sessions_app_session s ON s.id = r.session_id
 WHERE r.status = 'READY'
"""

# Locked first, by a statement of its own: whoever writes the owner's recordings holds this row, so
# that the sum sees what they have committed, and they add to the sum what they commit later.
LOCK_SQL = """
INSERT INTO sessions_app_storagelevel (owner_id, level, used_bytes, updated_at)
SELECT id, 'ok', 0, now() FROM projects_user WHERE id = %s FOR KEY SHARE
    ON CONFLICT (owner_id) DO UPDATE SET updated_at = sessions_app_storagelevel.updated_at
"""

COUNT_SQL = """
UPDATE sessions_app_storagelevel l
   SET ready_bytes = (
       SELECT coalesce(sum(r.file_size_bytes), 0)
         FROM sessions_app_recording r JOIN sessions_app_session s ON s.id = r.session_id
        WHERE s.owner_id = l.owner_id AND r.status = 'READY')
 WHERE l.owner_id = %s
"""


def backfill(apps: Any, schema_editor: Any) -> None:
    using = schema_editor.connection.alias
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(OWNERS_SQL)
        owner_ids = [owner_id for (owner_id,) in cursor.fetchall()]
        for owner_id in owner_ids:
            with transaction.atomic(using=using):
                cursor.execute(LOCK_SQL, [owner_id])
                cursor.execute(COUNT_SQL, [owner_id])


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("sessions_app", "0005_count_ready_bytes")]

    operations = [migrations.RunPython(backfill, migrations.RunPython.noop)]
