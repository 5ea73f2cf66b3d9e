"""The exchange of a partition looks for attempts by the deliveries that are left, whatever the statistics.

Those still count the deliveries that the purge has just deleted. With about one attempt to a delivery
the plan went through all attempts of the day, which took longer than the exchange may.
"""

from importlib import import_module

from django.db import migrations

BEFORE = import_module("webhooks.migrations.0041_attempt_partitions")

JOIN = """SELECT a.* FROM webhooks_delivery d JOIN %I a'
                   ' ON a.delivery_id = d.id WHERE"""
# OFFSET 0 keeps the order of the two.
BY_DELIVERY = """SELECT a.* FROM webhooks_delivery d CROSS JOIN LATERAL'
                   ' (SELECT * FROM %I a WHERE a.delivery_id = d.id OFFSET 0) a WHERE"""


def replace(schema_editor, sql):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_schema())")
        cursor.execute(sql.format(schema=cursor.fetchone()[0], most=BEFORE.MOST))


def by_delivery(apps, schema_editor):
    replace(schema_editor, BEFORE.REPLACE_SQL.replace(JOIN, BY_DELIVERY))


def as_before(apps, schema_editor):
    replace(schema_editor, BEFORE.REPLACE_SQL)


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0041_attempt_partitions")]

    operations = [migrations.RunPython(by_delivery, as_before)]
