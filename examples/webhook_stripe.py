"""A receiver for Stripe: each event reaches `shop` once, however often Stripe sends it.

Serve it with `uvicorn webhook_stripe:app`, and STRIPE_SECRET in the environment.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypedDict

from bartizan import Bartizan, WebhookVerifier

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

security = Bartizan(os.environ.get("SHOP_DATABASE", "memory://"), environment="live")
hooks = WebhookVerifier.stripe(os.environ["STRIPE_SECRET"])
paid: dict[str, str] = {}  # by the id of the event: twice is once


class PaymentIntent(TypedDict):
    id: str
    amount: int
    currency: str


class Data(TypedDict):
    object: PaymentIntent


class Paid(TypedDict):
    type: str
    data: Data


async def shop(scope: Scope, _: Any, send: Send) -> None:
    event = scope["bartizan.webhook"]  # a KeyError where nothing was verified
    if event.type == "payment_intent.succeeded":
        paid[event.id] = event.parse(Paid)["data"]["object"]["id"]
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


app = hooks.asgi(shop, path="/stripe", security=security)

# The documented payload of an event (Stripe's API reference, "The Event object"), shortened.
EVENT = {
    "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy",
    "object": "event",
    "api_version": "2019-02-19",
    "created": 1686089970,
    "data": {
        "object": {"id": "pi_3NG8Du2eZvKYlo2C1Lr3bxeS", "object": "payment_intent", "amount": 2000, "currency": "usd"}
    },
    "livemode": False,
    "pending_webhooks": 0,
    "type": "payment_intent.succeeded",
}
