"""Events in other forms and versions than they were sent in, and who pins which version."""

from collections.abc import Sequence
from datetime import date

from django.core.exceptions import ValidationError

from webhooks import catalog
from webhooks.choices import Form
from webhooks.models import Event, Webhook
from webhooks.wire.forms import Rendered


def render_event(
    event: Event,
    *,
    form: str = Form.STANDARD,
    data_fields: Sequence[str] | None = None,
    version: date | None = None,
) -> Rendered:
    """Return what a webhook with these settings would get of a stored event.

    `version` is the newest one by default; data is never newer than it was stored. Empty once the
    payload was erased. Raises ValidationError for settings that no webhook can have. No statement.
    """
    if form not in Form.values:
        raise ValidationError(
            {"form": f"There is no such form; there are {', '.join(Form.values)}."}
        )
    wanted = Webhook(
        events=[event.type],
        form=form,
        data_fields=None if data_fields is None else list(data_fields),
        version=version or catalog.current_version(),
    )
    if problems := wanted.clean_selection():
        raise ValidationError(problems)
    return wanted.rendered(event)


def webhooks_pinning(event_type: str, version: date) -> list[Webhook]:
    """Return the webhooks that get this type in this version, in the order of their ids.

    Raises EventTypeUnknownError.
    """
    declared = catalog.get_type(event_type)
    webhooks = Webhook.objects.filter(deleted_at=None).order_by("id")
    return [
        one
        for one in webhooks.only("id", "name", "owner_id", "events", "version")
        if one.receives(event_type) and declared.version_at(one.version) == version
    ]
