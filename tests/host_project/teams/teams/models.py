import uuid

from django.conf import settings
from django.db import models

from webhooks.tracking import TrackedModel, tracked


def key_field():
    """A primary key of the kind that the settings name."""
    if settings.KEY == "bigint":
        return models.BigAutoField(primary_key=True)
    if settings.KEY == "uuid":
        return models.UUIDField(primary_key=True, default=uuid.uuid4)
    return models.CharField(primary_key=True, max_length=40)


class Team(models.Model):
    """Who owns webhooks; not tracked, and without a column is_active."""

    id = key_field()
    name = models.CharField(max_length=100, unique=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL)

    class Meta:
        db_table = "select"  # a name that must be quoted

    def __str__(self):
        return self.name


@tracked(
    owner="team",
    fields=["title"],
    events=["created", "updated"],
    transitions={"closed": ("is_done", True)},
)
class Ticket(TrackedModel):
    team = models.ForeignKey(Team, on_delete=models.CASCADE)
    title = models.CharField(max_length=100)
    is_done = models.BooleanField(default=False)


@tracked(
    owner="ticket__team",
    fields=[
        "ticket", "text", "count", "price", "share", "is_public", "key", "day", "moment", "facts", "kind",
    ],
)  # fmt: skip
class Note(TrackedModel):
    """A field of each kind that has a JSON form; its owner is that of its ticket."""

    ticket = models.ForeignKey(Ticket, on_delete=models.PROTECT)
    text = models.TextField()
    count = models.PositiveSmallIntegerField(default=3)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    share = models.FloatField(null=True)
    is_public = models.BooleanField(default=False)
    key = models.UUIDField(default=uuid.uuid4)
    day = models.DateField(auto_now_add=True)
    moment = models.DateTimeField(auto_now_add=True)
    facts = models.JSONField(default=dict)
    kind = models.CharField(max_length=5, choices=[("plain", "Plain"), ("quote", "Quote")])
