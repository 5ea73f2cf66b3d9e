"""`manage.py doctor`: is everything here that delivering needs, and is nothing lost?"""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.management import arguments, terminal
from webhooks.management.terminal import counted
from webhooks.repair import doctor, integrity
from webhooks.repair.doctor import CHECKS, QUICK_CHECKS
from webhooks.repair.findings import Finding, Level

LABELS = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILURE: "failure"}


class Command(terminal.Command):
    help = (
        "Examine what delivering needs (database, migrations, clocks, Valkey, workers, backlog, "
        "keys, settings) and audit all rows: that every event has its deliveries, that they agree "
        "with their attempts and that nothing is stuck. Each finding comes with what mends it."
    )
    epilog = """examples:
  manage.py doctor
  manage.py doctor --quick --fail-level warning
  manage.py doctor --format json
  manage.py doctor --faults > faults.txt
  manage.py doctor --mend

--mend makes lost and stuck deliveries due again, recounts attempts and removes what belongs to
nothing.

exit codes: 0 nothing found, 1 found something of the --fail-level, 2 wrong usage"""
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--quick", action="store_true", help="Leave the audit of all rows out.")
        parser.add_argument(
            "--fail-level", choices=["warning", "failure", "never"], default="failure",
            help="From which finding on the exit code is 1 (failure).",
        )  # fmt: skip
        parser.add_argument(
            "--faults", action="store_true",
            help="Only audit, and print every faulty row: what, id, details.",
        )  # fmt: skip
        parser.add_argument(
            "--mend", action="store_true", help="First mend the rows that need no decision."
        )
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        if options["faults"]:
            self._print_faults()
            return
        if options["mend"]:
            mended = sum(integrity.mend().values())
            self.say(f"Mended {counted(mended, 'row')}.")
        findings = []
        for finding in doctor.examine(QUICK_CHECKS if options["quick"] else CHECKS):
            findings.append(finding)
            if options["format"] == "table":
                self._print(finding)
        worst = max(finding.level for finding in findings)
        if options["format"] == "json":
            self.show_json(
                {"level": LABELS[worst], "findings": [_document(one) for one in findings]}
            )
        self._judge(findings, options["fail_level"])

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

    def _judge(self, findings: list[Finding], fail_level: str) -> None:
        failures = sum(finding.level == Level.FAILURE for finding in findings)
        warnings = sum(finding.level == Level.WARNING for finding in findings)
        if fail_level != "never" and (failures or (warnings and fail_level == "warning")):
            raise CommandError(f"{counted(failures, 'failure')}, {counted(warnings, 'warning')}.")

    def _print_faults(self) -> None:
        count = 0
        for fault in integrity.find_faults():
            count += 1
            self.show(f"{fault.question.name}\t{fault.id}\t{fault.detail}")
        if count:
            raise CommandError(f"{counted(count, 'fault')}.")


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "level": LABELS[finding.level],
        "message": finding.message,
        "mend": finding.mend,
        "count": finding.count,
        "ids": finding.ids,
    }
