"""Mutated proofs of possession and tickets: each is refused with a reason, or is one of the key that it must be.

`PYTHONPATH=tests python -m fuzz.proofs 1000000` runs as many as you like.
"""

import random
import sys
from collections import Counter
from typing import Any

from bartizan.core.encoding import base64url, unbase64url
from bartizan.errors import InvalidToken, Reason
from bartizan.sessions.binding import Proof, ProofReader
from bartizan.testing import Kit, ProofKey, acting_as
from fuzz.tokens import NOW, mutated, mutated_json

ORIGIN = "https://shop.example"
TOKEN = "eyJhbGciOiJFZERTQSJ9.e30.AA"


def resigned(key: Any, proof: str, chance: random.Random) -> str:
    """A mutation of header or claims under a signature that holds, so that what they say is reached."""
    head, claims, _ = (unbase64url(part) or b"" for part in proof.split("."))
    if chance.random() < 0.3:
        head = mutated_json(head, chance)
    else:
        claims = mutated_json(claims, chance)
    message = f"{base64url(head)}.{base64url(claims)}"
    return f"{message}.{base64url(key._key.sign(message.encode()))}"


def fuzzed(count: int, seed: int = 1) -> Counter[str]:
    """How often each outcome came; raises at the first that must not be."""
    chance, reader, key = random.Random(seed), ProofReader([ORIGIN]), ProofKey(lambda: NOW)
    proof = key.proof("GET", f"{ORIGIN}/me", token=TOKEN, nonce="ours")
    another = ProofKey(lambda: NOW).proof("GET", f"{ORIGIN}/me", token=TOKEN, nonce="ours")
    asked: dict[str, Any] = {
        "method": "GET", "path": "/me", "now": NOW, "token": TOKEN, "thumbprint": key.thumbprint,
        "nonce": lambda text: text == "ours",
    }  # fmt: skip
    seen: Counter[str] = Counter()
    for _ in range(count):
        text = (
            resigned(key, proof, chance) if chance.random() < 0.5 else mutated(chance.choice((proof, another)), chance)
        )
        try:
            found = reader.read(text, **asked)
        except Exception as error:
            raise RuntimeError(repr(text)) from error
        if isinstance(found, Reason):
            seen[found] += 1
        elif found.__class__ is not Proof or found.thumbprint != key.thumbprint or not NOW < found.until <= NOW + 66:
            raise RuntimeError(repr(text))
        else:
            seen["taken"] += 1
    return seen


def tickets_fuzzed(count: int, seed: int = 1) -> int:
    """How many mutants of a ticket were refused; raises at the first that was not."""
    chance, kit = random.Random(seed), Kit()
    sessions = kit.security.blocking.sessions
    with acting_as(sessions.authenticate(kit.token(org="org_1", subject="anna")), of=kit):
        ticket = sessions.ticket(path="/live")
    tickets = kit.security._shared.blocking_side.sessions._tickets
    refused = 0
    for _ in range(count):
        text = mutated(ticket, chance)
        try:
            principal, _ = tickets.read(text, "/live")
        except InvalidToken:
            refused += 1
            continue
        if text != ticket or principal.subject != "anna":
            raise RuntimeError(repr(text))
    return refused


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(fuzzed(number), tickets_fuzzed(number))
