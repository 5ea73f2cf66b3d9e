"""Forget an end time, a reason or an error when the status that it belongs to ends.

A trigger does it, because QuerySet.update() writes the status alone: the next event would say of a new
end what the row remembers of the last one. Each statement commits by itself, so that no save waits
for more than a trigger; a migration that was interrupted can run again.
"""

from django.db import migrations

REMEMBERED = (
    ("sessions_app_session", "ended_at", "NULL", "COMPLETED"),
    ("sessions_app_recording", "error", "''", "FAILED"),
    ("sessions_app_agent", "disconnect_reason", "''", "OFFLINE"),
)
"""Tables, each with a column, its empty value and the status that it belongs to."""

TRIGGER_SQL = """
CREATE OR REPLACE FUNCTION {0}_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.{1} := {2};
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER forget_{1} BEFORE UPDATE OF status ON {0}
    FOR EACH ROW WHEN (OLD.status = '{3}' AND NEW.status <> '{3}')
    EXECUTE FUNCTION {0}_forget();
"""

# What was left before there was a trigger; locked in the order in which the product locks.
FORGET_SQL = """
UPDATE {0} SET {1} = {2} WHERE id IN (
    SELECT id FROM {0} WHERE status <> '{3}' AND {1} IS DISTINCT FROM {2}
     ORDER BY id FOR NO KEY UPDATE)
"""


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("sessions_app", "0006_backfill_ready_bytes")]

    operations = [
        migrations.RunSQL(
            [TRIGGER_SQL.format(*each), FORGET_SQL.format(*each)],
            f"DROP FUNCTION {each[0]}_forget() CASCADE",
        )
        for each in REMEMBERED
    ]
