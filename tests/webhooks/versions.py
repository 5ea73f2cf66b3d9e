"""An event type with dated versions, declared while a test runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

from webhooks import catalog
from webhooks.catalog import FIRST_VERSION, TEXT, EventType, OlderVersion, object_schema

NAME = "parcel.updated"
SECOND, THIRD = date(2026, 6, 1), date(2026, 11, 1)
NUMBER = {"type": "number"}


def to_second(data: dict[str, Any]) -> dict[str, Any]:
    """Undo the third version's grouping of the sizes."""
    size = data.pop("size")
    return {**data, "weight": size["weight"], "height": size["height"]}


def to_first(data: dict[str, Any]) -> dict[str, Any]:
    """Undo the second version's new name of the place, and leave out the height."""
    del data["height"]
    return {"place" if name == "location" else name: value for name, value in data.items()}


PARCEL = EventType(
    name=NAME,
    description="A parcel has moved.",
    schema=object_schema(
        {"id": TEXT, "location": TEXT, "size": object_schema({"weight": NUMBER, "height": NUMBER})}
    ),
    example={"id": "par_1", "location": 'Zoë’s "desk" 🚀', "size": {"weight": 1.5, "height": 2}},
    version=THIRD,
    older=(
        OlderVersion(
            SECOND,
            object_schema({"id": TEXT, "location": TEXT, "weight": NUMBER, "height": NUMBER}),
            to_second,
        ),
        OlderVersion(
            FIRST_VERSION,
            object_schema({"id": TEXT, "place": TEXT, "weight": NUMBER}),
            to_first,
            deprecated=date(2026, 11, 20),
        ),
    ),
)


@contextmanager
def parcels() -> Iterator[EventType]:
    """Have the type in the catalogue."""
    catalog.register(PARCEL)
    try:
        yield PARCEL
    finally:
        del catalog._types[NAME]
        catalog._validators.pop(NAME, None)
