"""Fanfare, as values: how its webhooks are signed (public documentation, "Webhook signatures" and "Retry policy").

The pages describe four schemes. A is the reference and the default. C and D sign the body alone, so that a captured
delivery can be sent again for ever; only `unsafe_` names of the verifier reach them.
"""

from typing import TYPE_CHECKING

from bartizan.access.roles import ROLES as DASHBOARD
from bartizan.webhooks.keys import Secrets
from bartizan.webhooks.providers import Provider
from bartizan.webhooks.signer import WebhookSigner

if TYPE_CHECKING:
    from bartizan.webhooks.delivery import WebhookPolicy

ROLES = DASHBOARD  # what dashboard users may do ("Team members")

# Seconds before each attempt after the one before it: 44.6 hours over eight attempts.
WEBHOOK_SCHEDULE = (0, 60, 300, 1_800, 7_200, 21_600, 43_200, 86_400)

_UNSIGNED = (
    "x-fanfare-event-type",
    "x-fanfare-delivery-id",
    "x-fanfare-webhook-id",
    "x-fanfare-retry-count",
    "x-fanfare-original-time",
)
_RETRIED_FOR = sum(WEBHOOK_SCHEDULE)

WEBHOOK_A = Provider(
    name="fanfare", signature="x-fanfare-signature", timestamp="x-fanfare-timestamp", signed="{timestamp}.{body}",
    label="sha256=", id_member="id", type_member="type", type_header="x-fanfare-event-type", unsigned=_UNSIGNED,
    retried_for=_RETRIED_FOR,
)  # fmt: skip
WEBHOOK_B = Provider(
    name="fanfare", signature="x-fanfare-signature", signed="{timestamp}.{body}", layout="pair",
    id_member="id", type_member="type", type_header="x-fanfare-event-type", unsigned=_UNSIGNED,
    retried_for=_RETRIED_FOR,
)  # fmt: skip
WEBHOOK_C = Provider(
    name="fanfare", signature="x-fanfare-signature", signed="{body}",
    id_member="id", type_member="type", type_header="x-fanfare-event-type", unsigned=("x-fanfare-event-id", *_UNSIGNED),
    retried_for=_RETRIED_FOR,
)  # fmt: skip
WEBHOOK_D = Provider(
    name="fanfare", signature="x-fanfare-signature", signed="{body}", label="sha256=",
    id_member="id", type_member="type", type_header="x-fanfare-event-type",
    unsigned=("x-fanfare-timestamp", *_UNSIGNED),
    retried_for=_RETRIED_FOR,
)  # fmt: skip


def webhook_signer(secrets: Secrets) -> WebhookSigner:
    """Signs as Fanfare's reference says. Its header has room for one code: the newest live secret signs alone."""
    return WebhookSigner(secrets, provider=WEBHOOK_A)


def webhook_policy() -> "WebhookPolicy":
    """How Fanfare sends ("Retry policy"): 30 seconds for an answer, off after 100 failures in 7 days."""
    from bartizan.core.address import EndpointPolicy  # noqa: PLC0415 - loaded by who sends
    from bartizan.webhooks.delivery import WebhookPolicy  # noqa: PLC0415

    return WebhookPolicy(
        endpoint=EndpointPolicy(seconds=30, max_bytes=65_536), schedule=WEBHOOK_SCHEDULE, failures=100,
        failing_for=7 * 86_400, provider=WEBHOOK_A, agent="Fanfare-Webhooks/1.0",
        told={
            "delivery": "x-fanfare-delivery-id", "endpoint": "x-fanfare-webhook-id", "retries": "x-fanfare-retry-count",
        },
    )  # fmt: skip
