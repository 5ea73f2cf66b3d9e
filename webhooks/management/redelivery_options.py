"""The options of `manage.py redeliver`, and the deliveries that they select."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX, REDELIVERY_PREFIX, WEBHOOK_PREFIX
from webhooks.management import arguments
from webhooks.management.arguments import public_id
from webhooks.models import Delivery, Webhook
from webhooks.repair import redelivery_scope
from webhooks.repair.redelivery_scope import REPEATABLE, Scope

NAMED = ("CANCELLED", "FAILED", "PENDING", "RETRYING")
"""Statuses with which a delivery given by id is sent again; others need --force."""

REASONS: dict[str | None, str] = {
    None: "does not exist.",
    "SUCCESS": "has succeeded; use --force to send it again.",
    "SENDING": "is in flight.",
}
OTHER_REASON = "does not match, or its webhook was deleted or its payload erased."


def add_options(parser: CommandParser) -> None:
    parser.add_argument(
        "ids", nargs="*", type=public_id(DELIVERY_PREFIX), metavar="ID",
        help="Deliveries to send again, unless they succeeded (see --force).",
    )  # fmt: skip
    parser.add_argument(
        "--webhook", type=public_id(WEBHOOK_PREFIX), metavar="ID", help="Only of this webhook."
    )
    parser.add_argument(
        "--event", type=public_id(EVENT_PREFIX), metavar="ID", help="Only of this event."
    )
    parser.add_argument(
        "--owner", type=arguments.text, metavar="USER", help="Only of this user's webhooks."
    )
    parser.add_argument(
        "--type", type=arguments.event_type, metavar="TYPE", help="Only of this event type."
    )
    parser.add_argument(
        "--status", type=arguments.statuses, metavar="STATUS",
        help="Only with these statuses, comma-separated (failed).",
    )  # fmt: skip
    for name, boundary in (("--since", "at or after"), ("--until", "before")):
        parser.add_argument(
            name, type=arguments.moment, metavar="TIME",
            help=f"Only created {boundary} this time: 2h, 7d, 2026-11-23 or 2026-11-23T10:30:00Z.",
        )  # fmt: skip
    parser.add_argument(
        "--missing", action="store_true",
        help="Create missing deliveries of a --webhook with --since, or of an --event.",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=arguments.at_least(1), metavar="N",
        help="Send at most N deliveries, the oldest first.",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=arguments.rate, metavar="RATE",
        help="Spread the deliveries over time: 50/s or 30/m.",
    )  # fmt: skip
    parser.add_argument(
        "--force",
        action="store_true",
        help="Without --status, send deliveries of any status except those in flight.",
    )
    parser.add_argument(
        "--resume", type=public_id(REDELIVERY_PREFIX), nargs="+", metavar="ID",
        help="Continue these redeliveries, which were started before.",
    )  # fmt: skip
    parser.add_argument("--wait", action="store_true", help="Wait for the results.")
    parser.add_argument(
        "--dry-run", action="store_true", help="Only print the number of deliveries."
    )
    arguments.add_no_input(parser)
    arguments.add_format(parser)


def scope_of(options: Mapping[str, Any]) -> Scope:
    """Return the deliveries that the options select; raises CommandError for unknown ids."""
    owner = options["owner"]
    if options["webhook"]:
        arguments.find_webhook(options["webhook"])
    if options["event"]:
        arguments.find_event(options["event"])
    statuses: Sequence[str] = options["status"] or ("FAILED",)
    if options["ids"] and not options["status"]:
        statuses = NAMED
    if options["force"] and not options["status"]:
        statuses = sorted(REPEATABLE)
    return Scope(
        delivery_ids=tuple(options["ids"]) or None,
        webhook_id=options["webhook"],
        event_id=options["event"],
        event_type=options["type"],
        owner_id=None if owner is None else arguments.find_owner(owner).pk,
        statuses=tuple(statuses),
        since=options["since"],
        until=options["until"],
        limit=options["limit"],
    )


def skipped(scope: Scope) -> list[str]:
    """Return a line with the reason for each given delivery that is not sent again."""
    if scope.delivery_ids is None:
        return []
    matched = set(redelivery_scope.matching(scope).values_list("id", flat=True))
    left_out = [id_ for id_ in scope.delivery_ids if id_ not in matched]
    statuses = dict(Delivery.objects.filter(id__in=left_out).values_list("id", "status"))
    return [
        f"{DELIVERY_PREFIX}{id_.hex} {REASONS.get(statuses.get(id_), OTHER_REASON)}"
        for id_ in left_out
    ]


def replays_of(options: Mapping[str, Any]) -> list[tuple[Webhook, dict[str, Any]]]:
    """Return the webhooks to create missing deliveries for, each with the arguments of replay().

    Raises CommandError for options that do not fit --missing.
    """
    if options["ids"] or options["status"] or options["owner"] is not None or options["force"]:
        raise CommandError(
            "--missing works only with --webhook, --event, --type, --since, --until, --limit.",
            returncode=2,
        )
    webhooks = []
    if options["webhook"]:
        webhooks = [arguments.find_webhook(options["webhook"])]
    elif options["event"]:
        if options["rate"] is not None:
            raise CommandError(
                "--rate spreads the deliveries of one webhook: name it with --webhook.",
                returncode=2,
            )
        webhooks = redelivery_scope.webhooks_missing(arguments.find_event(options["event"]))
    else:
        raise CommandError("--missing needs --webhook or --event.", returncode=2)
    limits = {
        "since": options["since"],
        "until": options["until"],
        "event_id": options["event"],
        "event_type": options["type"],
        "limit": options["limit"],
    }
    return [(webhook, dict(limits)) for webhook in webhooks]
