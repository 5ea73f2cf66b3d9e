"""The OpenAPI description: common parts of all operations, and the requests to receivers."""

from collections.abc import Iterator
from datetime import date
from typing import Any, cast

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import get_doc

from webhooks import catalog
from webhooks.api.authentication import PASSWORD_SCHEME, PasswordAuthentication
from webhooks.api.names import camel_case, pascal_case
from webhooks.api.problems import CONTENT_TYPE, TITLES, TYPE_PREFIX
from webhooks.api.serializers import id_pattern
from webhooks.catalog import EventType
from webhooks.models.sending import MOST_EVENTS

METHODS = ("get", "post", "put", "patch", "delete")

PROBLEM = {
    "type": "object",
    "description": "RFC 9457; `errors` lists the problems and their places.",
    "required": ["type", "title", "status", "detail", "instance", "requestId"],
    "properties": {
        "type": {
            "type": "string",
            "enum": [TYPE_PREFIX + code.replace("_", "-") for code in TITLES],
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "The problem and its remedy."},
        "instance": {"type": "string"},
        "requestId": {"type": "string", "description": "Name it when you ask for help."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body."},
                    "parameter": {"type": "string", "description": "Of the query string."},
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}

HEADERS = {
    "X-Request-ID": ("Of this request; a valid one that you send is kept.", {"type": "string"}),
    "RateLimit": ('The remaining requests: `"token";r=1199;t=42`.', {"type": "string"}),
    "RateLimit-Policy": ('The limits: `"token";q=1200;w=60`.', {"type": "string"}),
}
"""Headers of every response to a valid token."""

REFUSALS = {
    "400": "The request is not valid.",
    "401": "A valid token is needed.",
    "403": "The token does not allow this.",
    "404": "There is no such object, or another user owns it.",
    "406": "The answer is JSON only.",
    "409": "The present state does not allow this, or the idempotency key is taken.",
    "411": "The body has no Content-Length.",
    "413": "The body takes more than 1 MB.",
    "415": "The body is not JSON.",
    "429": "Too many requests; wait as long as Retry-After says.",
    "500": "Our mistake.",
    "503": "There is too much to answer this in time, or the database does not answer; nothing is done.",
}
WITH_BODY = frozenset({"411", "413", "415"})

SENT_WITH_SINGLE_EVENTS = ("X-Webhook-Event", "X-Webhook-Delivery", "X-Webhook-Attempt")
SENT_HEADERS = {
    "webhook-id": "The event's id, the same on every attempt; use it to drop duplicates.",
    "webhook-timestamp": "Time of this attempt in Unix seconds.",
    "webhook-signature": "Standard Webhooks: `v1,<base64>` for each live secret, space-separated.",
    "X-Webhook-Signature": "Hex HMAC-SHA256 of `timestamp.body` with the text of the newest secret.",
    "X-Webhook-Timestamp": "The same as webhook-timestamp.",
    "X-Webhook-ID": "The same as webhook-id.",
    "X-Webhook-Event": "The event's type.",
    "X-Webhook-Delivery": "The delivery's id.",
    "X-Webhook-Attempt": "The number of this attempt, from 1.",
    "User-Agent": "`RemoteDevAI-Webhooks/1.0`",
}
HEADERS_OF_BATCHES = {
    **{name: text for name, text in SENT_HEADERS.items() if name not in SENT_WITH_SINGLE_EVENTS},
    "webhook-id": "`bat_` and a hash of the events' ids; drop duplicates by the id of each event.",
    "X-Webhook-Batch": "The number of events in the list.",
}
BATCH = "batch"
"""The name of the request with many events, among those of the event types."""
GONE = {"410": {"description": "Gone: the webhook is disabled."}}
HEADERS_OF_OBJECTS = {
    "X-Webhook-Object": "With order per object: the event's object, percent-encoded.",
    "X-Webhook-Sequence": "With it: an integer that grows from event to event of the object.",
}


class ApiSchema(AutoSchema):
    """Adds to each operation the scope that it needs, and to paths the form of their ids."""

    def get_description(self) -> str:  # type: ignore[override]  # as drf-spectacular has it
        if not hasattr(self.view, "required_scopes"):
            # A project may describe views of its own with this class.
            return super().get_description()
        # The action's own docstring: that of its class is for us, not for clients.
        action = getattr(self.view, getattr(self.view, "action", None) or self.method.lower())
        description: str = get_doc(action)
        if any(isinstance(one, PasswordAuthentication) for one in self.view.get_authenticators()):
            needs = "Takes a user name and a password instead of a token."
        else:
            scopes = cast(Any, self.view).required_scopes()
            word = "scope" if len(scopes) == 1 else "scopes"
            needs = f"Needs the {word} {' and '.join(f'`{scope}`' for scope in scopes)}."
        return f"{description} {needs}".strip()

    def get_operation_id(self) -> str:
        """Return `listWebhooks`, `getWebhook`, `pauseSession`; extend_schema() may say otherwise."""
        action = getattr(self.view, "action", None) or self.method.lower()
        one = pascal_case(getattr(self.view, "basename", None) or self.path)
        if action == "list":
            return "list" + pascal_case(self.path.rpartition("/")[2])
        return camel_case(VERBS.get(action, action)) + one

    def get_paginated_name(self, serializer_name: str) -> str:
        return f"{serializer_name}Page"

    def _get_serializer_name(self, serializer: Any, direction: Any, *args: Any) -> str:
        """Name the body of a change `WebhookChanges`, and any other `WebhookInput`."""
        name: str = super()._get_serializer_name(serializer, direction, *args)
        if direction != "request":
            return name
        name = name.removesuffix("Request")
        is_change = name.startswith("Patched")
        return f"{name.removeprefix('Patched')}{'Changes' if is_change else 'Input'}"

    def _resolve_path_parameters(self, variables: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super()._resolve_path_parameters(variables)  # type: ignore[no-untyped-call]
        prefix = getattr(self.view, "id_prefix", None)
        for parameter in parameters:
            if parameter["name"] == "id":
                form = {"format": "uuid"} if prefix is None else {"pattern": id_pattern(prefix)}
                parameter["schema"] = {"type": "string", **form}
                parameter.pop("description", None)
        return parameters


VERBS = {"retrieve": "get", "partial_update": "update", "destroy": "delete"}
"""What actions of the framework are called in operationIds."""


class PublicIdExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    target_class = "webhooks.api.serializers.PublicIdField"

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": id_pattern(self.target.prefix)}


def describe_conventions(
    result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """Add problems, headers, Idempotency-Key and the refusal of unknown fields to each operation."""
    components = result["components"]
    components["schemas"]["Problem"] = PROBLEM
    components["headers"] = {
        name: {"description": text, "schema": schema} for name, (text, schema) in HEADERS.items()
    }
    components["responses"] = {
        f"Problem{status}": _refusal(text) for status, text in REFUSALS.items()
    }
    components["responses"]["Problem412"] = _refusal("It has been changed since.")
    components["headers"] |= {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in (
            ("Location", "The path of what was made."),
            ("ETag", "Of its settings; for If-Match."),
        )
    }
    components["parameters"] = {"IdempotencyKey": IDEMPOTENCY_KEY, "IfMatch": IF_MATCH}
    for name, schema in components["schemas"].items():
        if name.endswith(("Input", "Changes")):
            schema.setdefault("additionalProperties", False)
        if name.endswith("Changes"):
            _leave_out_defaults(schema)
        for value in schema.get("properties", {}).values():
            _make_one_text(value)
    components["securitySchemes"]["password"] = PASSWORD_SCHEME
    for path, method, operation in _operations(result):
        _describe_operation(path, method, operation)
    return result


def _leave_out_defaults(schema: dict[str, Any]) -> None:
    """A change sets what it names and nothing else: generated clients would send the defaults."""
    schema.pop("required", None)
    for value in schema["properties"].values():
        value.pop("default", None)


def _make_one_text(schema: dict[str, Any]) -> None:
    """A URL or an empty text is a text; generators of clients would make two types of it."""
    either = schema.get("oneOf", [])
    if either and all(one.get("type") == "string" for one in either):
        del schema["oneOf"]
        schema |= {"type": "string", "maxLength": max(one["maxLength"] for one in either)}


IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of the webhook as you know it: 412 where its settings have changed since.",
    "schema": {"type": "string"},
}

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and request again within 24 hours gives the first answer, marked"
    " `Idempotency-Replayed: true`, and has no further effect.",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
}


def _operations(result: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in result["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def _describe_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
    for answer in operation["responses"].values():
        answer["headers"] = dict(headers)
    if method == "post" and "{" not in path and "201" in operation["responses"]:
        made = operation["responses"]["201"]["headers"]
        made["Location"] = {"$ref": "#/components/headers/Location"}
    if "/webhooks" in path:
        _describe_etag(method, operation)
    if method == "post":
        reference = {"$ref": "#/components/parameters/IdempotencyKey"}
        operation["parameters"] = [*operation.get("parameters", []), reference]
    for status in REFUSALS:
        if status in WITH_BODY and method not in ("post", "put", "patch"):
            continue
        if status == "409" and method == "get":
            continue
        if (status == "404" and "{" not in path) or (status == "406" and method == "delete"):
            continue
        operation["responses"][status] = {"$ref": f"#/components/responses/Problem{status}"}


def _describe_etag(method: str, operation: dict[str, Any]) -> None:
    shown = (
        answer
        for answer in operation["responses"].values()
        if "content" in answer
        and "/Webhook" in str(answer["content"])
        and "Page" not in str(answer)
    )
    for answer in shown:
        answer["headers"]["ETag"] = {"$ref": "#/components/headers/ETag"}
    if method in ("patch", "delete"):
        reference = {"$ref": "#/components/parameters/IfMatch"}
        operation["parameters"] = [*operation.get("parameters", []), reference]
        operation["responses"]["412"] = {"$ref": "#/components/responses/Problem412"}


def _refusal(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def describe_webhooks(
    result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """Add the requests that we send: one for each event type of the catalogue, and the batch."""
    result["webhooks"] = {one.name: {"post": _sent(one)} for one in catalog.all_types()} | {
        BATCH: {"post": _sent_batch()}
    }
    return result


def name_enums_once(
    result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """Refer to the component of an enum wherever the same values are listed once more."""
    schemas = result["components"]["schemas"]
    names = {
        frozenset(schema["enum"]): name for name, schema in schemas.items() if "enum" in schema
    }
    for name, schema in schemas.items():
        if "enum" not in schema:
            schemas[name] = _refer(schema, names)
    # Not in `webhooks`: the schema of an event stands by itself.
    result["paths"] = _refer(result["paths"], names)
    return result


def _refer(part: Any, names: dict[frozenset[str], str]) -> Any:
    if isinstance(part, list):
        return [_refer(one, names) for one in part]
    if not isinstance(part, dict):
        return part
    values = part.get("enum")
    if isinstance(values, list) and frozenset(values) in names:
        reference = {"$ref": f"#/components/schemas/{names[frozenset(values)]}"}
        return reference | {k: v for k, v in part.items() if k not in ("enum", "type")}
    return {name: _refer(one, names) for name, one in part.items()}


def _envelope(event_type: EventType, version: date) -> dict[str, Any]:
    """Return the schema of the standard form, of webhooks that pin a version."""
    declared = event_type.schema_at(version)
    data = {key: value for key, value in declared.items() if key != "$schema"}
    title = {"title": f"Version {version}"} if event_type.older else {}
    return title | _event({"type": "string", "const": event_type.name}, data)


def _event(type_schema: dict[str, Any], data_schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "type", "created", "data"],
        "properties": {
            "id": {"type": "string", "pattern": id_pattern("evt_")},
            "type": type_schema,
            "created": {"type": "string", "format": "date-time"},
            "data": data_schema,
        },
    }


def _sent(event_type: EventType) -> dict[str, Any]:
    schema = _envelope(event_type, event_type.version)
    if event_type.older:
        shapes = [_envelope(event_type, version) for version in event_type.versions]
        schema = {"oneOf": shapes}
    example = {
        "id": "evt_0193570e2c7a7bcd8f0a1b2c3d4e5f60",
        "type": event_type.name,
        "created": "2026-11-23T10:30:00.123Z",
        "data": dict(event_type.example),
    }
    content = {"application/json": {"schema": schema, "example": example}}
    return {
        "operationId": camel_case("on_" + event_type.name.replace(".", "_")),
        "summary": event_type.description,
        "tags": ["sent-to-receivers"],
        "parameters": [
            *_header_parameters(SENT_HEADERS),
            *_header_parameters(HEADERS_OF_OBJECTS, required=False),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {"2XX": {"description": "Received; anything else is tried again."}, **GONE},
        "security": [],
    }


def _sent_batch() -> dict[str, Any]:
    event = _event({"type": "string"}, {"type": "object"})
    schema = {"type": "array", "minItems": 1, "maxItems": MOST_EVENTS, "items": event}
    statuses = {"type": "array", "items": {"type": "integer", "minimum": 100, "maximum": 599}}
    return {
        "operationId": "onBatch",
        "summary": "Events of a webhook with `batchEvents` above 1, in one list",
        "description": "Each event is as in the request of its type.",
        "tags": ["sent-to-receivers"],
        "parameters": _header_parameters(HEADERS_OF_BATCHES),
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "2XX": {
                "description": "Received; anything else is tried again. A list of as many statuses "
                "takes some events and not others.",
                "content": {"application/json": {"schema": statuses}},
            },
            **GONE,
        },
        "security": [],
    }


def _header_parameters(headers: dict[str, str], *, required: bool = True) -> list[dict[str, Any]]:
    place, text = {"in": "header", "required": required}, {"type": "string"}
    return [
        {"name": name, **place, "description": meaning, "schema": text}
        for name, meaning in headers.items()
    ]
