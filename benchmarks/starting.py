"""What the app adds to the start of a process: `python -m benchmarks.starting`.

Django alone and Django with the app, without any extra, in turn; processor time, each in a process of
its own.
"""

import statistics
import subprocess
import sys

PROGRAM = """
import sys, time
started = time.process_time()
import django
from django.conf import settings
contrib = ("auth", "contenttypes", "sessions", "messages", "staticfiles", "postgres")
settings.configure(
    INSTALLED_APPS=[*(f"django.contrib.{name}" for name in contrib), *sys.argv[1:]],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
print((time.process_time() - started) * 1000)
"""
ROUNDS = 9


def milliseconds(*apps: str) -> float:
    command = [sys.executable, "-c", PROGRAM, *apps]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    rounds = [(milliseconds(), milliseconds("webhooks")) for _ in range(ROUNDS)]
    bare = statistics.median(alone for alone, _ in rounds)
    added = statistics.median(both - alone for alone, both in rounds)
    print(
        f"Django alone {bare:.0f} ms; the app adds {added:.0f} ms, a factor of {1 + added / bare:.2f}"
    )


if __name__ == "__main__":
    main()
