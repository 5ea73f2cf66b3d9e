from django.db import migrations, models


def index(name, on):
    """Return statements that make an index beside all work, once more where that was cut short."""
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {name}"
    return [drop, f"CREATE INDEX CONCURRENTLY {name} ON {on}"], [drop]


OF_OBJECT = "finished_at IS NULL AND order_key IS NOT NULL AND object_key IS NOT NULL"
CONDITION = models.Q(
    ("finished_at", None), ("object_key__isnull", False), ("order_key__isnull", False)
)


class Migration(migrations.Migration):
    # Every step may be repeated, and holds no lock that anybody would notice.
    atomic = False

    dependencies = [("webhooks", "0028_order_per_object")]

    operations = [
        migrations.RunSQL(
            *index(
                "delivery_of_object",
                f"webhooks_delivery (webhook_id, object_key, epoch, object_sequence) WHERE {OF_OBJECT}",
            ),
            state_operations=[
                migrations.AddIndex(
                    model_name="delivery",
                    index=models.Index(
                        condition=CONDITION,
                        fields=["webhook", "object_key", "epoch", "object_sequence"],
                        name="delivery_of_object",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(
            *index(
                "delivery_due_by_object",
                f"webhooks_delivery (webhook_id, next_attempt_at) WHERE {OF_OBJECT}",
            ),
            state_operations=[
                migrations.AddIndex(
                    model_name="delivery",
                    index=models.Index(
                        condition=CONDITION,
                        fields=["webhook", "next_attempt_at"],
                        name="delivery_due_by_object",
                    ),
                ),
            ],
        ),
    ]
