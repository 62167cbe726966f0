from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from webhook_vectors import BY_ID, VECTORS, message_of, verifier_of

from bartizan import InvalidWebhook, Misuse, WebhookVerifier
from bartizan.errors import Reason
from bartizan.testing import vectors_of
from bartizan.webhooks.keys import new_key_pair
from bartizan.webhooks.providers import STRIPE
from bartizan.webhooks.schemes import Scheme

REASONS = {
    "signature-mismatch": {"signature_mismatch"},
    "code_mismatch": {"signature_mismatch"},
    "tampered signature must be rejected": {"signature_mismatch"},
    "multiple v1, none correct, must be rejected": {"signature_mismatch"},
    "simple mode tampered signature must be rejected": {"signature_mismatch"},
    "malformed-signature": {"malformed_signature"},
    "code_not_hexadecimal": {"malformed_signature"},
    "numeric signature value must not be parsed as timestamp": {"malformed_signature"},
    "missing-header": {"header_missing"},
    "header_not_delivered": {"header_missing"},
    "timestamp-too-old": {"timestamp_too_old"},
    "valid signature past tolerance must be rejected": {"timestamp_too_old"},
    "timestamp-in-future": {"timestamp_in_future"},
    "outside_tolerance": {"timestamp_too_old", "timestamp_in_future"},
    "malformed-timestamp": {"malformed_timestamp"},
    "non-finite timestamp must be rejected": {"malformed_timestamp"},
    "malformed-header": {"malformed_header"},
    "advanced header without t must be rejected": {"malformed_header"},
    "no-supported-signature": {"no_supported_signature"},
}


def test_the_vectors_are_here() -> None:
    assert len(VECTORS) == 77
    assert {vector["expect"]["result"] for vector in VECTORS} == {"valid", "invalid", "parses", "error-at-construction"}


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    expected = vector["expect"]["result"]
    if expected == "error-at-construction":
        with pytest.raises(Misuse, match="empty"):
            verifier_of(vector)
        return
    if expected == "parses":
        scheme = Scheme(STRIPE, symmetric=True, asymmetric=False)
        _, codes, *_, moment, _ = scheme.read(vector["headers"], vector["timestamp"], 300)
        assert (len(codes), moment) == (1, vector["timestamp"])
        return
    verifier = verifier_of(vector)
    body, headers, target = message_of(vector)
    wire = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    check = verifier.begin(wire, target=target) if expected == "valid" else None
    if check is None:
        for form in (headers, wire):
            with pytest.raises(InvalidWebhook) as refused:
                verifier.verify(body, form, target=target)
            assert refused.value.reason.value in REASONS[vector["expect"]["reason"]]
        return
    for size in range(0, len(body), 7):
        check.update(body[size : size + 7])
    events = [verifier.verify(body, headers, target=target), check.end(body)]
    for event in events:
        assert event.body == body
        assert event.timestamp == vector["timestamp"]
        assert event.id
        assert event.key
        covered = {name.lower() for name in headers} - {name.lower() for name in vector.get("unsigned", ())}
        assert set(event.unsigned) <= {name.lower() for name in headers}
        assert covered
    changed = bytes([body[0] ^ 1]) + body[1:] if body else b"x"
    with pytest.raises(InvalidWebhook) as failed:
        verifier.verify(changed, headers, target=target)
    assert failed.value.reason in {Reason.SIGNATURE_MISMATCH, Reason.BODY_NOT_SIGNED}


def test_the_example_of_the_specification_is_no_vector() -> None:
    vector = BY_ID["sw-spec-example-is-not-a-vector"]
    assert vector["expect"]["reason"] == "signature-mismatch"


# --- RFC 9421 is no sender ---

RFC_9421 = [vector for _, vector in vectors_of(Path(__file__).parent / "vectors" / "webhooks", "rfc9421.json")]
SENDERS: dict[str, Callable[[], WebhookVerifier]] = {
    "standard": lambda: WebhookVerifier.standard("whsec_" + "A" * 43 + "="),
    "v1a": lambda: WebhookVerifier.standard(new_key_pair(bytes)[1]),
    "svix": lambda: WebhookVerifier.svix("whsec_" + "A" * 43 + "="),
    "openai": lambda: WebhookVerifier.openai("whsec_" + "A" * 43 + "="),
    "anthropic": lambda: WebhookVerifier.anthropic("whsec_" + "A" * 43 + "="),
    "stripe": lambda: WebhookVerifier.stripe("x" * 16),
    "github": lambda: WebhookVerifier.github("x" * 16),
    "slack": lambda: WebhookVerifier.slack("x" * 16),
    "shopify": lambda: WebhookVerifier.shopify("x" * 16),
    "twilio": lambda: WebhookVerifier.twilio("x" * 16, url="https://example.com"),
    "discord": lambda: WebhookVerifier.discord(("00" * 31) + "01"),
    "convoy": lambda: WebhookVerifier.convoy("x" * 16),
    "hook0": lambda: WebhookVerifier.hook0("x" * 16),
    "fanfare": lambda: WebhookVerifier.fanfare("x" * 16),
}


@pytest.mark.parametrize("vector", RFC_9421, ids=[vector["id"] for vector in RFC_9421])
def test_rfc_9421_is_no_scheme_of_ours(vector: dict[str, Any]) -> None:
    """The ten published vectors that are not among those above: appendix B.2 of RFC 9421, HTTP Message Signatures.

    No sender in the list signs so, and they are no webhooks: one covers nothing at all, two are responses, and of the
    rest only some cover the digest of the body. The RFC calls eight of them valid; here all are refused, because no
    sender's header is there. `rfc9421-b25-body-swapped` and `rfc9421-b22-digest-mismatch` are refused with them.
    """
    body = b64decode(vector["body_b64"])
    for make in SENDERS.values():
        with pytest.raises(InvalidWebhook) as refused:
            make().verify(body, vector["headers"], target="/foo?param=Value&Pet=dog")
        assert refused.value.reason is Reason.HEADER_MISSING


def test_all_87_published_vectors_are_here() -> None:
    assert (len(VECTORS), len(RFC_9421)) == (77, 10)
    assert not {vector["id"] for vector in VECTORS} & {vector["id"] for vector in RFC_9421}
