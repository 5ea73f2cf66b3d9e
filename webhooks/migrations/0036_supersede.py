"""Deliveries of debounced webhooks supersede what waits of their object."""

from django.db import migrations, models

DROP_INDEX_SQL = "DROP INDEX CONCURRENTLY IF EXISTS delivery_debounced"
INDEX_SQL = """
CREATE INDEX CONCURRENTLY delivery_debounced
    ON webhooks_delivery (webhook_id, debounce_key)
 WHERE debounce_key IS NOT NULL AND finished_at IS NULL
"""

# At the end of the transaction, so that it holds no lock on a waiting row for longer, and decides by
# what is left of its events then. The last event of the object stays and is due when the first was: a
# stream of updates does not put it off for ever. What is in flight, or was asked for by a person, is
# left alone; a row that another transaction has locked is being sent.
#
# Nothing here may fail the transaction: at higher levels of isolation a row may have changed since.
FUNCTION_SQL = """
CREATE OR REPLACE FUNCTION webhooks_supersede() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH waiting AS MATERIALIZED (
        SELECT d.id, d.event_type, d.next_attempt_at, d.attempt_count, e.sequence
          FROM webhooks_delivery d JOIN webhooks_event e ON e.id = d.event_id
         WHERE d.webhook_id = NEW.webhook_id AND d.debounce_key = NEW.debounce_key
           AND d.finished_at IS NULL AND d.status IN ('PENDING', 'RETRYING')
           AND d.claimed_by IS NULL AND NOT d.is_suspect AND d.redelivery_id IS NULL
           FOR NO KEY UPDATE OF d SKIP LOCKED
    ), last AS (
        SELECT id FROM waiting ORDER BY sequence DESC LIMIT 1
    ), superseded AS (
        UPDATE webhooks_delivery d
           SET status = 'CANCELLED', finished_at = clock_timestamp(), next_attempt_at = NULL,
               error = 'Superseded by a later event of the same object: del_'
                       || replace(last.id::text, '-', '') || '.'
          FROM waiting w, last
         WHERE d.id = w.id AND w.id <> last.id AND w.event_type LIKE '%.updated'
        RETURNING w.next_attempt_at, w.attempt_count
    )
    UPDATE webhooks_delivery d
       SET next_attempt_at = first.at
      FROM last,
           (SELECT min(next_attempt_at) AS at FROM superseded WHERE attempt_count = 0) first
     WHERE d.id = last.id AND d.attempt_count = 0 AND first.at < d.next_attempt_at;
    RETURN NULL;
EXCEPTION WHEN serialization_failure THEN
    RETURN NULL;
END $$
"""
TRIGGER_SQL = """
CREATE CONSTRAINT TRIGGER webhooks_supersede AFTER INSERT ON webhooks_delivery
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.debounce_key IS NOT NULL) EXECUTE FUNCTION webhooks_supersede()
"""


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("webhooks", "0035_debounce")]

    operations = [
        migrations.RunSQL(
            # What a migration that was cut short left behind would serve nobody.
            [DROP_INDEX_SQL, INDEX_SQL],
            DROP_INDEX_SQL,
            state_operations=[
                migrations.AddIndex(
                    model_name="delivery",
                    index=models.Index(
                        fields=["webhook", "debounce_key"],
                        name="delivery_debounced",
                        condition=models.Q(finished_at=None, debounce_key__isnull=False),
                    ),
                )
            ],
        ),
        migrations.RunSQL(FUNCTION_SQL, "DROP FUNCTION IF EXISTS webhooks_supersede()"),
        migrations.RunSQL(
            f"DROP TRIGGER IF EXISTS webhooks_supersede ON webhooks_delivery; {TRIGGER_SQL}",
            "DROP TRIGGER IF EXISTS webhooks_supersede ON webhooks_delivery",
        ),
    ]
