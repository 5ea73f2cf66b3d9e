from django.db import migrations, models


def index(name, on):
    """Return statements that make an index beside all work, once more where that was cut short."""
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {name}"
    return [drop, f"CREATE INDEX CONCURRENTLY {name} ON {on}"], [drop]


DUE = "webhooks_delivery (owner_id, webhook_id, next_attempt_at) WHERE finished_at IS NULL"


class Migration(migrations.Migration):
    # Every step may be repeated, and holds no lock that anybody would notice.
    atomic = False

    dependencies = [("webhooks", "0010_suspects_by_level")]

    operations = [
        migrations.RunSQL(
            *index(
                "delivery_recent",
                "webhooks_delivery (next_attempt_at) WHERE finished_at IS NULL AND NOT is_suspect",
            ),
            state_operations=[
                migrations.AddIndex(
                    model_name="delivery",
                    index=models.Index(
                        condition=models.Q(("finished_at", None), ("is_suspect", False)),
                        fields=["next_attempt_at"],
                        name="delivery_recent",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(
            *index("delivery_due_unordered", f"{DUE} AND order_key IS NULL"),
            state_operations=[
                migrations.AddIndex(
                    model_name="delivery",
                    index=models.Index(
                        condition=models.Q(("finished_at", None), ("order_key", None)),
                        fields=["owner_id", "webhook", "next_attempt_at"],
                        name="delivery_due_unordered",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(
            *index(
                "webhook_resumed",
                "webhooks_webhook (breaker_changed_at) WHERE breaker_changed_at IS NOT NULL",
            ),
            state_operations=[
                migrations.AddIndex(
                    model_name="webhook",
                    index=models.Index(
                        condition=models.Q(("breaker_changed_at__isnull", False)),
                        fields=["breaker_changed_at"],
                        name="webhook_resumed",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(
            *reversed(index("delivery_due", DUE)),
            state_operations=[migrations.RemoveIndex(model_name="delivery", name="delivery_due")],
        ),
        # An index that names the status would make every claim touch every index.
        migrations.RunSQL(
            *index(
                "delivery_of_redelivery",
                "webhooks_delivery (redelivery_id) WHERE redelivery_id IS NOT NULL",
            ),
            state_operations=[
                migrations.AddIndex(
                    model_name="delivery",
                    index=models.Index(
                        condition=models.Q(("redelivery__isnull", False)),
                        fields=["redelivery"],
                        name="delivery_of_redelivery",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(
            *reversed(
                index(
                    "delivery_redelivery",
                    "webhooks_delivery (redelivery_id, status) WHERE redelivery_id IS NOT NULL",
                )
            ),
            state_operations=[
                migrations.RemoveIndex(model_name="delivery", name="delivery_redelivery")
            ],
        ),
    ]
