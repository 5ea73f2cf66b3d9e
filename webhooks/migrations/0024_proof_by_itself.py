from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0023_forms")]

    operations = [
        migrations.AddField(
            model_name="webhook",
            name="proof_due_at",
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name="webhook",
            name="proof_failures",
            field=models.PositiveSmallIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddField(
            model_name="webhook",
            name="proof_error",
            field=models.CharField(blank=True, db_default="", default="", editable=False, max_length=500),
        ),
    ]
