from django.db import migrations, models


# Nullable and without a default of the database: no row is written, and the release before goes on.
class Migration(migrations.Migration):
    dependencies = [("webhooks", "0038_unchecked_numbers")]

    operations = [
        migrations.AddField(
            model_name="event",
            name="traceparent",
            field=models.CharField(default=None, help_text="The span that stored it, as W3C trace context.", max_length=55, null=True),
        ),
    ]
