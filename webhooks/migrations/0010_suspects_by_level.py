from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('webhooks', '0009_schedule_of_chores'),
    ]

    operations = [
        migrations.AddField(
            model_name='delivery',
            name='suspect_level',
            field=models.SmallIntegerField(db_default=0, help_text='The higher, the fewer other suspects go out with it.'),
        ),
        migrations.AddField(
            model_name='workerheartbeat',
            name='declared_dead_at',
            field=models.DateTimeField(help_text='From then on it claims nothing, and what it held is taken back.', null=True),
        ),
        migrations.AddField(
            model_name='workerheartbeat',
            name='ended_in_order',
            field=models.BooleanField(db_default=False, help_text='The worker ended cleanly; its deliveries are not suspects.'),
        ),
        migrations.AlterField(
            model_name='delivery',
            name='crash_count',
            field=models.PositiveSmallIntegerField(default=0, help_text='How often its worker died while it was alone there.'),
        ),
        migrations.AlterField(
            model_name='delivery',
            name='is_suspect',
            field=models.BooleanField(default=False, help_text='Was in flight when its worker died; goes out apart next time.'),
        ),
    ]
