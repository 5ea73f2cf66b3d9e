"""Forget a column that nothing reads; it stays in the table for processes of before."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import migrations, models

DEFAULT_SQL = "ALTER TABLE webhooks_webhook ALTER COLUMN payload_options SET DEFAULT '{}'"
NO_DEFAULT_SQL = "ALTER TABLE webhooks_webhook ALTER COLUMN payload_options DROP DEFAULT"


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0014_trigger_for_others")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(DEFAULT_SQL, NO_DEFAULT_SQL)],
            state_operations=[migrations.RemoveField("webhook", "payload_options")],
        ),
        migrations.AlterField(
            "webhook",
            "timeout_seconds",
            models.PositiveSmallIntegerField(
                default=15,
                help_text="Seconds that one attempt may take.",
                validators=[MinValueValidator(1), MaxValueValidator(30)],
            ),
        ),
    ]
