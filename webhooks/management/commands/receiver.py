"""`manage.py receiver`: a server that receives webhooks, verifies them and prints a line for each."""

import argparse
import signal
import threading
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from webhooks.http_receiver import Behaviour, HttpReceiver, Received
from webhooks.signing import SigningKey


class Command(BaseCommand):
    help = (
        "Receive webhooks on this machine, verify their signatures and print one line for each. "
        "For development only; stop it with Ctrl-C."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=_port, default=9000, help="Port to listen on (9000).")
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (127.0.0.1).")
        parser.add_argument("--status", type=_status, default=200, help="Status to answer (200).")
        parser.add_argument("--delay", type=_seconds, default=0.0, help="Seconds before answering.")
        parser.add_argument(
            "--fail-rate", type=_share, default=0.0, help="Share of requests answered 500, 0 to 1."
        )
        parser.add_argument(
            "--secret", type=_secret, action="append", default=[], dest="secrets",
            help="Signing secret to verify with (whsec_…); may be given more than once.",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        receiver = HttpReceiver(
            host=options["host"],
            port=options["port"],
            secrets=options["secrets"],
            behaviour=Behaviour(
                status=options["status"],
                delay_seconds=options["delay"],
                fail_rate=options["fail_rate"],
            ),
            on_request=self._print,
        )
        try:
            with receiver:
                self.stdout.write(f"Listening on {receiver.url} (Ctrl-C to stop)")
                self.stdout.flush()
                stop.wait()
        except OSError as problem:
            raise CommandError(
                f"Cannot listen on {options['host']}:{options['port']}: {problem.strerror}. "
                "Choose another --port."
            ) from None

    def _print(self, received: Received) -> None:
        words = (
            time.strftime("%H:%M:%S", time.localtime(received.received_at)),
            received.event_type or "-",
            received.event_id or "-",
            f"attempt {received.attempt or '-'}",
            str(received.status),
            _verdict(received),
        )
        # Whoever sends to us must not control the terminal.
        line = "  ".join(word if word.isprintable() else ascii(word) for word in words)
        self.stdout.write(line)
        self.stdout.flush()


def _verdict(received: Received) -> str:
    if received.standard_ok is None:
        return "not verified (no --secret)"
    return f"v1 {'ok' if received.standard_ok else 'BAD'}, hex {'ok' if received.hex_ok else 'BAD'}"


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{what} is a number from {low:g} to {high:g}.")
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
