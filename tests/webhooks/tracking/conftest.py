"""Models and declarations that last for one test."""

import pytest

from webhooks import catalog
from webhooks.tracking import declaration, writes


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after the test which event types and models it has declared."""
    monkeypatch.setattr(catalog, "_types", dict(catalog._types))
    monkeypatch.setattr(catalog, "_validators", dict(catalog._validators))
    monkeypatch.setattr(catalog, "_clashes", list(catalog._clashes))
    monkeypatch.setattr(writes, "_trackings", dict(writes._trackings))
    monkeypatch.setattr(writes, "_types", dict(writes._types))
    monkeypatch.setattr(writes, "_clashes", list(writes._clashes))
    monkeypatch.setattr(declaration, "_declarations", list(declaration._declarations))
