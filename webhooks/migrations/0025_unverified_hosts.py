from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0024_proof_by_itself")]

    operations = [
        migrations.CreateModel(
            name="UnverifiedHost",
            fields=[
                ("host", models.CharField(max_length=255, primary_key=True, serialize=False)),
                (
                    "ready_at",
                    models.DateTimeField(
                        help_text="When its allowance is full again (webhooks/pace/rate.py)."
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["ready_at"], name="unverified_host_ready")],
            },
        ),
    ]
