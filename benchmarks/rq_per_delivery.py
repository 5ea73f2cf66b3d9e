"""Yardstick: what one would write first, one RQ job per delivery that calls `requests.post`.

`python -m benchmarks.rq_per_delivery COUNT`: works off COUNT jobs, one for each delivery stored,
with RQ's SimpleWorker and prints the deliveries per second. A job reads its delivery, signs, sends
and saves the result.
"""

import sys
import time

import django
import requests
from rq.job import Job
from rq.worker import SimpleWorker


def deliver(delivery_id: str) -> None:
    from django.utils import timezone

    from webhooks.models import Attempt, Delivery
    from webhooks.wire import signing

    delivery = Delivery.objects.select_related("event", "webhook").get(id=delivery_id)
    key = signing.SigningKey.from_secret(delivery.webhook.secrets.get().value)
    body = bytes(delivery.event.payload)
    timestamp = int(time.time())
    event_id = delivery.event.public_id
    started_at = timezone.now()
    response = requests.post(
        delivery.webhook.url,
        data=body,
        timeout=delivery.webhook.timeout_seconds,
        headers={
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signing.sign_standard([key], event_id, timestamp, body),
            "X-Webhook-Signature": signing.sign_hex(key, timestamp, body),
            "X-Webhook-Timestamp": str(timestamp),
            "X-Webhook-ID": event_id,
            "X-Webhook-Event": delivery.event_type,
        },
    )
    Attempt.objects.create(
        delivery=delivery,
        number=1,
        started_at=started_at,
        duration_ms=int(response.elapsed.total_seconds() * 1000),
        url=delivery.webhook.url,
        request_head="",
        response_code=response.status_code,
        response_body=response.content,
    )
    delivery.status = "SUCCESS" if response.ok else "FAILED"
    delivery.attempt_count = 1
    delivery.finished_at = timezone.now()
    # The base class' save: the project's own signal would wake its dispatcher for every row.
    Delivery.objects.filter(id=delivery.id).update(
        status=delivery.status, attempt_count=1, finished_at=delivery.finished_at
    )


def main() -> None:
    count = int(sys.argv[1])
    django.setup()
    from webhooks.models import Delivery
    from webhooks.outbox import hints, valkey

    client = valkey.connect(30)
    client.flushdb()
    queue = hints.make_queue(client)
    for delivery_id in Delivery.objects.filter(finished_at=None).values_list("id", flat=True)[
        :count
    ]:
        queue.enqueue_call("benchmarks.rq_per_delivery.deliver", (str(delivery_id),), result_ttl=0)
    worker = SimpleWorker(
        [queue], connection=client, serializer="rq.serializers.JSONSerializer", job_class=Job
    )
    started_at = time.perf_counter()
    worker.work(burst=True, logging_level="ERROR")
    seconds = time.perf_counter() - started_at
    if Delivery.objects.filter(status="SUCCESS").count() != count:
        sys.exit("Not every delivery succeeded.")
    print(count / seconds)


if __name__ == "__main__":
    main()
