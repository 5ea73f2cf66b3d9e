"""Check my code: which mistake in a receiver's verification makes it refuse a request."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from webhooks import service
from webhooks.figures.display import span
from webhooks.portal.deliveries import choices_of
from webhooks.portal.forms import CheckForm
from webhooks.portal.inbox import find_request, sender_of
from webhooks.portal.pages import show, take, too_many
from webhooks.portal.visit import Visit
from webhooks.workbench.diagnosis import Finding, read_headers

SENTENCES: dict[str, tuple[Any, Any]] = {
    "request_genuine": (
        _("The request is genuine"),
        _("Its signature was made with a live secret of this webhook over exactly this body."),
    ),
    "no_signature": (
        _("There is no signature among these headers"),
        _(
            "We send webhook-signature and X-Webhook-Signature with every request. Look whether a proxy"
            " or a framework drops or renames them."
        ),
    ),
    "older_family_only": (
        _("Only the older headers are here"),
        _(
            "Paste webhook-id, webhook-timestamp and webhook-signature as well: they are the ones to"
            " verify."
        ),
    ),
    "body_reserialised": (
        _("The body was parsed and written again"),
        _(
            "It means the same as the bytes that we sent, but is not the same: spaces, the order of keys"
            " or escapes differ. Verify the raw body, before any JSON parser."
        ),
    ),
    "body_has_newline": (
        _("The body has an additional line break or space"),
        _("Read the raw bytes, and add and strip nothing."),
    ),
    "body_cut": (
        _("The body is cut off"),
        _("It is only the beginning of what we sent. Read the whole body before you verify it."),
    ),
    "body_changed": (
        _("The body is not the one that we sent"),
        _("Its content differs from that of the event with this webhook-id."),
    ),
    "signed_for_other_webhook": (
        _("The request was signed for another webhook"),
        _("Its signature was made with the secret of %(detail)s. Each webhook has a secret of its own."),
    ),
    "request_not_ours": (
        _("No secret of this webhook made this signature"),
        _(
            "Either the headers and the body are not of the same request, or it is not from us, or the"
            " secret was rotated since."
        ),
    ),
    "timestamp_malformed": (
        _("The timestamp is not a number"),
        _("webhook-timestamp holds Unix seconds."),
    ),
    "timestamp_in_milliseconds": (
        _("The timestamp is in milliseconds"),
        _("webhook-timestamp holds seconds. Take it from the header as it is."),
    ),
    "timestamp_stale": (
        _("The timestamp is %(age)s away from now"),
        _(
            "Receivers refuse what is more than five minutes old. That is right for a request of the"
            " past; if it came just now, set the clock of your server."
        ),
    ),
    "computed_right": (
        _("Your code computes the right signature"),
        _(
            "If it refuses the request all the same, look at the comparison: webhook-signature may hold"
            " several signatures with spaces between, and one that fits is enough."
        ),
    ),
    "computed_right_older": (
        _("Your code computes the right X-Webhook-Signature"),
        _("That is the older header. webhook-signature covers the event's id, too: prefer it."),
    ),
    "computed_unknown": (
        _("No mistake that we know leads to this signature"),
        _(
            "Look whether the code reads the right secret, and whether body and headers are of the same"
            " request."
        ),
    ),
    "wrong_secret": (
        _("Your code uses the secret of another webhook"),
        _("It is that of %(detail)s."),
    ),
    "secret_not_decoded": (
        _("The secret is used as text"),
        _("Remove whsec_ and decode the rest from base64: these bytes are the key."),
    ),
    "secret_decoded": (
        _("The secret is decoded, though this is the older signature"),
        _(
            "X-Webhook-Signature is keyed with the secret's text as shown. For webhook-signature sign"
            " id.timestamp.body, and write it in base64."
        ),
    ),
    "older_family": (
        _("This is the signature of the older header"),
        _(
            "It fits X-Webhook-Signature in another spelling. For webhook-signature sign"
            " id.timestamp.body with the decoded secret."
        ),
    ),
    "id_left_out": (
        _("The event's id is missing in what is signed"),
        _("Sign webhook-id, a dot, webhook-timestamp, a dot and the body."),
    ),
    "body_only": (
        _("Only the body is signed"),
        _("Sign webhook-id, a dot, webhook-timestamp, a dot and the body."),
    ),
    "dots_left_out": (
        _("The dots are missing in what is signed"),
        _("Sign webhook-id, a dot, webhook-timestamp, a dot and the body."),
    ),
    "id_and_timestamp_swapped": (
        _("Id and timestamp are in the wrong order"),
        _("Sign webhook-id, a dot, webhook-timestamp, a dot and the body."),
    ),
    "reserialised": (
        _("Your code signs a body that was parsed and written again"),
        _("Verify the raw bytes of the request, before any JSON parser."),
    ),
    "body_stripped": (
        _("Your code strips the body"),
        _("Read the raw bytes, and add and strip nothing."),
    ),
    "newline_added": (
        _("Your code adds a line break to the body"),
        _("Read the raw bytes, and add and strip nothing."),
    ),
    "prefix_missing": (
        _("The prefix v1, is missing"),
        _("Compare with v1, in front, or remove it from the header's value before you compare."),
    ),
    "hex_for_base64": (
        _("Your code writes the signature in hex"),
        _("webhook-signature is in base64; only the older X-Webhook-Signature is in hex."),
    ),
    "base64_for_hex": (
        _("Your code writes the signature in base64"),
        _("X-Webhook-Signature is in lower-case hex."),
    ),
    "prefix_and_base64": (
        _("Your code writes the signature as v1 and base64"),
        _("That is right for webhook-signature; X-Webhook-Signature is in lower-case hex."),
    ),
    "upper_hex": (
        _("Your code writes the signature in upper-case hex"),
        _("webhook-signature is in base64, X-Webhook-Signature in lower-case hex."),
    ),
    "base64_url": (
        _("Your code uses the URL-safe base64"),
        _("Signatures use the standard alphabet, with + and /."),
    ),
    "padding_missing": (
        _("The base64 has no padding"),
        _("Keep the = at the end."),
    ),
}  # fmt: skip
"""By the word of a finding: what it is, and what to do."""


@sensitive_variables()
def check(visit: Visit) -> HttpResponse:
    """Ask for a request, and say what is right and wrong with it."""
    request = visit.request
    form = CheckForm(request.POST if request.method == "POST" else None, choices_of(visit))
    if request.method != "POST":
        form.initial = {"webhook": request.GET.get("webhook", "")} | _captured(visit)
    findings: list[dict[str, Any]] = []
    if request.method == "POST" and form.is_valid():
        # As dear as a test request: it computes many signatures.
        allowance = take(visit, "test")
        if allowance.is_exceeded:
            return too_many(visit, allowance)
        data = form.cleaned_data
        webhook = visit.webhook(data["webhook"])
        # Browsers send line breaks of a form as CRLF.
        body = data["body"].replace("\r\n", "\n").encode()
        found = service.diagnose(webhook, read_headers(data["headers"]), body, data["computed"])
        findings = [shown for one in found for shown in _shown(visit, one)]
    context = {"form": form, "findings": findings}
    return show(visit, "check", context, status=422 if form.errors else 200)


def _captured(visit: Visit) -> dict[str, str]:
    """Return what a request in the test inbox fills in."""
    try:
        request_id = UUID(visit.request.GET.get("captured", ""))
    except ValueError:
        return {}
    row = find_request(visit, request_id)
    sender = sender_of(visit, row)
    filled = {"headers": row.head, "body": row.text}
    return filled | ({"webhook": sender.public_id} if sender else {})


def _shown(visit: Visit, finding: Finding) -> list[dict[str, Any]]:
    # The names of other webhooks are not of whoever sees one only.
    detail = finding.detail if visit.only is None else _("another webhook")
    values = {"detail": detail, "age": _span(finding.detail)}
    shown = []
    for word in finding.word.split("+"):
        title, text = SENTENCES[word]
        shown.append(
            {
                "word": word,
                "is_good": finding.is_good,
                "title": title % values,
                "text": text % values,
            }
        )
    return shown


def _span(text: str) -> str:
    return span(timedelta(seconds=int(text))) if text.isdecimal() else ""
