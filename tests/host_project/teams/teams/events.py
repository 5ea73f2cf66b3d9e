from teams.models import Ticket
from webhooks.catalog import TEXT, EventType, object_schema, register
from webhooks.tracking import Change, Tracking, track

ID = {"type": "integer"}
register(
    *(
        EventType(
            f"ticket.{what}",
            f"A ticket was {what}.",
            object_schema({"id": ID, "title": TEXT}),
            {"id": 1, "title": "Leak"},
        )
        for what in ("created", "updated", "deleted")
    )
)


def change(what, ticket):
    return Change(f"ticket.{what}", ticket.team_id, {"id": ticket.pk, "title": ticket.title})


track(
    Ticket,
    Tracking(
        "ticket",
        fields=("team_id", "title"),
        created=lambda ticket: [change("created", ticket)],
        updated=lambda ticket, before: [change("updated", ticket)],
    ),
)
