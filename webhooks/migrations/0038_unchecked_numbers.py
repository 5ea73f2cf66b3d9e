from django.db import migrations, models


# Django's checks that these numbers are not negative: Postgres reads and prepares each anew in every
# statement that writes a row, and only our own statements do.
class Migration(migrations.Migration):
    dependencies = [("webhooks", "0037_proofs_due")]

    operations = [
        migrations.AlterField(
            model_name="attempt",
            name="duration_ms",
            field=models.IntegerField(),
        ),
        migrations.AlterField(
            model_name="attempt",
            name="number",
            field=models.IntegerField(),
        ),
        migrations.AlterField(
            model_name="attempt",
            name="response_code",
            field=models.SmallIntegerField(null=True),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="attempt_count",
            field=models.IntegerField(default=0),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="attempts_before_round",
            field=models.IntegerField(default=0, help_text="Attempts before this round, which do not count against its retry budget."),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="crash_count",
            field=models.SmallIntegerField(default=0, help_text="Crashes of workers that were sending only this delivery."),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="response_code",
            field=models.SmallIntegerField(null=True),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="round",
            field=models.SmallIntegerField(default=1),
        ),
        migrations.AlterField(
            model_name="event",
            name="fanout_count",
            field=models.IntegerField(default=0),
        ),
    ]
