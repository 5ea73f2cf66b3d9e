"""`manage.py receiver`: a server that receives and verifies webhooks, for development."""

import argparse
import errno
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.management import arguments, terminal
from webhooks.wire.signing import TOLERANCE_SECONDS, SigningKey
from webhooks.workbench import recorded
from webhooks.workbench.receiver import Behaviour, HttpReceiver, Received


class Command(terminal.Command):
    help = (
        "Receive webhooks on this machine, verify their signatures and print one line for each. "
        "For development only; stop it with Ctrl-C. With --replay, print and verify saved requests "
        "instead, as of the time of their receipt."
    )
    epilog = """examples:
  manage.py receiver --secret whsec_…
  manage.py receiver --status 503 --delay 2
  manage.py receiver --save requests/
  manage.py receiver --replay requests/000001-evt_0193570e2c7a7bcd8f0a1b2c3d4e5f60.json --secret …

exit codes: 0 done, 1 refused, 2 wrong usage, 3 a replayed signature is invalid"""
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=_port, default=9000, help="Port to listen on (9000).")
        parser.add_argument(
            "--host", type=arguments.text, default="127.0.0.1",
            help="Address to listen on (127.0.0.1).",
        )  # fmt: skip
        parser.add_argument("--status", type=_status, default=200, help="Response status (200).")
        parser.add_argument(
            "--delay", type=_seconds, default=0.0, help="Seconds before the response (0)."
        )
        parser.add_argument(
            "--fail-rate", type=_share, default=0.0,
            help="Share of requests that get status 500, 0 to 1 (0).",
        )  # fmt: skip
        parser.add_argument(
            "--secret", type=_secret, action="append", default=[], dest="secrets",
            help="Signing secret to verify with (whsec_…); may be given more than once.",
        )  # fmt: skip
        parser.add_argument(
            "--save", type=arguments.path, metavar="DIR",
            help="Write each request to a file in this folder.",
        )  # fmt: skip
        parser.add_argument(
            "--replay", type=arguments.path, metavar="FILE", action="append", default=[],
            help="Verify a saved request; may be given more than once.",
        )  # fmt: skip

    def run(self, **options: Any) -> None:
        self._folder: Path | None = options["save"]
        self._saved = 0
        self._problem: Exception | None = None
        if options["replay"]:
            self.refuse_beside("--replay", options, "replay", "secrets")
            self._replay(options["replay"], options["secrets"])
            return
        if self._folder is not None:
            self._open(self._folder)
        self._receive(options)

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as problem:
            raise CommandError(f"Cannot save to {folder}: {problem.strerror}.") from None
        self._saved = len(list(folder.glob("*.json")))

    def _replay(self, paths: list[Path], secrets: list[str]) -> None:
        try:
            replayed = [recorded.load(path, secrets) for path in paths]
        except OSError as problem:
            raise CommandError(f"{problem.filename} cannot be read: {problem.strerror}.") from None
        except ValueError as problem:
            raise CommandError(str(problem)) from None
        for received in replayed:
            self._print(received)
        if any(False in (received.standard_ok, received.hex_ok) for received in replayed):
            raise SystemExit(terminal.PARTIAL)

    def _receive(self, options: dict[str, Any]) -> None:
        receiver = HttpReceiver(
            host=options["host"],
            port=options["port"],
            secrets=options["secrets"],
            behaviour=Behaviour(
                status=options["status"],
                delay_seconds=options["delay"],
                fail_rate=options["fail_rate"],
            ),
            on_request=self._handle,
            # The command may run for days, so the receiver must not keep requests in memory.
            keep=0,
        )
        with terminal.stopping() as self._stop, ExitStack() as stack:
            try:
                stack.enter_context(receiver)
            except (OSError, UnicodeError) as problem:
                reason = getattr(problem, "strerror", None) or problem
                raise CommandError(
                    f"Cannot listen on {options['host']}:{options['port']}: {reason}. "
                    "Choose another --host or --port."
                ) from None
            self.show(f"Listening on {receiver.url} (Ctrl-C to stop)")
            self._stop.wait()
        if self._problem is not None:
            raise self._problem

    def _handle(self, received: Received) -> None:
        """Save and print a request, on the receiver's thread, where nobody catches anything."""
        try:
            if self._folder is not None:
                self._saved += 1
                recorded.save(received, self._folder, self._saved)
            self._print(received)
        except BrokenPipeError as problem:
            self._problem = problem
            self._stop.set()
        except OSError as problem:
            self._problem = CommandError(f"Cannot save to {self._folder}: {problem.strerror}.")
            self._stop.set()

    def _print(self, received: Received) -> None:
        words = (
            time.strftime("%H:%M:%S", time.localtime(received.received_at)),
            received.event_type or "-",
            received.event_id or "-",
            f"attempt {received.attempt or '-'}",
            str(received.status),
            _verdict(received),
        )
        # Senders are untrusted and must not control the terminal.
        line = "  ".join(word if word.isprintable() else ascii(word) for word in words)
        self.stdout.write(line)
        self.stdout.flush()


def _verdict(received: Received) -> str:
    if received.standard_ok is None:
        return "not verified (no --secret)"
    standard = _word(received, received.standard_ok, "webhook-signature", "webhook-timestamp")
    old = _word(received, received.hex_ok, "x-webhook-signature", "x-webhook-timestamp")
    return f"v1 {standard}, hex {old}{'' if _is_json(received.body) else ', not JSON'}"


def _word(received: Received, is_valid: bool | None, signature: str, timestamp: str) -> str:
    """Return `ok`, or which check failed."""
    if is_valid:
        return "ok"
    if missing := [name for name in (signature, timestamp) if name not in received.headers]:
        return f"BAD (no header {missing[0]})"
    sent = received.headers[timestamp]
    if not (sent.isascii() and sent.isdecimal() and len(sent) < 12):
        return f"BAD ({timestamp} is no Unix time)"
    age = received.received_at - int(sent)
    if abs(age) > TOLERANCE_SECONDS:
        return f"BAD (stale: {abs(age):.0f} s {'old' if age > 0 else 'in the future'})"
    return "BAD (wrong secret, or a changed body)"


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _number(text: str, low: float, high: float, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{name} is a number from {low:g} to {high:g}.")
    return number


def _port(text: str) -> int:
    return int(_number(text, 0, 65535, "A port"))


def _status(text: str) -> int:
    return int(_number(text, 100, 599, "A status"))


def _seconds(text: str) -> float:
    return _number(text, 0, 3600, "A delay")


def _share(text: str) -> float:
    return _number(text, 0, 1, "A rate")


def _secret(text: str) -> str:
    try:
        SigningKey.from_secret(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return text
