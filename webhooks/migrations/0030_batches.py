import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0029_indexes_of_objects")]

    operations = [
        migrations.AddField(
            model_name="webhook",
            name="batch_events",
            field=models.PositiveSmallIntegerField(
                db_default=1,
                default=1,
                help_text="Most events of one request, 1 to 1,000; 1 for a request per event, not in a list.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(1000),
                ],
            ),
        ),
        migrations.AddField(
            model_name="webhook",
            name="batch_bytes",
            field=models.PositiveIntegerField(
                db_default=1_000_000,
                default=1_000_000,
                help_text="Most bytes of the events of one request; one event may be larger.",
                validators=[
                    django.core.validators.MinValueValidator(1000),
                    django.core.validators.MaxValueValidator(4_000_000),
                ],
            ),
        ),
        migrations.AddField(
            model_name="webhook",
            name="batch_milliseconds",
            field=models.PositiveSmallIntegerField(
                db_default=0,
                default=0,
                help_text="How long an event may wait for others of its request, 0 to 5,000.",
                validators=[django.core.validators.MaxValueValidator(5000)],
            ),
        ),
    ]
