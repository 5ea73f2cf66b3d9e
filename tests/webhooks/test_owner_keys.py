"""Ids of owners of each kind that WEBHOOKS_OWNER_KEY names."""

from uuid import UUID

import pytest

from webhooks.models import owner_keys

OWNER = UUID("01935710-5a3c-7d2e-9f10-3b6c8e2a4d71")


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        ("uuid", OWNER, OWNER),
        ("uuid", str(OWNER), OWNER),
        ("bigint", 7, 7),
        ("bigint", "7", 7),
        ("text", "team-7", "team-7"),
    ],
)
def test_an_id_or_its_text_is_read(
    kind: str, value: object, parsed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_keys, "SQL_TYPE", kind)

    assert owner_keys.parse_owner_key(value) == parsed


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uuid", "seven"),
        ("uuid", 7),
        ("bigint", "seven"),
        ("bigint", 2**63),
        ("bigint", None),
        ("text", ""),
        ("text", "a\0b"),
        ("text", None),
    ],
)
def test_anything_else_is_refused(
    kind: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_keys, "SQL_TYPE", kind)

    with pytest.raises(ValueError):  # noqa: PT011 (callers give the message)
        owner_keys.parse_owner_key(value)
