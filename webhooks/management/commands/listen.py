"""`manage.py listen`: forward new events, signed, to a URL on this machine."""

import os
import re
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from webhooks.management import arguments, terminal
from webhooks.management.terminal import stopping
from webhooks.outbox.feed import FeedEvent
from webhooks.workbench import listen
from webhooks.workbench.listen import (
    Away,
    DatabaseSource,
    Forwarded,
    Forwarder,
    ServerSource,
    Source,
)

TOKEN_VARIABLE = "WEBHOOKS_TOKEN"
STDIN = Path("-")


class Command(terminal.Command):
    help = (
        "Forward an owner's new events to a URL on this machine with valid signatures, and print "
        "each request and its response, until Ctrl-C. Without --forward-to, print the events' "
        "bodies. The command reads events from the database, or with --server through the API of "
        "a server."
    )
    epilog = """examples:
  manage.py listen --owner ada@example.com --forward-to http://localhost:3000/hooks
  manage.py listen --owner ada@example.com --events 'session.*,project.created' --forward-to …
  WEBHOOKS_TOKEN=… manage.py listen --server https://api.example.com --forward-to …
  manage.py listen --server https://api.example.com --token-file token.txt --forward-to …
  manage.py listen --owner ada@example.com --print-secret

The command stores nothing and needs no webhook. The signing secret is the same every time.
After Ctrl-C, --after CURSOR continues without a gap.

exit codes: 0 stopped, 1 refused, 2 wrong usage"""
    # With --server the command needs no database.
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--forward-to",
            type=_url,
            metavar="URL",
            help="The URL to forward to; localhost is allowed.",
        )
        parser.add_argument(
            "--events", type=arguments.patterns, default=["*"], metavar="PATTERN",
            help="Only these event types or patterns, comma-separated (*).",
        )  # fmt: skip
        parser.add_argument(
            "--owner",
            type=arguments.text,
            metavar="USER",
            help="The owner: e-mail address, user name or id.",
        )
        parser.add_argument(
            "--server", type=arguments.text, metavar="URL", help="Read the events from this server."
        )
        parser.add_argument(
            "--token-file", type=arguments.path, metavar="PATH",
            help="Read the API token for --server from this file, - for stdin; the default is the "
            "variable WEBHOOKS_TOKEN. (Other users of this machine can see arguments.)",
        )  # fmt: skip
        parser.add_argument(
            "--after",
            type=arguments.text,
            metavar="CURSOR",
            help="Continue after this cursor, which a stopped `listen` prints.",
        )
        parser.add_argument(
            "--print-secret", action="store_true", help="Print the signing secret and exit."
        )

    def run(self, **options: Any) -> None:
        if options["print_secret"]:
            self.refuse_beside(
                "--print-secret", options, "print_secret", "owner", "server", "token_file"
            )
        source, key = self._source(options)
        secret = listen.signing_secret(key)
        if options["print_secret"]:
            self.show(secret)
            return
        url = options["forward_to"]
        self.say(f"Ready! Your signing secret is {secret} (Ctrl-C to stop)")
        self._listen(source, options["after"], Forwarder(url, secret) if url else None, url)

    def _source(self, options: dict[str, Any]) -> tuple[Source, str]:
        """Return the source of the events and the key to derive the signing secret from."""
        server, owner = options["server"], options["owner"]
        if options["token_file"] is not None and server is None:
            raise CommandError("--token-file belongs to --server.", returncode=2)
        if (server is None) == (owner is None):
            raise CommandError("Give either --owner, or --server and a token.", returncode=2)
        if server is not None:
            token = _token(options["token_file"])
            return ServerSource(server, token, options["events"]), token
        owner_id = arguments.find_owner(owner).pk
        return DatabaseSource(owner_id, options["events"]), str(owner_id)

    def _listen(
        self, source: Source, after: str | None, forwarder: Forwarder | None, url: str | None
    ) -> None:
        cursor = after

        def move(to: str) -> None:
            nonlocal cursor
            cursor = to

        with stopping() as stop:
            for item in listen.follow(source, after, stop=stop, moved=move):
                if isinstance(item, Away):
                    self.say(f"{item.message} Trying again in {item.retry_seconds:g} s.")
                elif forwarder is None:
                    self.show(item.payload.decode())
                else:
                    self.show(f"{_now()}  --> {item.type} [{item.id}]")
                    self.show(_response_line(item, forwarder.send(item), url))
        self.say(f"Stopped. Continue with --after {cursor}" if cursor else "Stopped.")


def _token(path: Path | None) -> str:
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
    else:
        try:
            token = sys.stdin.readline() if path == STDIN else path.read_text()
        except (OSError, UnicodeDecodeError) as problem:
            raise CommandError(f"The token cannot be read: {problem}", returncode=2) from None
    if not token.strip():
        raise CommandError(
            f"Put the API token into --token-file or into {TOKEN_VARIABLE}.", returncode=2
        )
    return token.strip()


def _response_line(event: FeedEvent, forwarded: Forwarded, url: str | None) -> str:
    what = forwarded.error or f"[{forwarded.status}]"
    return f"{_now()}  <-- {what} POST {url} ({forwarded.duration_ms} ms) [{event.id}]"


def _now() -> str:
    return f"{timezone.localtime():%H:%M:%S}"


def _url(text: str) -> str:
    if "://" not in text:
        # `localhost:3000` means an address of this machine; one word alone means nothing.
        if not re.match(r"localhost\b|\[|[^/]*[.:]", text):
            raise ArgumentTypeError(f"{text!r} is not a URL such as http://localhost:3000/hooks")
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not (is_good and text.isprintable()):
        raise ArgumentTypeError(f"{text!r} is not a URL such as http://localhost:3000/hooks")
    return text
