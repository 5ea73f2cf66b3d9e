import uuid

from django.conf import settings
from django.db import models

from webhooks.tracking import TrackedModel


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


class Ticket(TrackedModel):
    team = models.ForeignKey(Team, on_delete=models.CASCADE)
    title = models.CharField(max_length=100)
    is_done = models.BooleanField(default=False)
