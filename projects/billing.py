"""Event types of billing, which is another service and triggers its events through the API."""

from webhooks.catalog import (
    COUNT,
    OPTIONAL_TEXT,
    TEXT,
    TIME_TEXT,
    EventType,
    object_schema,
    register,
)

_TIME = "2026-11-23T10:30:00.123Z"
CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$"}
_SUBSCRIPTION = {
    "id": TEXT,
    "plan": TEXT,
    "status": {"enum": ["trialing", "active", "past_due", "cancelled"]},
    "amount": {**COUNT, "description": "Per interval, in minor units of the currency."},
    "currency": CURRENCY,
    "interval": {"enum": ["month", "year"]},
    "currentPeriodEnd": TIME_TEXT,
}
_PRICE = ("amount", "currency", "interval", "currentPeriodEnd")
"""Keys that are missing for a plan without a price."""
_PAYMENT = {
    "id": TEXT,
    "subscriptionId": OPTIONAL_TEXT,
    "amount": {**COUNT, "description": "In minor units of the currency, such as cents."},
    "currency": CURRENCY,
}
_SUBSCRIPTION_EXAMPLE = {
    "id": "sub_8sHq2",
    "plan": "team",
    "status": "active",
    "amount": 2900,
    "currency": "EUR",
    "interval": "month",
    "currentPeriodEnd": "2026-12-23T10:30:00.000Z",
}
_PAYMENT_EXAMPLE = {
    "id": "pay_4Jx9t",
    "subscriptionId": "sub_8sHq2",
    "amount": 2900,
    "currency": "EUR",
}

register(
    EventType(
        name="subscription.created",
        description="A subscription started.",
        schema=object_schema({**_SUBSCRIPTION, "createdAt": TIME_TEXT}, optional=_PRICE),
        example={**_SUBSCRIPTION_EXAMPLE, "createdAt": _TIME},
    ),
    EventType(
        name="subscription.updated",
        description="A subscription's plan or status changed.",
        schema=object_schema({**_SUBSCRIPTION, "updatedAt": TIME_TEXT}, optional=_PRICE),
        example={**_SUBSCRIPTION_EXAMPLE, "updatedAt": _TIME},
    ),
    EventType(
        name="subscription.cancelled",
        description="A subscription was cancelled.",
        schema=object_schema(
            {"id": TEXT, "plan": TEXT, "reason": OPTIONAL_TEXT, "cancelledAt": TIME_TEXT}
        ),
        example={"id": "sub_8sHq2", "plan": "team", "reason": None, "cancelledAt": _TIME},
    ),
    EventType(
        name="payment.succeeded",
        description="A payment was received.",
        schema=object_schema({**_PAYMENT, "paidAt": TIME_TEXT}),
        example={**_PAYMENT_EXAMPLE, "paidAt": _TIME},
    ),
    EventType(
        name="payment.failed",
        description="A payment was refused.",
        schema=object_schema({**_PAYMENT, "reason": TEXT, "failedAt": TIME_TEXT}),
        example={**_PAYMENT_EXAMPLE, "reason": "card_declined", "failedAt": _TIME},
    ),
)
