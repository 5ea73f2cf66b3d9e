"""The program of docs/coming_from.md, on tables as the other packages' migrations make them."""

import re

import pytest
from django.db import connection

from config.services import BASE_DIR
from projects.models import User
from webhooks.models import Webhook

PAGE = (BASE_DIR / "docs" / "coming_from.md").read_text()
PROGRAM = re.findall(r"^```python\n# move_hooks.py\n(.*?)^```$", PAGE, re.M | re.S)[0]
OF_THE_PAGE = re.search(r'^HOOKS = "(.*)"$', PROGRAM, re.M)
STATEMENTS = dict(re.findall(r"^\| ([\w-]+)[^|]* \| `(SELECT [^`]+)` \|$", PAGE, re.M))
URL, OTHER = "http://127.0.0.1:9000/orders", "http://127.0.0.1:9000/other"

HOOKS = "id serial PRIMARY KEY, created timestamptz, updated timestamptz, user_id uuid, event varchar(64), target varchar(255)"
TABLES = {
    "drf-hooks": [f"drf_hooks_hook ({HOOKS}, headers jsonb)"],
    "django-rest-hooks": [f"rest_hooks_hook ({HOOKS})"],
    "dj-webhooks": [
        "djwebhooks_webhooktarget (id serial PRIMARY KEY, owner_id uuid, event varchar(255), "
        "target_url varchar(255), header_content_type varchar(255))"
    ],
    "django-webhook": [
        "django_webhook_webhook (id bigserial PRIMARY KEY, url varchar(200), active boolean)",
        "django_webhook_webhooktopic (id bigserial PRIMARY KEY, name varchar(250))",
        "django_webhook_webhook_topics (id bigserial, webhook_id bigint, webhooktopic_id bigint)",
    ],
}


def make_tables(package: str, user: User) -> None:
    """Fill the tables with three hooks, two of them to the same URL."""
    rows = [("project.added", URL), ("project.deleted", URL), ("unknown.event", OTHER)]
    with connection.cursor() as cursor:
        for table in TABLES[package]:
            cursor.execute(f"CREATE TABLE {table}")
        if package == "django-webhook":
            cursor.execute(
                "INSERT INTO django_webhook_webhook (url) VALUES (%s), (%s)", [URL, OTHER]
            )
            for number, (event, url) in enumerate(rows, start=1):
                cursor.execute(
                    "INSERT INTO django_webhook_webhooktopic (name) VALUES (%s)", [event]
                )
                cursor.execute(
                    "INSERT INTO django_webhook_webhook_topics (webhook_id, webhooktopic_id) "
                    "SELECT id, %s FROM django_webhook_webhook WHERE url = %s",
                    [number, url],
                )
            return
        table = TABLES[package][0].split()[0]
        is_dj = package == "dj-webhooks"
        columns = "owner_id, event, target_url" if is_dj else "user_id, event, target"
        for event, url in rows:
            cursor.execute(
                f"INSERT INTO {table} ({columns}) VALUES (%s, %s, %s)",  # noqa: S608 (our names)
                [user.pk, event, url],
            )


@pytest.mark.django_db
@pytest.mark.parametrize("package", TABLES)
def test_old_hooks_become_webhooks(
    package: str, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tables(package, user)
    assert OF_THE_PAGE is not None
    program = PROGRAM.replace(OF_THE_PAGE[1], STATEMENTS.get(package, OF_THE_PAGE[1]))
    if package == "django-webhook":
        program = program.replace("active=False", "active=False, is_platform=True")

    exec(program, {})  # noqa: S102 - the page's program

    webhook = Webhook.objects.get()
    assert (webhook.url, webhook.events) == (URL, ["project.created", "project.deleted"])
    assert webhook.owner_id == (None if package == "django-webhook" else user.pk)
    assert not webhook.active
    made, left = sorted(capsys.readouterr().out.splitlines(), key=lambda line: "stays" in line)
    assert "whsec_" in made
    assert f"{OTHER} stays behind: " in left
    assert "unknown.event" in left


def test_each_package_has_a_statement() -> None:
    assert set(STATEMENTS) == set(TABLES) - {"drf-hooks"}
