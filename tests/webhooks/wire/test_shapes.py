"""Data in an older version: what its functions leave alone keeps its spelling."""

import logging

import pytest

from tests.webhooks.versions import NAME, SECOND, THIRD, parcels
from webhooks.catalog import FIRST_VERSION
from webhooks.wire.shapes import in_version

DATA = (
    '{"id":"Zoë \\"🚀\\"","location":"\\u00e9","size":{"weight":1.10,"height":1E400},'
    '"more":[1,-0.0,12345678901234567890123,null,true,{"é":"\\t"}]}'
).encode()


def test_numbers_order_and_text_survive() -> None:
    with parcels():
        second = in_version(NAME, DATA, THIRD, SECOND).decode()
        first = in_version(NAME, DATA, THIRD, FIRST_VERSION).decode()
        stored = in_version(NAME, second.encode(), SECOND, FIRST_VERSION).decode()

    rest = '"more":[1,-0.0,12345678901234567890123,null,true,{"é":"\\t"}],"weight":1.10'
    assert second == '{"id":"Zoë \\"🚀\\"","location":"é",' + rest + ',"height":1E400}'
    assert first == stored == '{"id":"Zoë \\"🚀\\"","place":"é",' + rest + "}"


@pytest.mark.parametrize("pin", [SECOND, THIRD])
def test_there_is_no_way_to_a_newer_version(pin: object) -> None:
    with parcels():
        assert in_version(NAME, b'{"a":1}', SECOND, pin) == b'{"a":1}'  # type: ignore[arg-type]


def test_what_no_function_can_read_stays_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with parcels():
        assert in_version(NAME, b'{"a":1}', THIRD, SECOND) == b'{"a":1}'
    assert in_version("no.such_type", b'{"a":1}', THIRD, SECOND) == b'{"a":1}'

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
