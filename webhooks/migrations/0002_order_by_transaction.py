from django.db import migrations, models

# Two transactions may take their ids and their numbers of the sequence in opposite orders; only the
# ids say which of them can still come to be seen.
REKEY_SQL = """
UPDATE webhooks_delivery d SET order_key = e.transaction_id::text::bigint
  FROM webhooks_event e
 WHERE e.id = d.event_id AND d.finished_at IS NULL AND d.order_key IS NOT NULL
"""
REKEY_BACK_SQL = """
UPDATE webhooks_delivery d SET order_key = e.sequence
  FROM webhooks_event e
 WHERE e.id = d.event_id AND d.finished_at IS NULL AND d.order_key IS NOT NULL
"""


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0001_initial")]

    operations = [
        migrations.RemoveIndex(model_name="delivery", name="delivery_ordered"),
        migrations.AlterField(
            model_name="delivery",
            name="order_key",
            field=models.BigIntegerField(
                default=None,
                help_text=(
                    "The transaction that stored it, where the webhook is ordered; null when"
                    " exempt. Within one transaction the ids are in order."
                ),
                null=True,
            ),
        ),
        migrations.RunSQL(REKEY_SQL, REKEY_BACK_SQL),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("finished_at", None), ("order_key__isnull", False)),
                fields=["webhook", "order_key", "id"],
                name="delivery_ordered",
            ),
        ),
    ]
