from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0013_scope_help")]

    operations = [
        migrations.AlterModelOptions(
            name="event",
            options={
                "permissions": [
                    ("view_payload", "Can read what is sent and what is answered"),
                    ("trigger_for_others", "Can trigger events of every owner, with service tokens"),
                ]
            },
        ),
    ]
