"""A sender that rotates its secret: receivers change at their leisure, and see when the old secret falls silent.

Run it: `python webhook_sender.py`.
"""

import json

from bartizan import InvalidWebhook, NamedSecret, WebhookSigner, WebhookVerifier

DAY = 86_400


def deliveries(start: int = 1_800_000_000) -> list[str]:
    """What a receiver that still has the old secret, and one that has the new one, see on three days."""
    body = json.dumps({"type": "order.created", "data": {"total": 12}}).encode()
    signer = WebhookSigner([NamedSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", name="2026")])
    told = []
    for day, what in enumerate(["before", "on the day of the rotation", "after the grace"]):
        now = start + day * DAY
        if day == 1:
            signer = signer.rotate(now=now, grace=DAY)  # what is stored is signer.secrets, sealed
        headers = signer.sign(body, id=f"msg_{day}", now=now)
        for name, secret in (("old", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), ("new", signer.secrets[0].secret)):
            receiver = WebhookVerifier([NamedSecret(secret, name=name)], clock=lambda now=now: now)  # type: ignore[misc]
            try:
                told.append(f"{what}: the {receiver.verify(body, headers).key} secret verifies")
            except InvalidWebhook as refused:
                told.append(f"{what}: the {name} secret is refused, {refused.reason}")
    return told


if __name__ == "__main__":
    print("\n".join(deliveries()))
