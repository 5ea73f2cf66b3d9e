"""Signing secrets: rotated with an overlap, revoked at once, encrypted at rest, never shown again."""

import base64
import copy
import logging
import os
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import standardwebhooks
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from projects.models import Project, User
from webhooks import service
from webhooks.dispatch.engine import run_until_idle
from webhooks.errors import EncryptionKeyError, SecretRefusedError
from webhooks.models import Delivery, IdempotentAnswer, SigningSecret, Webhook, encryption
from webhooks.repair import checks, reencryption
from webhooks.wire import signing
from webhooks.workbench.receiver import Behaviour, HttpReceiver, Received


def live_values(webhook: Webhook) -> list[str]:
    return [secret.value for secret in webhook.secrets.live(timezone.now())]


# Rotation.


def test_rotation_keeps_the_old_secret_for_a_day(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook()
    old = webhook.secret

    rotated = service.rotate_secret(webhook)

    assert rotated is webhook
    assert webhook.secret != old
    assert live_values(webhook) == [webhook.secret, old]
    (expires_at,) = webhook.secrets.exclude(expires_at=None).values_list("expires_at", flat=True)
    assert expires_at is not None
    assert abs(expires_at - timezone.now() - timedelta(hours=24)) < timedelta(minutes=1)


def test_rotation_without_overlap_forgets_the_old_secret(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()

    service.rotate_secret(webhook, overlap=timedelta(0))

    assert live_values(webhook) == [webhook.secret]
    assert webhook.secrets.count() == 1


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=7, seconds=1)])
def test_overlap_out_of_range_is_refused(
    make_webhook: Callable[..., Webhook], overlap: timedelta
) -> None:
    webhook = make_webhook()

    with pytest.raises(ValidationError, match="0 to 7 days"):
        service.rotate_secret(webhook, overlap=overlap)

    assert live_values(webhook) == [webhook.secret]


def test_own_secret_is_taken_and_a_bad_or_used_one_refused(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()
    own = signing.generate_secret()

    service.rotate_secret(webhook, secret=own)

    assert webhook.secret == own
    for bad in (own, "whsec_AAAA", "short", "whsec_!"):
        with pytest.raises(ValidationError) as refused:
            service.rotate_secret(webhook, secret=bad)
        assert list(refused.value.message_dict) == ["secret"]
        assert bad not in str(refused.value)
    assert live_values(webhook)[0] == own


def test_ten_secrets_live_at_most(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook()
    for _ in range(9):
        service.rotate_secret(webhook)

    with pytest.raises(SecretRefusedError, match="10 live secrets"):
        service.rotate_secret(webhook)

    assert len(live_values(webhook)) == 10
    service.rotate_secret(webhook, overlap=timedelta(0))
    assert len(live_values(webhook)) == 10


def test_expired_secrets_are_removed_by_the_next_rotation(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()
    service.rotate_secret(webhook)
    webhook.secrets.exclude(expires_at=None).update(expires_at=timezone.now())

    service.rotate_secret(webhook)

    assert webhook.secrets.count() == 2


@pytest.mark.django_db(transaction=True)
def test_rotations_at_the_same_time_take_turns(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook()

    def rotate() -> None:
        service.rotate_secret(Webhook.objects.get(id=webhook.id))
        connection.close()

    threads = [threading.Thread(target=rotate) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(live_values(webhook)) == 6
    assert webhook.secrets.filter(expires_at=None).count() == 1


def test_revoking_removes_older_secrets_at_once(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook()
    for _ in range(3):
        service.rotate_secret(webhook)
    older = webhook.secrets.exclude(expires_at=None).first()
    assert older is not None

    assert service.revoke_secret(webhook, older.id) == 1
    assert len(live_values(webhook)) == 3
    assert service.revoke_secret(webhook) == 2
    assert live_values(webhook) == [webhook.secret]
    assert service.revoke_secret(webhook) == 0


def test_current_and_foreign_secrets_cannot_be_revoked(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook, other = make_webhook(), make_webhook()
    service.rotate_secret(other)
    foreign = other.secrets.exclude(expires_at=None).get()

    with pytest.raises(SecretRefusedError, match="rotate it with an overlap of 0"):
        service.revoke_secret(webhook, webhook.secrets.get().id)
    with pytest.raises(SecretRefusedError, match="no such secret"):
        service.revoke_secret(webhook, foreign.id)

    assert (webhook.secrets.count(), other.secrets.count()) == (1, 2)


def accepts(secret: str, received: Received) -> bool:
    """The reference library's verdict; the repository's own helper must agree."""
    try:
        standardwebhooks.Webhook(secret).verify(received.body, received.headers)
        verdict = True
    except standardwebhooks.WebhookVerificationError:
        verdict = False
    assert verdict == signing.verify_standard(
        secret, received.headers, received.body, now=received.received_at
    )
    return verdict


@pytest.mark.django_db(transaction=True)
def test_l4_secret_rotated_in_the_middle_of_a_retry_chain(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make_webhook(url=receiver.url)
    first = webhook.secret
    receiver.behaviour = Behaviour(status=503)
    Project.objects.create(owner=user, name="P")

    def attempt() -> Received:
        Delivery.objects.update(next_attempt_at=timezone.now())
        count = len(receiver.requests)
        run_until_idle()
        return receiver.wait_for(count + 1)[-1]

    before = attempt()
    second = service.rotate_secret(webhook, overlap=timedelta(hours=1)).secret
    overlapping = attempt()
    webhook.secrets.exclude(expires_at=None).update(expires_at=timezone.now())
    expired = attempt()
    third = service.rotate_secret(webhook, overlap=timedelta(days=7)).secret
    again = attempt()
    service.revoke_secret(webhook)
    revoked = attempt()
    fourth = service.rotate_secret(webhook, overlap=timedelta(0)).secret
    replaced = attempt()

    secrets = (first, second, third, fourth)
    verdicts = [
        "".join("+" if accepts(secret, received) else "-" for secret in secrets)
        for received in (before, overlapping, expired, again, revoked, replaced)
    ]
    assert verdicts == ["+---", "++--", "-+--", "-++-", "--+-", "---+"]
    assert len({received.event_id for received in receiver.requests}) == 1
    newest = (first, second, second, third, third, fourth)
    for received, secret in zip(receiver.requests, newest, strict=True):
        headers, now = received.headers, received.received_at
        assert signing.verify_hex(secret, headers, received.body, now=now)


@pytest.mark.django_db(transaction=True)
def test_ed25519_is_signed_besides_on_request_only(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make_webhook(url=receiver.url, ed25519=True)
    (old_key,) = webhook.public_keys
    Project.objects.create(owner=user, name="P")
    run_until_idle()
    service.rotate_secret(webhook, scheme="v1a")
    new_key, also_old = webhook.public_keys
    Project.objects.create(owner=user, name="P")
    run_until_idle()
    service.update_webhook(webhook, ed25519=False)
    Project.objects.create(owner=user, name="P")
    run_until_idle()

    versions = [
        [one.partition(",")[0] for one in received.headers["webhook-signature"].split(" ")]
        for received in receiver.requests
    ]
    assert versions == [["v1", "v1a"], ["v1", "v1a", "v1a"], ["v1"]]
    assert also_old == old_key != new_key
    verdicts = [
        [
            signing.verify_standard(key, received.headers, received.body, now=received.received_at)
            for key in (webhook.secret, old_key, new_key)
        ]
        for received in receiver.requests
    ]
    assert verdicts == [[True, True, False], [True, True, True], [True, False, False]]
    assert webhook.public_keys == []


def test_ed25519_is_turned_on_later_and_needed_to_be_rotated(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()
    with pytest.raises(SecretRefusedError, match="no v1a secret"):
        service.rotate_secret(webhook, scheme="v1a")

    service.update_webhook(webhook, ed25519=True)
    service.update_webhook(webhook, ed25519=True)

    assert len(webhook.public_keys) == 1
    assert webhook.public_keys[0].startswith("whpk_")
    assert webhook.secrets.count() == 2


# Updates.


def test_update_changes_what_is_named_and_nothing_else(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook(headers={"X-Team": "a"})
    Webhook.objects.update(description="set elsewhere")

    # Another path of the same server: headers would not follow to another one.
    service.update_webhook(webhook, url=f"{webhook.url}/else", timeout_seconds=5)

    stored = Webhook.objects.get()
    assert (stored.url, stored.timeout_seconds) == (webhook.url, 5)
    assert (stored.description, stored.headers) == ("set elsewhere", {"X-Team": "a"})
    assert (stored.revision, webhook.revision) == (2, 2)
    service.update_webhook(webhook, headers={})
    assert Webhook.objects.get().headers == {}


def test_update_names_every_wrong_field_and_stores_nothing(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()

    with pytest.raises(ValidationError) as refused:
        service.update_webhook(webhook, url="ftp://x/", events=[], timeout_seconds=99, name="New")
    with pytest.raises(TypeError, match="owner_id"):
        service.update_webhook(webhook, owner_id=None)

    assert sorted(refused.value.message_dict) == ["events", "timeout_seconds", "url"]
    stored = Webhook.objects.get()
    assert (stored.name, stored.revision) == ("Orders", 1)


def test_webhook_whose_url_became_forbidden_can_still_be_turned_off(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()
    Webhook.objects.update(url="http://10.0.0.1/")
    webhook.refresh_from_db()

    service.update_webhook(webhook, active=False)

    assert not Webhook.objects.get().active
    with pytest.raises(ValidationError):
        service.update_webhook(webhook, url="http://10.0.0.2/")


# At rest.


def new_key() -> bytes:
    return os.urandom(32)


def test_values_of_two_rows_cannot_be_swapped(make_webhook: Callable[..., Webhook]) -> None:
    first, second = (make_webhook().secrets.get() for _ in range(2))

    first.value_encrypted, second.value_encrypted = second.value_encrypted, first.value_encrypted

    for secret in (first, second):
        with pytest.raises(EncryptionKeyError):
            _ = secret.value


def test_every_changed_byte_is_noticed(make_webhook: Callable[..., Webhook]) -> None:
    secret = make_webhook().secrets.get()
    stored = bytes(secret.value_encrypted)

    for position in range(len(stored)):
        changed = bytearray(stored)
        changed[position] ^= 1
        with pytest.raises(EncryptionKeyError):
            encryption.decrypt(bytes(changed), secret.id)
    for length in range(len(stored)):
        with pytest.raises(EncryptionKeyError):
            encryption.decrypt(stored[:length], secret.id)


def test_same_value_is_never_encrypted_the_same_way() -> None:
    row_id = uuid.uuid4()

    assert len({encryption.encrypt(b"same", row_id) for _ in range(100)}) == 100


def test_first_key_encrypts_and_every_key_decrypts(
    settings: Settings, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(headers={"X-Team": "a"})
    settings.WEBHOOKS_ENCRYPTION_KEYS = [new_key(), *settings.WEBHOOKS_ENCRYPTION_KEYS]

    stored = Webhook.objects.get()
    service.rotate_secret(stored)

    assert stored.headers == {"X-Team": "a"}
    assert live_values(stored) == [stored.secret, webhook.secret]
    settings.WEBHOOKS_ENCRYPTION_KEYS = settings.WEBHOOKS_ENCRYPTION_KEYS[:1]
    assert stored.secrets.get(expires_at=None).value == stored.secret
    with pytest.raises(EncryptionKeyError):
        _ = stored.headers


def reencrypted(*arguments: str) -> str:
    out = StringIO()
    call_command("reencrypt", *arguments, stdout=out)
    return out.getvalue()


def test_reencryption_lets_the_old_key_go(
    settings: Settings, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhooks = [make_webhook(headers={"X-Team": str(number)}) for number in range(3)]
    service.rotate_secret(webhooks[0])
    answer = IdempotentAnswer(owner_id=user.id, key="k", request_hash=b"")
    answer.answer_encrypted = encryption.encrypt(b"answer", answer.id)
    answer.save()
    settings.WEBHOOKS_ENCRYPTION_KEYS = [new_key(), *settings.WEBHOOKS_ENCRYPTION_KEYS]

    assert reencrypted("--dry-run") == (
        "signing secrets: 4 to re-encrypt\n"
        "custom headers: 3 to re-encrypt\n"
        "stored responses: 1 to re-encrypt\n"
    )
    assert reencrypted() == (
        "signing secrets: 4 re-encrypted\n"
        "custom headers: 3 re-encrypted\n"
        "stored responses: 1 re-encrypted\n"
    )
    settings.WEBHOOKS_ENCRYPTION_KEYS = settings.WEBHOOKS_ENCRYPTION_KEYS[:1]

    assert set(reencryption.count_outdated().values()) == {0}
    assert checks.check_encryption_keys() == []
    for number, webhook in enumerate(webhooks):
        stored = Webhook.objects.get(id=webhook.id)
        assert stored.headers == {"X-Team": str(number)}
        assert live_values(stored)[0] == webhook.secret
    answer.refresh_from_db()
    assert encryption.decrypt(bytes(answer.answer_encrypted or b""), answer.id) == b"answer"


def test_reencryption_goes_on_past_what_it_cannot_read(
    settings: Settings, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencryption, "BATCH_ROWS", 2)
    old = settings.WEBHOOKS_ENCRYPTION_KEYS
    for _ in range(3):
        make_webhook()
    settings.WEBHOOKS_ENCRYPTION_KEYS = [new_key()]
    lost = [make_webhook() for _ in range(2)]
    settings.WEBHOOKS_ENCRYPTION_KEYS = [new_key(), *old]

    with pytest.raises(CommandError, match="2 values cannot be decrypted with any key"):
        reencrypted()

    assert reencryption.count_outdated()["signing secrets"] == len(lost) == 2
    assert reencryption.count_unreadable() == 2


def test_reencryption_is_not_done_while_a_process_writes_with_the_old_key(
    settings: Settings, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = settings.WEBHOOKS_ENCRYPTION_KEYS, [new_key(), *settings.WEBHOOKS_ENCRYPTION_KEYS]
    reencrypt_all = reencryption.reencrypt_all

    def beside_another_process() -> Iterator[tuple[str, int, int]]:
        yield from reencrypt_all()
        settings.WEBHOOKS_ENCRYPTION_KEYS = old
        make_webhook()
        settings.WEBHOOKS_ENCRYPTION_KEYS = new

    make_webhook()
    settings.WEBHOOKS_ENCRYPTION_KEYS = new
    monkeypatch.setattr(reencryption, "reencrypt_all", beside_another_process)

    with pytest.raises(CommandError, match="1 values still need an old key"):
        reencrypted()
    monkeypatch.undo()
    assert "signing secrets: 1 re-encrypted" in reencrypted()


def test_reencryption_does_not_undo_what_others_changed_meanwhile(
    settings: Settings, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make_webhook(headers={"X-Team": "old"})
    settings.WEBHOOKS_ENCRYPTION_KEYS = [new_key(), *settings.WEBHOOKS_ENCRYPTION_KEYS]
    reencrypt = encryption.reencrypt

    def slowly(stored: bytes, row_id: uuid.UUID) -> bytes:
        if row_id == webhook.id:
            service.update_webhook(webhook, headers={"X-Team": "new"})
        return reencrypt(stored, row_id)

    monkeypatch.setattr(reencryption, "reencrypt", slowly)
    reencrypted()

    assert Webhook.objects.get().headers == {"X-Team": "new"}


def test_e101_names_what_cannot_be_decrypted(
    settings: Settings, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(headers={"X-Team": "a"})
    assert checks.check_encryption_keys() == []

    settings.WEBHOOKS_ENCRYPTION_KEYS = [new_key()]

    (error,) = checks.check_encryption_keys()
    assert (error.id, error.is_serious()) == ("webhooks.E101", True)
    assert error.msg.startswith("2 stored secrets or headers are encrypted with a key that is not")
    assert "manage.py reencrypt" in (error.hint or "")


def test_e101_says_nothing_while_the_database_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    def fail() -> int:
        raise OperationalError

    monkeypatch.setattr(reencryption, "count_unreadable", fail)

    assert checks.check_encryption_keys() == []


@pytest.mark.django_db(transaction=True)
def test_wrong_key_sends_nothing_rather_than_a_wrong_signature(
    settings: Settings,
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "webhooks")
    logging.getLogger("webhooks").addHandler(caplog.handler)
    right = settings.WEBHOOKS_ENCRYPTION_KEYS
    unreadable = make_webhook(url=receiver.url, name="unreadable")
    settings.WEBHOOKS_ENCRYPTION_KEYS = [new_key()]
    healthy = make_webhook(url=receiver.url, name="healthy")
    receiver.secrets = [healthy.secret]
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    (received,) = receiver.requests
    assert received.standard_ok
    statuses = dict(Delivery.objects.values_list("webhook__name", "status"))
    assert statuses == {"healthy": "SUCCESS", "unreadable": "PENDING"}
    assert f"Webhook {unreadable.id} waits" in caplog.text
    settings.WEBHOOKS_ENCRYPTION_KEYS = [*right, *settings.WEBHOOKS_ENCRYPTION_KEYS]
    receiver.secrets = [unreadable.secret]
    Delivery.objects.exclude(next_attempt_at=None).update(next_attempt_at=timezone.now())
    run_until_idle()
    assert receiver.requests[1].standard_ok
    logging.getLogger("webhooks").removeHandler(caplog.handler)


# Never shown.


def test_secret_is_not_in_any_representation(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(headers={"Authorization": "Bearer canary"}, ed25519=True)
    rows = [webhook, *webhook.secrets.all()]
    keys = [signing.load_key(row.value) for row in webhook.secrets.all()]
    values = [webhook.secret, *(row.value for row in webhook.secrets.all()), "canary"]

    shown = " ".join(f"{thing!r} {thing!s} {vars(thing)!r}" for thing in rows[1:])
    shown += f"{webhook!r} {webhook!s} {keys!r} {pickle.dumps(webhook)!r}"

    assert not [value for value in values if value in shown]
    with pytest.raises(AttributeError):
        _ = copy.copy(webhook).secret


def test_secret_is_not_in_a_report_of_an_error(
    settings: Settings, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.views.debug import ExceptionReporter

    report_on: Any = ExceptionReporter
    settings.DEBUG = False
    secret, header = signing.generate_secret(), signing.generate_secret()
    webhook = make_webhook()

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("the database went away")

    monkeypatch.setattr(SigningSecret, "save", fail)
    reports = []
    works: list[Callable[[], Webhook]] = [
        lambda: service.rotate_secret(webhook, secret=secret),
        lambda: make_webhook(secret=secret, headers={"Authorization": header}),
    ]
    for work in works:
        try:
            work()
        except RuntimeError as problem:
            traceback = problem.__traceback__
            # The caller's own frame is the caller's business.
            while traceback and not traceback.tb_frame.f_globals["__name__"].startswith(
                "webhooks.registry."
            ):
                traceback = traceback.tb_next
            reporter = report_on(None, RuntimeError, problem, traceback)
            reports.append(reporter.get_traceback_text() + reporter.get_traceback_html())

    assert len(reports) == 2
    for report in reports:
        assert "went away" in report
        assert secret not in report
        assert base64.b64encode(secret.encode()).decode() not in report
        assert header not in report


def test_proxy_setting_problem_does_not_show_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.core.exceptions import ImproperlyConfigured

    from config import environment

    for url in ("http://us:canary@", "socks5://us:canary@proxy:1080", "http://us:canary@proxy:x"):
        monkeypatch.setenv("WEBHOOKS_PROXY_URL", url)
        with pytest.raises(ImproperlyConfigured) as refused:
            environment.proxy_url()
        assert "canary" not in str(refused.value)
