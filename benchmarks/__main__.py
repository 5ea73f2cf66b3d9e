"""Run benchmarks: `python -m benchmarks [--rounds N] [SCENARIO …]`, everything by default.

Real Postgres with production durability, real Valkey, real workers, on servers of their own under
var/. Prints each figure beside its yardstick and writes var/bench.json.
"""

import argparse
import importlib
import os
import sys

SCENARIOS = ["drain", "latency", "fairness", "purge", "api", "lists"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=3, help="How often each is measured (3).")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    _set_up()
    from benchmarks import harness
    from benchmarks.receiver import running_receiver

    results = {}
    with running_receiver() as receiver:
        facts = harness.machine_facts()
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
        for name in options.scenarios or SCENARIOS:
            scenario = importlib.import_module(f"benchmarks.{name}")
            results[name] = scenario.run(receiver, options.rounds)
            sys.stdout.flush()
    harness.store(results)
    print("\nWritten to var/bench.json.")


def _set_up() -> None:
    from config.services import BASE_DIR, provide_services

    # Never somebody's own database: everything in it is truncated.
    for url in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(url, None)
    os.environ |= {
        "DEBUG": "1",
        "WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
        "WEBHOOKS_API_REQUESTS_PER_MINUTE": "1000000000",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    provide_services(BASE_DIR / "var" / "bench-services")
    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    with connection.cursor() as cursor:
        # Whatever an older version left behind.
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    main()
