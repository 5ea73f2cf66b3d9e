"""E4 to E6: which custom headers a webhook may have, and the exact block that goes out."""

import random
from collections.abc import Callable, Iterator

import pytest
from django.core.exceptions import ValidationError

from projects.models import Project, User
from tests.webhooks.sending import kind_of, send_all
from webhooks import service
from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.engine import run_until_idle
from webhooks.ids import new_id
from webhooks.models import Webhook
from webhooks.pace.retry import Policy
from webhooks.wire.header_lines import header_line
from webhooks.wire.header_rules import header_problem, header_problems, is_forbidden
from webhooks.wire.messages import Post
from webhooks.wire.request import build_request
from webhooks.wire.signing import SigningKey, generate_secret
from webhooks.workbench.receiver import HttpReceiver

TAKEN = [
    "Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "TE", "Trailer",
    "Keep-Alive", "HTTP2-Settings", "Proxy-Authorization", "Proxy-Connection", "Proxy-X",
    "Content-Type", "Content-Encoding", "Content-MD5", "Accept-Encoding", "Cookie", "Set-Cookie",
    "User-Agent", "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Anything", "X-Real-IP", "Date",
    "Sec-Fetch-Mode", "webhook-id", "webhook-timestamp", "webhook-signature", "webhook-anything",
    "X-Webhook-Signature", "X-Webhook-Timestamp", "X-Webhook-ID", "X-Webhook-Event",
    "X-Webhook-Delivery", "X-Webhook-Attempt", "X-Webhook-Anything",
]  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_e5_taken_name_is_refused_in_any_case_and_spelling(name: str) -> None:
    spellings = [name, name.lower(), name.upper(), name.swapcase(), name.title()]
    spellings += [name.replace("-", other) for other in "_.~!"]

    assert [spelling for spelling in spellings if not is_forbidden(spelling)] == []
    assert all(header_problem(spelling, "x") for spelling in spellings)


@pytest.mark.parametrize(
    "name",
    ["Authorization", "X-Api-Key", "Accept", "X-Team", "Hosts", "X-Web-Hook", "Idempotency-Key"],
)
def test_e5_free_name_is_accepted(name: str) -> None:
    assert header_problem(name, "x") is None


@pytest.mark.parametrize(
    "name",
    ["", " ", "X Team", "X-Team ", " X-Team", "X:Team", "X-Team:", ":method", "X\r\nY", "X\0", "X\t", "Zoë",
     "☃", "(x)", "x/y", "x@y", "x,y", "x=y", "x;y", '"x"', "x\x7f", "X" * 65, None, 7],
)  # fmt: skip
def test_e4_name_that_is_no_token_is_refused(name: str) -> None:
    assert "is not a header name" in (header_problem(name, "x") or "")


@pytest.mark.parametrize(
    "value",
    ["a\r", "a\n", "a\r\nX: y", "a\0b", "a\x7fb", " a", "a ", "\ta", "a\t", "a\r\n b", "a\x0bb", "☃", "é", "a\u2028b",
     "x" * 4097, "\ud800", None, 7, b"x"],
)  # fmt: skip
def test_e4_value_that_cannot_be_sent_exactly_is_refused_unshown(value: str) -> None:
    problem = header_problem("X-Team", value)

    assert problem is not None
    assert problem.startswith("The value of X-Team is refused")
    assert "x" * 20 not in problem


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "!~", "x" * 4096, "Bearer abc.def=="])
def test_e4_plain_value_is_accepted(value: str) -> None:
    assert header_problem("X-Team", value) is None


def test_e6_limits_hold() -> None:
    assert header_problems({f"X-{n}": "v" for n in range(20)}) == []
    assert header_problems({f"X-{n}": "v" for n in range(21)}) == [
        "This has 21 entries; 20 are allowed."
    ]
    assert header_problems({"X" * 64: "v" * 4096}) == []
    assert header_problems({"X-Team": "a", "x_team": "b"}) == [
        "Two custom headers have the same name."
    ]


def test_bad_headers_are_refused_with_every_other_problem(
    make_webhook: Callable[..., Webhook],
) -> None:
    with pytest.raises(ValidationError) as refused:
        make_webhook(headers={"Host": "canary", "X": "canary\0"}, url="ftp://x/", secret="canary")

    assert sorted(refused.value.message_dict) == ["headers", "secret", "url"]
    assert len(refused.value.message_dict["headers"]) == 2
    assert "canary" not in str(refused.value)
    assert not Webhook.objects.exists()


def test_bad_headers_are_refused_on_update_and_nothing_changes(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook(headers={"X-Team": "a"})

    with pytest.raises(ValidationError):
        service.update_webhook(webhook, headers={"Webhook_Id": "x"}, name="New")

    stored = Webhook.objects.get()
    assert (stored.headers, stored.name) == ({"X-Team": "a"}, "Orders")


# The wire.

CHARACTERS = [chr(code) for code in range(256)] + ["☃", "\ud800", "\u2028", "：", "ｘ"]


def random_header(dice: random.Random) -> tuple[str, str]:
    """A name and value of every sort: plain, taken, misspelt, too long, with anything inside."""
    letters = "".join(dice.choices("abcXYZ-_019", k=dice.randint(1, 12)))
    name = dice.choice(
        [letters, letters, "X-" + letters, dice.choice(TAKEN).replace("-", dice.choice("-_."))]
    )
    value = "".join(dice.choices("abc XYZ=;,:\"'\\%\t/~!", k=dice.randint(0, 40)))
    if dice.random() < 0.4:
        position = dice.randint(0, len(value))
        value = value[:position] + dice.choice(CHARACTERS) + value[position:]
    if dice.random() < 0.2:
        position = dice.randint(0, len(name))
        name = name[:position] + dice.choice(CHARACTERS) + name[position:]
    return name, value


def groups(headers: list[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Put accepted headers together as webhooks have them."""
    group: dict[str, str] = {}
    for name, value in headers:
        if header_problems(group | {name: value}):
            yield group
            group = {}
        group[name] = value
    yield group


def test_header_fuzz_leaves_exactly_the_expected_block_on_the_wire() -> None:
    dice = random.Random(8)
    fuzzed = [random_header(dice) for _ in range(10_000)]
    accepted = [pair for pair in fuzzed if header_problem(*pair) is None]
    key = SigningKey.from_secret(generate_secret())
    with HttpReceiver() as receiver:
        expected, sent = [], []
        for group in groups(accepted):
            endpoint = endpoint_of(receiver.url, tuple(group.items()), key)
            built = _built(endpoint)
            sent.append(built)
            system = list(built.headers.items())[len(group) :]
            expected.append(
                [
                    ("Host", f"127.0.0.1:{receiver.port}"),
                    ("Accept-Encoding", "identity"),
                    *group.items(),
                    *system,
                    ("Content-Length", "2"),
                ]
            )
        outcomes = send_all(sent, at_once=1, timeout_seconds=2)
        received = [list(request.raw_headers) for request in receiver.requests]

    assert 3000 <= len(accepted) <= 8000
    assert {kind_of(outcome) for outcome in outcomes} == {"200"}
    assert received == expected


def test_system_headers_are_the_last_and_only_ones_of_their_name() -> None:
    key = SigningKey.from_secret(generate_secret())

    built = _built(endpoint_of("http://x/", (("X-A", "1"),), key))

    assert [name for name, _ in built.headers.items()] == [
        "X-A", "Content-Type", "User-Agent", "webhook-id", "webhook-timestamp", "webhook-signature",
        "X-Webhook-Signature", "X-Webhook-Timestamp", "X-Webhook-ID", "X-Webhook-Event",
        "X-Webhook-Delivery", "X-Webhook-Attempt",
    ]  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_header_stored_before_a_rule_became_stricter_is_not_sent(
    user: User, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpReceiver() as receiver:
        webhook = make_webhook(url=receiver.url)
        with monkeypatch.context() as laxer:
            laxer.setattr("webhooks.models.custom_headers.header_problems", lambda headers: [])
            service.update_webhook(
                webhook,
                headers={
                    "Webhook-Signature": "v1,x",
                    "Transfer-Encoding": "chunked",
                    "X-Team": "a",
                },
            )
        Project.objects.create(owner=user, name="P")

        run_until_idle()

        (received,) = receiver.requests
    names = [name.lower() for name, _ in received.raw_headers]
    assert names.count("webhook-signature") == 1
    assert "transfer-encoding" not in names
    assert received.headers["x-team"] == "a"


def test_representations_show_no_header_values() -> None:
    key = SigningKey.from_secret(generate_secret())
    endpoint = endpoint_of("http://x/", (("Authorization", "canary"),), key)
    built = _built(endpoint)

    shown = repr(endpoint) + repr(built) + repr(built.headers) + str(built.headers)

    assert "canary" not in shown
    assert "v1," not in shown


def _built(endpoint: Endpoint) -> Post:
    return build_request(
        endpoint,
        event_id=new_id(),
        event_type="not.in_the_catalogue",
        payload=b"{}",
        delivery_id=new_id(),
        attempt=1,
        timestamp=1_700_000_000,
    )


def endpoint_of(url: str, headers: tuple[tuple[str, str], ...], key: SigningKey) -> Endpoint:
    return Endpoint(
        owner_id=new_id(),
        url=url,
        header_lines=tuple(header_line(*pair) for pair in headers),
        hidden_lines=(),
        key=key,
        keys=(key,),
        policy=Policy(max_retries=0, retry_delay_seconds=1),
        timeout_seconds=1,
        order="none",
    )
