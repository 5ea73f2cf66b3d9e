#!/usr/bin/env python
"""Run a management command; in development this also runs Postgres and Valkey (README.md)."""

import os
import sys

COMMANDS_WITHOUT_SERVICES = {"help", "version", "receiver", "--help", "-h", "--version"}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError as problem:
        sys.exit(
            f"{problem.name} is not installed in {sys.executable}. Run `make setup` once, and then "
            f".venv/bin/python {' '.join(sys.argv)}"
        )

    from config.services import provide_services

    try:
        if len(sys.argv) > 1 and not COMMANDS_WITHOUT_SERVICES.intersection(sys.argv[1:]):
            provide_services()
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as problem:
        sys.exit(f"Configuration error: {problem}")


if __name__ == "__main__":
    main()
