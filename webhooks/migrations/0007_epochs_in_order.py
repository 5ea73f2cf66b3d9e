from django.db import migrations, models


def index(name, on):
    """Return statements that make an index beside all work, once more where that was cut short."""
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {name}"
    return [drop, f"CREATE INDEX CONCURRENTLY {name} ON {on}"], [drop]


RECORD_SQL = """
INSERT INTO webhooks_epoch (number, cluster)
SELECT webhooks_examine_epoch(), webhooks_cluster() ON CONFLICT DO NOTHING
"""
UNFINISHED = "WHERE finished_at IS NULL AND order_key IS NOT NULL"


class Migration(migrations.Migration):
    # Every step may be repeated, and holds no lock that anybody would notice.
    atomic = False

    dependencies = [("webhooks", "0006_epochs")]

    operations = [
        migrations.RunSQL(
            *index("event_epoch_order", "webhooks_event (epoch, transaction_id, sequence)"),
            state_operations=[
                migrations.AddIndex(
                    model_name="event",
                    index=models.Index(
                        fields=["epoch", "transaction_id", "sequence"], name="event_epoch_order"
                    ),
                ),
            ],
        ),
        migrations.RunSQL(
            *index(
                "delivery_epoch_order",
                f"webhooks_delivery (webhook_id, epoch, order_key, id) {UNFINISHED}",
            ),
            state_operations=[
                migrations.AddIndex(
                    model_name="delivery",
                    index=models.Index(
                        condition=models.Q(("finished_at", None), ("order_key__isnull", False)),
                        fields=["webhook", "epoch", "order_key", "id"],
                        name="delivery_epoch_order",
                    ),
                ),
            ],
        ),
        # A record makes webhooks_current_epoch() quick.
        migrations.RunSQL(RECORD_SQL, migrations.RunSQL.noop),
        migrations.RunSQL(
            *reversed(index("event_order", "webhooks_event (transaction_id, sequence)")),
            state_operations=[migrations.RemoveIndex(model_name="event", name="event_order")],
        ),
        migrations.RunSQL(
            *reversed(
                index("delivery_ordered", f"webhooks_delivery (webhook_id, order_key, id) {UNFINISHED}")
            ),
            state_operations=[migrations.RemoveIndex(model_name="delivery", name="delivery_ordered")],
        ),
    ]
