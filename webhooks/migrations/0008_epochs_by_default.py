from django.db import migrations, models

import webhooks.models.fields


class Migration(migrations.Migration):
    """For whoever does not name the column: code of before, as long as a deployment takes.

    Only now, since without its index the function would read all events.
    """

    dependencies = [("webhooks", "0007_epochs_in_order")]

    operations = [
        migrations.AlterField(
            model_name="event",
            name="epoch",
            field=models.BigIntegerField(
                db_default=webhooks.models.fields.CurrentEpoch(),
                help_text="Whose transaction id it is: see Epoch.",
            ),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="epoch",
            field=models.BigIntegerField(
                db_default=webhooks.models.fields.CurrentEpoch(),
                help_text=(
                    "Whose transaction the order key is: see Epoch. It says nothing where there is"
                    " no order key."
                ),
                null=True,
            ),
        ),
    ]
