"""Both ways with the senders' own packages: what they sign we verify, what we sign they verify."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe
from gidgethub import ValidationFailure, sansio
from slack_sdk.signature import SignatureVerifier
from standardwebhooks.webhooks import Webhook as StandardWebhook, WebhookVerificationError as StandardRefusal
from svix.webhooks import Webhook as SvixWebhook, WebhookVerificationError as SvixRefusal

from bartizan import InvalidWebhook, WebhookSigner, WebhookVerifier

STANDARD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TEXT = "whsec_a_text_of_enough_bytes"
BODIES = [b'{"type":"order.created","n":1}', '{"name":"Zoë 株式会社"}'.encode(), b"{}"]

bodies = pytest.mark.parametrize("body", BODIES)


@bodies
def test_standardwebhooks(body: bytes) -> None:
    peer, now = StandardWebhook(STANDARD), int(time.time())
    theirs = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": peer.sign("msg_1", datetime.fromtimestamp(now, UTC), body.decode()),
    }
    assert WebhookVerifier(STANDARD).verify(body, theirs).id == "msg_1"
    ours = WebhookSigner(STANDARD).sign(body, id="msg_1", now=now)
    assert ours == theirs
    assert peer.verify(body, ours) == json.loads(body)
    with pytest.raises(StandardRefusal):
        peer.verify(body + b" ", ours)
    with pytest.raises(InvalidWebhook):
        WebhookVerifier(STANDARD).verify(body + b" ", theirs)


@bodies
def test_svix(body: bytes) -> None:
    peer, now = SvixWebhook(STANDARD), int(time.time())
    code = peer.sign("msg_1", datetime.fromtimestamp(now, UTC), body.decode())
    theirs = {"svix-id": "msg_1", "svix-timestamp": str(now), "svix-signature": code}
    hooks = WebhookVerifier.svix(STANDARD)
    assert hooks.verify(body, theirs).id == "msg_1"
    ours = hooks.test_request(body, id="msg_2").headers
    peer.verify(body, ours)
    with pytest.raises(SvixRefusal):
        peer.verify(body + b" ", ours)


def test_a_rotation_is_understood_by_the_reference() -> None:
    now = int(time.time())
    rotated = WebhookSigner(STANDARD).rotate(now=now)
    headers = rotated.sign(b"{}", id="msg_1", now=now)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in rotated.secrets:
        assert StandardWebhook(secret.secret).verify(b"{}", headers) == {}


@bodies
def test_stripe(body: bytes) -> None:
    now = int(time.time())
    signature = stripe.WebhookSignature._compute_signature(f"{now}.{body.decode()}", TEXT)
    hooks = WebhookVerifier.stripe(TEXT)
    assert hooks.verify(body, {"Stripe-Signature": f"t={now},v1={signature},v0=ignored"}).timestamp == now
    ours = hooks.test_request(body).headers["stripe-signature"]
    assert stripe.WebhookSignature.verify_header(body.decode(), ours, TEXT, 300)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body.decode() + " ", ours, TEXT, 300)


@bodies
def test_slack(body: bytes) -> None:
    peer, now = SignatureVerifier(TEXT), str(int(time.time()))
    signature = peer.generate_signature(timestamp=now, body=body)
    assert signature is not None
    hooks = WebhookVerifier.slack(TEXT)
    headers = {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": signature}
    assert hooks.verify(body, headers).timestamp == int(now)
    assert peer.is_valid_request(body, hooks.test_request(body).headers)
    assert not peer.is_valid_request(body + b" ", hooks.test_request(body).headers)


@bodies
def test_gidgethub(body: bytes) -> None:
    hooks = WebhookVerifier.github(TEXT)
    headers = hooks.test_request(body, type="push").headers
    sansio.validate_event(body, signature=headers["x-hub-signature-256"], secret=TEXT)
    more: dict[str, Any] = {**headers, "x-github-delivery": "d1", "content-type": "application/json"}
    assert sansio.Event.from_http(more, body, secret=TEXT).event == hooks.verify(body, more).unsigned["x-github-event"]
    with pytest.raises(ValidationFailure):
        sansio.validate_event(body + b" ", signature=headers["x-hub-signature-256"], secret=TEXT)
