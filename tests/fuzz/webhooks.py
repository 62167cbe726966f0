"""Mutated messages: each verifies or is refused by an error of ours, and none verifies that was not signed.

`python tests/fuzz/webhooks.py 1000000` runs as many as you like.
"""

import random
import sys
from collections import Counter
from typing import Any

from webhook_vectors import VECTORS, message_of, verifier_of

from bartizan import Misuse, Rejected, WebhookVerifier

TRAPS = (
    b",", b" ", b"=", b".", b"v1,", b"v1a,", b"t=", b"h=", b"v0=", b"sha1=", b"sha256=", b"\x00", b"\n", b"\r\n", b"\xff", b"\xc3\xa9",
    b"\xd9\xa1", b"_", b"+", b"-", b"0", b"9" * 30, b"1e9", b"nan", b"%", b"{id}", b"A" * 44, b"0" * 64, b"x" * 5000, b"v1, " * 40, b"[" * 2000,
)  # fmt: skip
NAMES = (
    "webhook-id",
    "webhook-signature",
    "stripe-signature",
    "x-hub-signature-256",
    "x-event-id",
    "Content-Length",
    "",
)

Pairs = list[tuple[bytes, bytes]]
Seed = tuple[WebhookVerifier, bytes, Pairs, str | None]


def seeds() -> list[Seed]:
    """What verifies, one of each form that has something to verify."""
    found: list[Seed] = []
    for vector in VECTORS:
        if vector["expect"]["result"] in {"valid", "invalid"}:
            body, headers, target = message_of(vector)
            pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            found.append((verifier_of(vector), body, pairs, target))
    return found


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same, changed in one place or a few."""
    place = int(chance.random() * (len(data) + 1))
    act = int(chance.random() * 5)
    if act == 0:
        return data[:place] + TRAPS[int(chance.random() * len(TRAPS))] + data[place:]
    if act == 1:
        return data[:place] + data[place + 1 + int(chance.random() * 4) :]
    if act == 2 and data:
        place %= len(data)
        return data[:place] + bytes([data[place] ^ 1 << int(chance.random() * 8)]) + data[place + 1 :]
    if act == 3:
        return data[:place] + data[: int(chance.random() * 12)] + data[place:]
    return data[:place]


def fuzzed(count: int, seed: int = 1) -> Counter[str]:
    """How often each outcome came; anything that is neither an event nor an error of ours leaves."""
    chance = random.Random(seed)
    planted = seeds()
    published = {body for _, body, *_ in planted}  # the mutator may repair a vector that is refused
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        hooks, body, pairs, target = planted[int(chance.random() * len(planted))]
        which = chance.random()
        headers: Any = pairs
        changed = body
        if which < 0.25:
            changed = mutated(body, chance)
        elif which < 0.95:
            place = int(chance.random() * len(pairs))
            headers = list(pairs)
            headers[place] = (pairs[place][0], mutated(pairs[place][1], chance))
            if which > 0.85:
                headers.append((NAMES[int(chance.random() * len(NAMES))].encode(), pairs[0][1]))
        elif target is not None:
            target = mutated(target.encode(), chance).decode("latin-1")
        if which < 0.5:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        try:
            event = hooks.verify(changed, headers, target=target)
        except Rejected as error:
            outcomes[error.reason.value] += 1
        except Misuse:
            outcomes["misuse"] += 1
        else:
            outcomes["event"] += 1
            # Twilio's own scheme: two spellings of a form may be signed alike.
            if event.body not in published and hooks.scheme.provider.name != "twilio":
                raise AssertionError("a body verifies that nobody signed")
    return outcomes


if __name__ == "__main__":
    sys.path.insert(0, "tests")
    print(fuzzed(int(sys.argv[1])))
