"""Events triggered one by one: `python -m benchmarks.traced_saves COUNT` prints the processor's
microseconds that this process spends on each, its exporter included."""

import sys
import time

import django


def main() -> None:
    django.setup()
    from benchmarks import harness
    from projects.models import User
    from webhooks import service
    from webhooks.outbox import tracing

    count = int(sys.argv[1])
    owner, data = User.objects.all()[0], harness.message()
    for _ in range(count // 10):
        service.trigger_event("session.message", owner, data)
    before = time.process_time()
    for _ in range(count):
        service.trigger_event("session.message", owner, data)
    tracing.finish()
    print((time.process_time() - before) / count * 1e6)


if __name__ == "__main__":
    main()
