from django.db import migrations, models
from django.db.models import Q

DROP_SQL = "DROP INDEX CONCURRENTLY IF EXISTS webhook_proof"
CREATE_SQL = """
CREATE INDEX CONCURRENTLY webhook_proof ON webhooks_webhook (proof_due_at)
 WHERE deleted_at IS NULL AND proof_due_at IS NOT NULL
"""


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("webhooks", "0036_supersede")]

    operations = [
        migrations.RunSQL(
            # What a migration that was cut short left behind would serve nobody.
            [DROP_SQL, CREATE_SQL],
            DROP_SQL,
            state_operations=[
                migrations.AddIndex(
                    model_name="webhook",
                    index=models.Index(
                        condition=Q(("deleted_at", None), ("proof_due_at__isnull", False)),
                        fields=["proof_due_at"],
                        name="webhook_proof",
                    ),
                )
            ],
        ),
    ]
