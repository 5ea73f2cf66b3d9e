"""`manage.py demo`: simulate a working day of RemoteDevAI with real deliveries."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import serve
from config.embedded import die_with_parent
from config.services import BASE_DIR
from projects.models import Project, User
from sessions_app.management import demo_history
from sessions_app.management.demo_report import Target, count_deliveries, report
from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks import service
from webhooks.models import Webhook, WorkerHeartbeat
from webhooks.workbench.receiver import Behaviour, HttpReceiver

FLAKY_RATE = 0.3
QUICK_RETRIES = [1] * 20
"""In seconds; the default of minutes would be too long for a demo."""
STARTUP_SECONDS = 60
SETTLE_SECONDS = 120


class Command(BaseCommand):
    help = (
        "Simulate a working day: save models, deliver their webhooks to three local receivers "
        "(healthy, failing 30 % of the time, down) and report the results. Only with DEBUG=1."
    )
    requires_migrations_checks = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--sessions", type=_positive, default=40, help="Number of coding sessions (40)."
        )
        parser.add_argument(
            "--exit", action="store_true", help="Exit after the report, even in a terminal."
        )
        parser.add_argument("--port", type=int, default=8000, help="Port of the web server (8000).")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError(
                "The demo creates an operator with a known password, so it needs DEBUG=1."
            )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with ExitStack() as stack:
            targets = self._prepare(stack)
            port = _free_port(options["port"])
            worker = [sys.executable, "manage.py", "rqworker"]
            stack.enter_context(self._child("rqworker", worker))
            web = stack.enter_context(self._child("web", serve.command(port, processes=1)))
            _wait(lambda: WorkerHeartbeat.objects.exists(), STARTUP_SECONDS, "the worker")
            _wait(lambda: _listens(port), STARTUP_SECONDS, "the web server")
            started_at = time.monotonic()
            self._live(options["sessions"], targets)
            self._wait_for_deliveries(targets)
            table, is_good = report(targets, time.monotonic() - started_at)
            self.stdout.write("\n" + table)
            self.stdout.write(
                f"\nLook around: http://127.0.0.1:{port}/admin/ (admin / admin), "
                f"API docs: http://127.0.0.1:{port}/api/v1/docs"
            )
            if sys.stdout.isatty() and not options["exit"]:
                self.stdout.write("Serving until Ctrl-C.")
                with _ignoring_interrupt():
                    web.wait()
        if not is_good:
            raise CommandError("Some deliveries to running receivers failed; see the table.")

    # Preparation.

    def _prepare(self, stack: ExitStack) -> list[Target]:
        admin, _ = User.objects.get_or_create(
            username="admin",
            defaults={"email": "admin@example.com", "is_staff": True, "is_superuser": True},
        )
        admin.set_password("admin")
        admin.save()
        ada, bob = (
            User.objects.get_or_create(
                username=name.lower(),
                defaults={"email": f"{name.lower()}@example.com", "name": name},
            )[0]
            for name in ("Ada", "Bob")
        )
        for webhook in Webhook.objects.filter(owner__in=[ada, bob], deleted_at=None):
            service.delete_webhook(webhook)
        demo_history.build()
        healthy = stack.enter_context(HttpReceiver())
        flaky = stack.enter_context(HttpReceiver(behaviour=Behaviour(fail_rate=FLAKY_RATE)))
        down_url = f"http://127.0.0.1:{_free_port(0)}/"
        targets = [
            self._target("healthy", ada, healthy.url, healthy, QUICK_RETRIES),
            self._target("failing 30 %", ada, flaky.url, flaky, QUICK_RETRIES),
            self._target("down", bob, down_url, None, QUICK_RETRIES),
        ]
        self.stdout.write(
            "Ada has webhooks to a healthy receiver and to one that fails 30 % of the time, "
            "Bob has a webhook to a receiver that is down. Six other webhooks have a history of 24 "
            "hours: one fails, one is disabled."
        )
        return targets

    def _target(
        self,
        label: str,
        owner: User,
        url: str,
        receiver: HttpReceiver | None,
        retries: list[int],
    ) -> Target:
        webhook = service.create_webhook(
            owner, name=label, url=url, events=["*"], retry_schedule=retries, timeout_seconds=5
        )
        if receiver is not None:
            receiver.secrets = [webhook.secret]
        return Target(label, webhook, receiver)

    @contextmanager
    def _child(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in the background; it ends with this process, even if that is killed."""
        log = BASE_DIR / "var" / f"demo-{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # The day.

    def _live(self, sessions: int, targets: list[Target]) -> None:
        dice = random.Random(7)
        projects = []
        agents = []
        for owner in User.objects.filter(username__in=["ada", "bob"]).order_by("username"):
            projects.append(Project.objects.create(owner=owner, name=f"{owner}'s website"))
            agents.append(
                Agent.objects.create(owner=owner, name="desktop", platform="linux", version="2.4.1")
            )
        for number in range(1, sessions + 1):
            side = 0 if number % 4 else 1
            _live_session(dice, projects[side], agents[side], number)
            self._progress(f"session {number} of {sessions}", targets)
        for project in projects:
            project.description = "Finished today"
            project.save()
        newcomer = User.objects.create(
            username=f"newcomer-{time.time_ns()}", email=f"{time.time_ns()}@example.com"
        )
        newcomer.delete()

    def _progress(self, what: str, targets: list[Target]) -> None:
        if not self.stderr.isatty():
            return
        counts = count_deliveries(targets)
        done = counts["success"] + counts["failed"]
        line = f"{what}: {counts['all']} deliveries, {done} done, {counts['retrying']} waiting for a retry"
        width = shutil.get_terminal_size().columns - 1
        self.stderr.write(f"\r{line[:width]:<{width}}", ending="")
        self.stderr.flush()

    def _wait_for_deliveries(self, targets: list[Target]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        pause = threading.Event()
        while time.monotonic() < deadline:
            # Deliveries to the receiver that is down wait until it is up again, as they should.
            counts = count_deliveries([target for target in targets if target.receiver])
            if counts["success"] + counts["failed"] == counts["all"]:
                break
            self._progress("waiting for the last retries", targets)
            pause.wait(0.2)
        if self.stderr.isatty():
            self.stderr.write("")


def _live_session(dice: random.Random, project: Project, agent: Agent, number: int) -> None:
    agent.connect()
    session = Session.objects.create(
        project=project, owner=project.owner, title=f"Session {number}"
    )
    agent.set_busy()
    for _ in range(dice.randint(1, 3)):
        SessionMessage.objects.create(session=session, sender="agent", content="Working on it.")
    if dice.random() < 0.5:
        session.pause()
        session.resume()
    recording = Recording.objects.create(session=session, title="Screen")
    session.end()
    if dice.random() < 0.8:
        recording.complete(
            url="https://cdn.example.com/r.webm",
            thumbnail_url="https://cdn.example.com/r.jpg",
            duration_seconds=dice.randint(60, 3600),
            file_size_bytes=dice.randint(10**6, 10**8),
        )
    else:
        recording.fail("The upload was cut off.")
    agent.set_idle()
    agent.disconnect("end of session")


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise CommandError(f"Waited {seconds:.0f} s for {what}; see var/demo-*.log.")
        pause.wait(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port(wanted: int) -> int:
    """Return the wanted port if it is free, otherwise any free port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _ignoring_interrupt() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        return


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ArgumentTypeError("a whole number above 0")
    return int(text)
