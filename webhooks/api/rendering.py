"""`/events/{id}/rendered`: an event as a webhook with other settings would get it."""

from collections.abc import Mapping
from datetime import date
from hashlib import sha256
from typing import Any

from django.core.exceptions import ValidationError
from rest_framework import serializers

from webhooks import catalog, service
from webhooks.api.base import ApiSerializer, ParametersInvalidError
from webhooks.api.names import camel_case
from webhooks.api.serializers import DayField
from webhooks.choices import Form
from webhooks.models import Event
from webhooks.models.data_fields import MAX_FIELDS

MAX_VERSIONS = 10


class RenderedVersionSerializer(ApiSerializer):
    """What a request would hold."""

    version = DayField(help_text="Of the data.")
    content_type = serializers.CharField()
    headers = serializers.ListField(
        child=serializers.CharField(), help_text="What the form adds to those of every request."
    )
    body = serializers.CharField(help_text="Empty after the payload was erased.")
    body_sha256 = serializers.CharField()


class RenderedSerializer(ApiSerializer):
    """An event as webhooks would get it."""

    form = serializers.ChoiceField(choices=Form.choices)
    versions = RenderedVersionSerializer(many=True)


def rendered_as(event: Event, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return an event in the form and the versions that the query asks for."""
    fields = asked["dataFields"].split(",", MAX_FIELDS + 1) if "dataFields" in asked else None
    form = asked.get("form", Form.STANDARD)
    versions = [_rendered(event, form, fields, version) for version in _versions(event, asked)]
    return {"form": form, "versions": versions}


def _versions(event: Event, asked: Mapping[str, str]) -> list[date]:
    newest = event.version or catalog.FIRST_VERSION
    if "version" not in asked:
        declared = catalog.get_type(event.type).versions if _is_known(event) else [newest]
        return [one for one in declared if one <= newest] or [newest]
    texts = asked["version"].split(",", MAX_VERSIONS)
    try:
        return [date.fromisoformat(text) for text in texts[:MAX_VERSIONS]]
    except ValueError:
        raise ParametersInvalidError({"version": ["This is a date such as 2026-01-01."]}) from None


def _is_known(event: Event) -> bool:
    return event.type in catalog.WEBHOOK_EVENTS


def _rendered(event: Event, form: str, fields: list[str] | None, version: date) -> dict[str, Any]:
    try:
        rendered = service.render_event(event, form=form, data_fields=fields, version=version)
    except ValidationError as problem:
        raise ParametersInvalidError(
            {camel_case(name): texts for name, texts in problem.message_dict.items()}
        ) from None
    return {
        "version": version,
        "content_type": rendered.content_type.decode(),
        "headers": [line.decode() for line in rendered.header_lines],
        "body": rendered.body.decode(),
        "body_sha256": sha256(rendered.body).hexdigest(),
    }
