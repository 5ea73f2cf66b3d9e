"""Run benchmarks: `python -m benchmarks [--rounds N] [SCENARIO … | all]`.

A scenario named alone may be given options of its own, as in `quiet --rate 50 --by http`; such a run
is only printed.

Without a name the ten minutes' worth that shows most. Real Postgres with production durability, real
Valkey, real workers, on servers of their own under var/. Prints each figure beside its yardstick and
writes var/bench.json.
"""

import argparse
import importlib
import secrets
import sys
from base64 import b64encode

from benchmarks.results import store
from config.scratch import set_up_empty
from config.services import BASE_DIR

PRODUCTION = {
    "DEBUG": "0",
    "SECRET_KEY": secrets.token_urlsafe(50),
    "WEBHOOKS_ENCRYPTION_KEYS": b64encode(secrets.token_bytes(32)).decode(),
    "ALLOWED_HOSTS": "127.0.0.1,localhost",
    "SECURE_SSL_REDIRECT": "0",
    "WEBHOOKS_REQUIRE_HTTPS": "0",
    "WEBHOOKS_ALLOWED_PORTS": "*",
    "WEBHOOKS_OWN_HOSTS": "",
    "EMAIL_URL": "dummymail://",
    "WEBHOOKS_API_REQUESTS_PER_MINUTE": "1000000000",
}
"""As in production, but for what loopback lacks: with DEBUG Django keeps a record of every statement."""
USUAL = ["drain", "latency", "saving", "fairness", "receivers", "memory", "api"]
WITH_OPTIONS = ["fairness", "door", "quiet", "servers", "vacuum"]
OTHERS = [
    "batches",
    "forms",
    "idle",
    "growth",
    "purge",
    "days",
    "history",
    "payloads",
    "lists",
    "cost",
    "tracing",
]
SCENARIOS = list(dict.fromkeys([*USUAL, *WITH_OPTIONS, *OTHERS]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=2, help="How often each is measured (2).")
    options, own = parser.parse_known_args()
    if unknown := set(options.scenarios) - {*SCENARIOS, "all"}:
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    if own and options.scenarios not in ([name] for name in WITH_OPTIONS):
        parser.error(f"unrecognized arguments: {' '.join(own)}")
    set_up_empty(BASE_DIR / "var" / "bench-services", **PRODUCTION)
    from benchmarks import harness
    from benchmarks.receiver import running_receiver

    results = {}
    with running_receiver() as receiver:
        facts = harness.machine_facts()
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
        for name in SCENARIOS if "all" in options.scenarios else options.scenarios or USUAL:
            scenario = importlib.import_module(f"benchmarks.{name}")
            if own:
                scenario.parser.parse_args(own, scenario.options)
            results[name] = scenario.run(receiver, options.rounds)
            sys.stdout.flush()
            if not own:
                store(results, facts, f"{harness.now():%Y-%m-%d %H:%M} UTC")


if __name__ == "__main__":
    main()
