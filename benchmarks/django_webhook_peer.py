"""Yardstick: django-webhook, the Django peer, as its own documentation sets it up.

`python -m benchmarks.django_webhook_peer URL COUNT` saves COUNT model instances, for each of which
its signal enqueues a Celery task, and prints how many deliveries per second one Celery worker
process then makes. Tables in a schema of their own, payloads about half as long as ours. It signs
once, sends once, stores one row per event, and retries with Celery.
"""

import os
import subprocess
import sys
import time
import warnings

import django
import environ
from celery import Celery
from django.conf import settings

PATIENCE_SECONDS = 120.0
SCHEMA = "django_webhook_peer"
SECRET = "a secret of some length"

settings.configure(
    DATABASES={"default": environ.Env.db_url_config(os.environ["DATABASE_URL"])},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_webhook"],
    DJANGO_WEBHOOK={"MODELS": ["auth.Group"]},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
options = settings.DATABASES["default"].setdefault("OPTIONS", {})
options["options"] = f"-c search_path={SCHEMA}"
# It looks into the database while Django starts.
warnings.filterwarnings("ignore", message="Accessing the database during app initialization")
# Before django-webhook is imported, whose tasks belong to whatever application there is by then.
app = Celery("peer", broker=os.environ["REDIS_URL"].replace("unix:", "redis+socket:"))
app.conf.task_ignore_result = True
app.set_default()
django.setup()


def main() -> None:
    from django.contrib.auth.models import Group
    from django.core.management import call_command
    from django.db import connection
    from django_webhook.models import (
        Webhook,
        WebhookEvent,
        WebhookSecret,
        WebhookTopic,
        populate_topics_from_settings,
    )

    url, count = sys.argv[1], int(sys.argv[2])
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}")
    call_command("migrate", verbosity=0)
    populate_topics_from_settings()
    webhook = Webhook.objects.create(url=url)
    WebhookSecret.objects.create(webhook=webhook, token=SECRET)
    webhook.topics.set(WebhookTopic.objects.filter(name="auth.Group/create"))
    for number in range(count):
        Group.objects.create(name=f"{number:03} {'x' * 140}")
    worker = subprocess.Popen(
        [
            sys.executable, "-m", "celery", "-A", "benchmarks.django_webhook_peer", "worker",
            "--pool=solo", "--loglevel=CRITICAL", "--without-gossip", "--without-mingle",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        done = WebhookEvent.objects.filter(status="SUCCESS")
        gives_up_at = time.monotonic() + PATIENCE_SECONDS
        while done.count() < count:
            if time.monotonic() > gives_up_at:
                sys.exit(f"Only {done.count()} of {count} were delivered.")
            time.sleep(0.2)
    finally:
        worker.terminate()
        worker.wait()
    times = list(done.order_by("created").values_list("created", flat=True))
    print((count - 1) / (times[-1] - times[0]).total_seconds())


if __name__ == "__main__":
    main()
