"""DATABASE_URL and REDIS_URL: valid URLs work; errors about others never show the password."""

import os
import runpy
import subprocess
import sys
from typing import Any
from urllib.parse import quote

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django_rq.connection_utils import get_redis_connection
from pytest_django import Settings

from config.server_urls import read_database_url, read_redis_url
from config.services import BASE_DIR
from tests.pgbouncer import output_of, pgbouncer, python_through
from webhooks.outbox import sentinel, valkey

PASSWORDS = [
    "plain", "p@ss", "@", "p@@ss@", "p/ss", "p//ss/", "p#ss", "#", "p?ss", "p?a=b&c", "p:ss", ":p:",
    "100%", "p%zz", "p[1]", "[::1]", "p ss", "p+ss", "pä$ß€", "a@b/c#d?e:f%g[h]i", "h:5432/db?sslmode=",
    "s3cret/@other:1/db?x=y", "'\"\\`$(id)", ",", "a,b",
]  # fmt: skip
PLACES = ["host/name", "host:5433/name?sslmode=require", "[::1]:5433/name", "a:1,b:2/name"]


def load(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> dict[str, Any]:
    monkeypatch.setenv(name, url)
    return runpy.run_path(str(BASE_DIR / "config" / "settings.py"))


def database(monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    settings: dict[str, Any] = load(monkeypatch, "DATABASE_URL", url)["DATABASES"]["default"]
    return settings


def opened_by(url: str) -> redis.Connection:
    """The connection that redis-py would open."""
    return redis.ConnectionPool.from_url(url).make_connection()  # type: ignore[return-value]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("is_encoded", [True, False])
def test_database_password_may_hold_any_character(
    password: str, place: str, is_encoded: bool
) -> None:
    shown = quote(password, safe="") if is_encoded else password

    config = read_database_url(f"postgres://ada:{shown}@{place}")

    assert (config["USER"], config["PASSWORD"]) == ("ada", password)
    assert config["NAME"] == "name"


@pytest.mark.parametrize(
    ("scheme", "place"), [("redis", "host"), ("rediss", "[::1]:6380/3?socket_timeout=2")]
)
@pytest.mark.parametrize("user", ["", "a/d@a"])
@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("is_encoded", [True, False])
def test_valkey_password_may_hold_any_character(
    scheme: str,
    user: str,
    password: str,
    place: str,
    is_encoded: bool,
) -> None:
    shown = quote(password, safe="") if is_encoded else password

    made = opened_by(read_redis_url(f"{scheme}://{quote(user, safe='')}:{shown}@{place}"))

    assert (made.username or "", made.password) == (user, password)
    assert made.db == (3 if "6380" in place else 0)
    assert isinstance(made, redis.SSLConnection) == (scheme == "rediss")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p@h/n", ("h", "", "u", "p", "n")),
        ("postgresql://u:p@h:5433/n", ("h", "5433", "u", "p", "n")),
        ("postgres:///n", ("", "", "", "", "n")),
        ("postgres:///n?host=/run/pg&user=u&password=a%26b&port=6432", ("/run/pg", "6432", "u", "a&b", "n")),
        ("postgres://u@%2Frun%2Fpg/n", ("/run/pg", "", "u", "", "n")),
        ("postgres://u:p@//run/pg/n", ("/run/pg", "", "u", "p", "n")),
        ("postgres://u:p@h?dbname=n", ("h", "", "u", "p", "n")),
        ("postgres://u:p@h/a%2Fb%20c", ("h", "", "u", "p", "a/b c")),
        ("postgres://u:p@[fe80::1]:5433/n", ("fe80::1", "5433", "u", "p", "n")),
        ("postgres://u:p@a:5433,b/n", ("a,b", "5433,", "u", "p", "n")),
        ("postgres://u:p@a,b/n", ("a,b", "", "u", "p", "n")),
        ("postgres://u:p@[::1],b:1/n", ("::1,b", ",1", "u", "p", "n")),
        (" postgres://u:p@h/n\n", ("h", "", "u", "p", "n")),
        ("POSTGRES://u:p@my_host.example-1/n", ("my_host.example-1", "", "u", "p", "n")),
    ],
)  # fmt: skip
def test_database_url_is_read(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: tuple[str, ...]
) -> None:
    config = database(monkeypatch, url)

    assert tuple(config[key] for key in ("HOST", "PORT", "USER", "PASSWORD", "NAME")) == expected


def test_options_of_the_database_are_read_and_win_over_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = database(
        monkeypatch,
        "postgres://u:p@h/n?sslmode=verify-full&sslrootcert=/a%2Fb.pem&connect_timeout=3"
        "&application_name=me@work",
    )

    assert config["OPTIONS"] == {
        "sslmode": "verify-full",
        "sslrootcert": "/a/b.pem",
        "connect_timeout": 3,
        "application_name": "me@work",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://a,b/n", "read-write"),
        ("postgres://a,b/n?target_session_attrs=any", "any"),
        ("postgres:///n?host=a,b", "read-write"),
        ("postgres://a/n", None),
    ],
)
def test_of_several_servers_the_one_that_takes_writes_is_meant(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str | None
) -> None:
    assert database(monkeypatch, url)["OPTIONS"].get("target_session_attrs") == expected


@pytest.mark.parametrize(
    ("url", "path", "number"),
    [
        ("unix:///run/valkey.sock", "/run/valkey.sock", 0),
        ("unix:///run/valkey.sock?db=2", "/run/valkey.sock", 2),
        ("unix://ada:p@s/s@/run/valkey.sock?db=2", "/run/valkey.sock", 2),
        ("unix:///run/a%20b.sock", "/run/a b.sock", 0),
    ],
)
def test_socket_of_valkey_is_read(
    monkeypatch: pytest.MonkeyPatch, url: str, path: str, number: int
) -> None:
    made = opened_by(load(monkeypatch, "REDIS_URL", url)["REDIS_URL"])

    assert isinstance(made, redis.UnixDomainSocketConnection)
    assert (made.path, made.db) == (path, number)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_sentinels_are_read(monkeypatch: pytest.MonkeyPatch, scheme: str, password: str) -> None:
    url = (
        f"{scheme}+sentinel://ada:{password}@a:1,[::1],c/my%20name/3"
        "?sentinel_password=secret&socket_keepalive=yes"
    )

    settings = load(monkeypatch, "REDIS_URL", url)

    sentinels = sentinel.read(settings["REDIS_URL"])
    assert sentinels is not None
    assert sentinels.addresses == [("a", 1), ("::1", 26379), ("c", 26379)]
    assert sentinels.service == "my name"
    pools: list[Any] = [
        sentinels.client().connection_pool,
        get_redis_connection(settings["RQ_QUEUES"]["default"]).connection_pool,
    ]
    for pool in pools:
        made = pool.make_connection()
        assert (made.username, made.password, made.db) == ("ada", password, 3)
        assert isinstance(made, redis.SSLConnection) == (scheme == "rediss")
        assert made.socket_keepalive
        (*_, asked) = pool.sentinel_manager.sentinels
        asks = asked.connection_pool.make_connection()
        assert (asks.host, asks.port, asks.password) == ("c", 26379, "secret")
        assert isinstance(asks, redis.SSLConnection) == (scheme == "rediss")


WRONG = {
    "DATABASE_URL": [
        ("mysql://u:canary@h/n", "must be the URL of a Postgres database"),
        ("sqlite:///canary", "must be the URL of a Postgres database"),
        ("postgis://u:canary@h/n", "must be the URL of a Postgres database"),
        ("canary", "must be the URL of a Postgres database"),
        ("", "must be the URL of a Postgres database"),
        ("postgres://u:canary@h", "has no database name"),
        ("postgres://u:canary@h/", "has no database name"),
        ("postgres://u:canary@h?sslmode=require", "has no database name"),
        ("postgres://u:canary@h:0/n", "has a port outside the range 1 to 65535"),
        ("postgres://u:canary@h:65536/n", "has a port"),
        ("postgres://u:canary@h:5432,i:99999/n", "has a port"),
        ("postgres://u:canary@h:canary/n", "has an invalid host or port"),
        ("postgres://u:canary@h:-1/n", "has an invalid host or port"),
        ("postgres://u:canary@h h/n", "has an invalid host or port"),
        ("postgres://u:canary@[::1/n", "has an invalid host or port"),
        ("postgres://u:canary@h/a/canary", "has a database name with a /"),
        ("postgres://u:canary@h/n#canary", "has # or @"),
        ("postgres://u:canary%FF@h/n", "is not UTF-8"),
        ("postgres://u:canary\udcff@h/n", "is not UTF-8"),
        ("postgres://u:canary%00@h/n", "contains a NUL character"),
        ("postgres://u:canary@h/n?sslmode=canary", "has an invalid sslmode"),
        ("postgres://u:canary@h/n?target_session_attrs=canary", "has an invalid target_session_attrs"),
        ("postgres://u:canary@h/n?connect_timeout=canary", "has a connect_timeout that is not a whole"),
        ("postgres://u:canary@h/n?port=canary", "has a port"),
        ("postgres://u:canary@h/n?pool=true", "has an option 'pool' that"),
        ("postgres://u:canary@h/n?prepare_threshold=1", "has an option 'prepare_threshold' that"),
        ("postgres://u:canary@h/n?assume_role=canary", "has an option 'assume_role' that"),
        ("postgres://u:canary@h/n?c%41n-ary=1", "has an option that"),
        ("postgres://u:canary@h/n?application_name=@h/n", "is ambiguous"),
    ],
    "REDIS_URL": [
        ("redis+sentinel://:canary@h:26379", "has no name of a primary"),
        ("redis+sentinel://:canary@h:26379/mymaster/canary", "has a database that is not a number"),
        ("redis+sentinel://:canary@h:26379/mymaster/0?ssl_cert_reqs=canary", "has an option"),
        ("redis+sentinel://:canary@h:0,i/mymaster", "has a port outside the range 1 to 65535"),
        ("sentinel://:canary@h:26379", "must be the URL of one Valkey or Redis server"),
        ("redis+cluster://:canary@h:6379", "must be the URL of one Valkey or Redis server"),
        ("h:6379", "must be the URL of one Valkey or Redis server"),
        ("", "must be the URL of one Valkey or Redis server"),
        ("redis://:canary@a:6379,b:6379/0", "has more than one host"),
        ("redis://:canary@h:0/0", "has a port outside the range 1 to 65535"),
        ("redis://:canary@h:70000/0", "has a port"),
        ("redis://:canary@h:canary/0", "has an invalid host or port"),
        ("redis://:canary@h:6379/canary", "has a database that is not a number"),
        ("redis://:canary@h:6379/-1", "has a database that is not a number"),
        ("redis://:canary@h:6379/mymaster/0", "has a database that is not a number"),
        ("redis://:canary@h:6379/0?db=canary", "has an option"),
        ("redis://:canary@h:6379/0?cluster=true", "has an option"),
        ("redis://:canary@h:6379/0?ssl_cert_reqs=canary", "has an option"),
        ("rediss://:canary@h:6379/0?ssl_cert_reqs=canary", "has an option"),
        ("unix://canary", "has no socket path"),
        ("unix://", "has no socket path"),
        ("redis://:canary%FF@h/0", "is not UTF-8"),
        ("redis://:canary@h/0#canary", "has # or @"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "url", "why"), [(name, *case) for name, cases in WRONG.items() for case in cases]
)
def test_url_that_cannot_be_meant_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, why: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        load(monkeypatch, name, url)

    message = str(refused.value)
    assert message.startswith(f"{name} {why}")
    assert "canary" not in message
    assert "\n" not in message
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgres://u:can@ry@h:99999/n"),
        ("REDIS_URL", "redis+cluster://:can@ry@h:26379/mymaster"),
    ],
)
def test_refusal_is_one_line_of_a_command(name: str, url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=BASE_DIR,
        env=os.environ | {name: url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"Configuration error: {name} ")
    assert ran.stderr.count("\n") == 1
    assert "can" not in ran.stderr.replace("cannot", "")
    assert "ry@" not in ran.stderr


def test_server_that_is_gone_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert database(monkeypatch, "postgres://a,b/n")["OPTIONS"]["connect_timeout"] == 3
    assert database(monkeypatch, "postgres://a/n")["OPTIONS"]["connect_timeout"] == 10
    own = database(monkeypatch, "postgres://a,b/n?connect_timeout=7")
    assert own["OPTIONS"]["connect_timeout"] == 7


NASTY = "a@b/c#d?e:f%g[h]i &+=€"


@pytest.mark.django_db(transaction=True)
def test_nasty_password_opens_the_database() -> None:
    with pgbouncer(password=NASTY) as url:
        shown = output_of(python_through(url, "connection.ensure_connection(); print('open')"))

    assert shown == "open\n"


@pytest.mark.parametrize("is_encoded", [True, False])
def test_nasty_password_opens_valkey(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, is_encoded: bool
) -> None:
    with valkey.connect(2) as client:
        client.acl_setuser("nasty", enabled=True, passwords=[f"+{NASTY}"], commands=["+ping"])
        try:
            password = quote(NASTY, safe="") if is_encoded else NASTY
            url = settings.REDIS_URL.replace("unix://", f"unix://nasty:{password}@")
            settings.REDIS_URL = load(monkeypatch, "REDIS_URL", url)["REDIS_URL"]
            assert valkey.connect(2).ping()
        finally:
            client.acl_deluser("nasty")
