from django.db import migrations, models

DROP_SQL = "DROP INDEX CONCURRENTLY IF EXISTS webhook_uid_of_owner"
CREATE_SQL = """
CREATE UNIQUE INDEX CONCURRENTLY webhook_uid_of_owner ON webhooks_webhook (owner_id, uid)
 WHERE deleted_at IS NULL AND uid IS NOT NULL
"""


class Migration(migrations.Migration):
    # Writers go on. A build that was interrupted leaves an invalid index, which the next run drops.
    atomic = False

    dependencies = [("webhooks", "0018_uid_and_metadata")]

    operations = [
        migrations.RunSQL(
            [DROP_SQL, CREATE_SQL],
            DROP_SQL,
            state_operations=[
                migrations.AddConstraint(
                    model_name="webhook",
                    constraint=models.UniqueConstraint(
                        condition=models.Q(("deleted_at", None), ("uid__isnull", False)),
                        fields=("owner", "uid"),
                        name="webhook_uid_of_owner",
                        violation_error_message="You have a webhook with this uid.",
                    ),
                )
            ],
        )
    ]
