"""RQ entry points. Arguments are ids only, so that a job written by another version still runs."""


def dispatch() -> None:
    """Deliver until nothing is due. In a WebhookWorker the loop does that anyway."""
    from webhooks.dispatch.engine import run_until_idle

    run_until_idle()
