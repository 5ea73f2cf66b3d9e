"""Keep the bytes of an owner's ready recordings as a number that every write moves.

Triggers do it, because whatever writes recordings has to count: bulk writes, cascades, fixtures,
raw SQL. Both a write of recordings and a session's change of hands lock the levels of the owners
before they look at the other's rows, so that no recording is counted for an owner who gives its
session away at the same moment. Locks are taken in this order: sessions, recordings, levels.
"""

from django.db import migrations, models

TRIGGERS_SQL = """
CREATE FUNCTION sessions_app_make_levels(owner_ids uuid[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO sessions_app_storagelevel (owner_id, level, used_bytes, updated_at)
    SELECT u.id, 'ok', 0, now() FROM unnest(owner_ids) AS u (id) ORDER BY u.id
        ON CONFLICT (owner_id) DO NOTHING;
$$;

CREATE FUNCTION sessions_app_lock_levels(owner_ids uuid[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM sessions_app_storagelevel
      WHERE owner_id = ANY(owner_ids) ORDER BY owner_id FOR NO KEY UPDATE;
END $$;

CREATE FUNCTION sessions_app_add_bytes(owner_ids uuid[], byte_counts numeric[]) RETURNS void
LANGUAGE sql AS $$
    UPDATE sessions_app_storagelevel l SET ready_bytes = l.ready_bytes + a.bytes
      FROM unnest(owner_ids, byte_counts) AS a (owner_id, bytes)
     WHERE l.owner_id = a.owner_id;
$$;

CREATE FUNCTION sessions_app_count_bytes(session_ids uuid[], byte_counts numeric[]) RETURNS void
LANGUAGE plpgsql STRICT AS $$
DECLARE
    owners uuid[];
    changes numeric[];
    locked uuid[] := '{}';
BEGIN
    LOOP
        SELECT array_agg(o.owner_id), array_agg(o.bytes) INTO owners, changes
          FROM (SELECT s.owner_id, sum(c.bytes) AS bytes
                  FROM unnest(session_ids, byte_counts) AS c (id, bytes)
                  JOIN sessions_app_session s ON s.id = c.id
                 GROUP BY s.owner_id HAVING sum(c.bytes) <> 0) o;
        -- Nobody has given a session away while we waited for the lock.
        EXIT WHEN owners IS NULL OR owners <@ locked;
        -- No row is made where bytes go: with a user's recordings the row goes, too.
        PERFORM sessions_app_make_levels(array_agg(a.owner_id))
           FROM unnest(owners, changes) AS a (owner_id, bytes) WHERE a.bytes > 0;
        PERFORM sessions_app_lock_levels(owners);
        locked := locked || owners;
    END LOOP;
    PERFORM sessions_app_add_bytes(owners, changes);
END $$;

CREATE FUNCTION sessions_app_recordings_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- As the foreign key will at the end: a delete of the session locks it before the level.
        PERFORM 1 FROM sessions_app_session
          WHERE id IN (SELECT session_id FROM new_rows WHERE status = 'READY')
          ORDER BY id FOR KEY SHARE;
        PERFORM sessions_app_count_bytes(array_agg(session_id), array_agg(file_size_bytes::numeric))
           FROM new_rows WHERE status = 'READY';
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM sessions_app_count_bytes(array_agg(session_id), array_agg(-file_size_bytes::numeric))
           FROM old_rows WHERE status = 'READY';
    ELSE
        PERFORM sessions_app_count_bytes(array_agg(c.session_id), array_agg(c.bytes))
           FROM (SELECT session_id, file_size_bytes::numeric AS bytes
                   FROM new_rows WHERE status = 'READY'
                  UNION ALL
                 SELECT session_id, -file_size_bytes::numeric
                   FROM old_rows WHERE status = 'READY') c;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER count_bytes_inserted AFTER INSERT ON sessions_app_recording
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION sessions_app_recordings_written();
CREATE TRIGGER count_bytes_updated AFTER UPDATE ON sessions_app_recording
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION sessions_app_recordings_written();
CREATE TRIGGER count_bytes_deleted AFTER DELETE ON sessions_app_recording
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION sessions_app_recordings_written();

CREATE FUNCTION sessions_app_session_moved() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bytes numeric;
BEGIN
    PERFORM sessions_app_make_levels(ARRAY[OLD.owner_id, NEW.owner_id]);
    PERFORM sessions_app_lock_levels(ARRAY[OLD.owner_id, NEW.owner_id]);
    SELECT sum(file_size_bytes) INTO bytes
      FROM sessions_app_recording WHERE session_id = NEW.id AND status = 'READY';
    PERFORM sessions_app_add_bytes(ARRAY[OLD.owner_id, NEW.owner_id], ARRAY[-bytes, bytes])
      WHERE bytes > 0;
    RETURN NULL;
END $$;

CREATE TRIGGER count_bytes_moved AFTER UPDATE OF owner_id ON sessions_app_session
    FOR EACH ROW WHEN (OLD.owner_id IS DISTINCT FROM NEW.owner_id)
    EXECUTE FUNCTION sessions_app_session_moved();
"""

NO_TRIGGERS_SQL = """
DROP FUNCTION sessions_app_session_moved() CASCADE;
DROP FUNCTION sessions_app_recordings_written() CASCADE;
DROP FUNCTION sessions_app_count_bytes(uuid[], numeric[]);
DROP FUNCTION sessions_app_add_bytes(uuid[], numeric[]);
DROP FUNCTION sessions_app_lock_levels(uuid[]);
DROP FUNCTION sessions_app_make_levels(uuid[]);
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0001_initial")]

    operations = [
        migrations.AddField(
            "storagelevel",
            "ready_bytes",
            models.DecimalField(max_digits=40, decimal_places=0, db_default=0, editable=False),
        ),
        migrations.RunSQL(TRIGGERS_SQL, NO_TRIGGERS_SQL),
    ]
