"""RQ jobs. Their arguments are ids only, so that a job of another version still runs."""


def dispatch() -> None:
    """Send deliveries until none is due.

    Only a stock RQ worker runs this; a WebhookWorker takes the job as a wake-up.
    """
    from webhooks.dispatch.engine import run_until_idle
    from webhooks.postgres.sql import leave_pools

    leave_pools()
    run_until_idle()
