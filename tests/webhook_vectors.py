"""The published vectors, and the verifier that each of them is for."""

from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bartizan import WebhookVerifier
from bartizan.testing import vectors_of

VECTORS: list[dict[str, Any]] = [
    vector for _, vector in vectors_of(Path(__file__).parent / "vectors" / "webhooks", "published.json")
]
BY_ID = {vector["id"]: vector for vector in VECTORS}


def verifier_of(vector: dict[str, Any], **options: Any) -> WebhookVerifier:
    """The verifier that reads a vector, at its time."""
    given: dict[str, Any] = {
        "unsafe_short_secret": True,
        "clock": lambda: vector.get("now") or 0,
        "tolerance": min(vector.get("tolerance", 300), 86_400),
        **options,
    }
    secret = vector["secret"]
    name, *rest = vector["scheme"].split("/")
    if name == "standard-webhooks":
        return (WebhookVerifier.svix if "svix-id" in vector["headers"] else WebhookVerifier.standard)(secret, **given)
    if name == "convoy":
        mode, algorithm, encoding = rest
        return WebhookVerifier.convoy(
            secret, timestamped=mode == "advanced", algorithm=algorithm, encoding=encoding, **given
        )
    if name == "x-twitter":
        return WebhookVerifier.custom(
            secret,
            signature="X-Twitter-Webhooks-Signature",
            signed="{body}",
            label="sha256=",
            encoding="base64",
            **given,
        )
    if name == "twilio":
        return WebhookVerifier.twilio(secret, url=address_of(vector)[0], **given)
    made: WebhookVerifier = getattr(WebhookVerifier, name)(secret, **given)
    return made


def address_of(vector: dict[str, Any]) -> tuple[str, str]:
    """What comes before the path, and the rest."""
    start = vector["url"].index("/", len("https://"))
    return vector["url"][:start], vector["url"][start:]


def message_of(vector: dict[str, Any]) -> tuple[bytes, dict[str, str], str | None]:
    """Body, headers and target."""
    body = b64decode(vector.get("body_b64") or "")
    if vector.get("params"):
        body = urlencode(vector["params"], doseq=True).encode()
    return body, vector["headers"], address_of(vector)[1] if "url" in vector else None
