from django.db import migrations, models

# Without a lock that a save could wait for. Each step can be run again: what was cut short leaves
# an index behind that is not valid. Whatever stores events names one of the two in its statement,
# so processes of the release before are to be restarted at once.
CREATE_SQL = """
CREATE UNIQUE INDEX CONCURRENTLY {name} ON webhooks_event ({columns}) NULLS NOT DISTINCT
 WHERE idempotency_key IS NOT NULL
"""
OLD = "event_idempotency", "owner_id, idempotency_key"
NEW = "event_idempotency_by_source", "owner_id, idempotency_key, is_self_reported"


def create(name: str, columns: str) -> tuple[str, str]:
    return drop(name), CREATE_SQL.format(name=name, columns=columns)


def drop(name: str) -> str:
    return f"DROP INDEX CONCURRENTLY IF EXISTS {name}"


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("webhooks", "0004_self_reported_events")]

    operations = [
        migrations.RunSQL(
            create(*NEW),
            drop(NEW[0]),
            state_operations=[
                migrations.AddConstraint(
                    model_name="event",
                    constraint=models.UniqueConstraint(
                        condition=models.Q(("idempotency_key__isnull", False)),
                        fields=("owner_id", "idempotency_key", "is_self_reported"),
                        name="event_idempotency_by_source",
                        nulls_distinct=False,
                    ),
                )
            ],
        ),
        migrations.RunSQL(
            drop(OLD[0]),
            create(*OLD),
            state_operations=[
                migrations.RemoveConstraint(model_name="event", name="event_idempotency")
            ],
        ),
    ]
