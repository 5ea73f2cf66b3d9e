"""`manage.py doctor`: check the servers, the settings and the stored rows."""

from collections.abc import Iterator
from typing import Any

import psycopg
from django.core.management.base import CommandError, CommandParser

from webhooks.management import arguments, terminal
from webhooks.management.terminal import counted
from webhooks.repair import doctor, failover, integrity
from webhooks.repair.doctor import CHECKS, QUICK_CHECKS
from webhooks.repair.findings import Finding, Level

LABELS = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILURE: "failure"}


class Command(terminal.Command):
    help = (
        "Check everything that delivery needs (database, migrations, clocks, Valkey, workers, "
        "backlog, keys, settings) and audit all rows: each event has its deliveries, each delivery "
        "agrees with its attempts, no delivery is stuck. Each finding names its remedy."
    )
    epilog = """examples:
  manage.py doctor
  manage.py doctor --quick --fail-level warning
  manage.py doctor --format json
  manage.py doctor --faults > faults.txt
  manage.py doctor --mend
  manage.py doctor --former-primary postgres://owner@10.0.0.21:5432/webhooks

--former-primary compares with the server that a promoted standby replaced, and changes nothing there.
--mend makes lost and stuck deliveries due again, recounts attempts and deletes orphaned rows.

exit codes: 0 no finding of the --fail-level, 1 findings of the --fail-level, 2 wrong usage"""
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--quick", action="store_true", help="Skip the audit of all rows.")
        parser.add_argument(
            "--fail-level", choices=["warning", "failure", "never"], default="failure",
            help="The lowest level of a finding that makes the exit code 1 (failure).",
        )  # fmt: skip
        parser.add_argument(
            "--faults", action="store_true",
            help="Only audit all rows, and print each faulty row: fault, id, details.",
        )  # fmt: skip
        parser.add_argument(
            "--mend",
            action="store_true",
            help="First repair the faulty rows that have one obvious remedy.",
        )
        parser.add_argument(
            "--former-primary", type=arguments.text, metavar="URL",
            help="Only name the events that are on this server and not here: what a failover lost. "
            "With --faults all of them: event id, type, created at, whether it was attempted.",
        )  # fmt: skip
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        former = options["former_primary"]
        if former is not None:
            self.refuse_beside(
                "--former-primary", options, "former_primary", "faults", "fail_level", "format"
            )
        if options["faults"]:
            self.refuse_beside("--faults", options, "faults", "former_primary", "mend")
        if former is not None:
            self._compare(former, **options)
            return
        if options["mend"]:
            mended = sum(integrity.mend().values())
            self.say(f"Repaired {counted(mended, 'row')}.")
        if options["faults"]:
            self._print_faults()
            return
        checks = [*(QUICK_CHECKS if options["quick"] else CHECKS), *doctor.added_checks]
        self._show(doctor.examine(checks), **options)

    def _compare(self, former: str, **options: Any) -> None:
        try:
            if options["faults"]:
                self._print_lost(former)
            else:
                self._show(failover.compare(former), **options)
        except psycopg.Error as problem:
            # The message may show the URL, and the URL a password.
            raise CommandError(
                f"The former primary cannot be read ({type(problem).__name__})."
            ) from None

    def _show(self, found: Iterator[Finding], **options: Any) -> None:
        findings = []
        for finding in found:
            findings.append(finding)
            if options["format"] == "table":
                self._print(finding)
        worst = max(finding.level for finding in findings)
        if options["format"] == "json":
            self.show_json(
                {"level": LABELS[worst], "findings": [_document(finding) for finding in findings]}
            )
        self._fail_if_found(findings, options["fail_level"])

    def _print(self, finding: Finding) -> None:
        style = {
            Level.OK: self.style.SUCCESS,
            Level.WARNING: self.style.WARNING,
            Level.FAILURE: self.style.ERROR,
        }[finding.level]
        label = style(f"{LABELS[finding.level]:<8}")
        self.show(f"{label} {finding.check:<11} {terminal.printable(finding.message)}")
        indent = " " * 21
        if finding.ids:
            more = finding.count - len(finding.ids)
            rest = f" and {more:,} more (--faults)" if more > 0 else ""
            self.show(f"{indent}{' '.join(finding.ids)}{rest}")
        if finding.mend:
            self.show(f"{indent}→ {finding.mend}")

    def _fail_if_found(self, findings: list[Finding], fail_level: str) -> None:
        failures = sum(finding.level == Level.FAILURE for finding in findings)
        warnings = sum(finding.level == Level.WARNING for finding in findings)
        if fail_level != "never" and (failures or (warnings and fail_level == "warning")):
            raise CommandError(f"{counted(failures, 'failure')}, {counted(warnings, 'warning')}.")

    def _print_faults(self) -> None:
        count = 0
        for fault in integrity.find_faults():
            count += 1
            self.show(f"{fault.rule.name}\t{fault.id}\t{fault.detail}")
        if count:
            raise CommandError(f"{counted(count, 'fault')}.")

    def _print_lost(self, former: str) -> None:
        count = 0
        for event in failover.find_lost(former):
            count += 1
            attempted = "attempted" if event.was_attempted else "not attempted"
            created_at = event.created_at.isoformat()
            self.show(f"{event.public_id}\t{event.type}\t{created_at}\t{attempted}")
        if count:
            raise CommandError(f"{counted(count, 'event')} lost.")


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "level": LABELS[finding.level],
        "message": finding.message,
        "mend": finding.mend,
        "count": finding.count,
        "ids": finding.ids,
    }
