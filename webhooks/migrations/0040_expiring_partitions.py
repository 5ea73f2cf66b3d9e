from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0039_traceparent")]

    operations = [
        migrations.CreateModel(
            name="ExpiringPartition",
            fields=[
                (
                    "name",
                    models.CharField(
                        help_text="The table's name.",
                        max_length=63,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("first_id", models.UUIDField()),
                ("end_id", models.UUIDField()),
                (
                    "by_rows",
                    models.BooleanField(
                        db_default=False,
                        help_text=(
                            "It keeps so many attempts that the others are deleted one by one."
                        ),
                    ),
                ),
            ],
        ),
    ]
