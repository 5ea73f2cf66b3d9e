"""Forget a column that nothing reads; it stays in its table for processes of before."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0016_attempt_phases")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    "ALTER TABLE webhooks_workerheartbeat ALTER COLUMN version SET DEFAULT ''",
                    "ALTER TABLE webhooks_workerheartbeat ALTER COLUMN version DROP DEFAULT",
                )
            ],
            state_operations=[migrations.RemoveField("workerheartbeat", "version")],
        ),
    ]
