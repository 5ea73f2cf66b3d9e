from django.db import migrations, models

from webhooks.choices import Order


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0027_roll_ups")]

    operations = [
        migrations.AddField(
            model_name="delivery",
            name="object_key",
            field=models.BigIntegerField(
                default=None, help_text="The hash of the event's object reference.", null=True
            ),
        ),
        migrations.AddField(
            model_name="delivery",
            name="object_sequence",
            field=models.BigIntegerField(
                default=None,
                help_text="The sequence of its event: within an epoch, the place among those of its object.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="webhook",
            name="order",
            field=models.CharField(
                choices=Order.choices,
                db_column="delivery_order",
                db_default="none",
                default="none",
                help_text=(
                    "none, all (one request at a time, in the order of the events), or object (the same"
                    " among the events of one object; different objects in parallel)."
                ),
                max_length=6,
            ),
        ),
        migrations.AlterField(
            model_name="webhook",
            name="ordered",
            field=models.BooleanField(default=False, editable=False),
        ),
        migrations.RunSQL(
            "UPDATE webhooks_webhook SET delivery_order = 'all'"
            " WHERE ordered AND delivery_order = 'none'",
            migrations.RunSQL.noop,
        ),
    ]
