"""docs/settings.md has every variable that the settings ask for, and no other."""

import pytest

from config import settings_page
from config.services import BASE_DIR


def test_page_is_not_stale() -> None:
    page = (BASE_DIR / "docs" / "settings.md").read_text()

    assert page == settings_page.render(), "The page is stale: run make docs."


def test_a_variable_without_a_meaning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings_page.MEANINGS, "Observing", {})

    with pytest.raises(ValueError, match="LOG_LEVEL"):
        settings_page.render()
