"""Forget columns that nothing reads; they stay in their tables for processes of before."""

from django.db import migrations

DEFAULTS_SQL = """
ALTER TABLE webhooks_webhook ALTER COLUMN revision SET DEFAULT 1;
ALTER TABLE webhooks_workerheartbeat ALTER COLUMN version SET DEFAULT '';
"""
NO_DEFAULTS_SQL = """
ALTER TABLE webhooks_webhook ALTER COLUMN revision DROP DEFAULT;
ALTER TABLE webhooks_workerheartbeat ALTER COLUMN version DROP DEFAULT;
"""


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0015_no_payload_options")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(DEFAULTS_SQL, NO_DEFAULTS_SQL)],
            state_operations=[
                migrations.RemoveField("webhook", "revision"),
                migrations.RemoveField("workerheartbeat", "version"),
            ],
        ),
    ]
