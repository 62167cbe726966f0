"""Mutated tokens: each is a `VerifiedToken` or an `InvalidToken`, and what is accepted re-encodes to the same text.

`python tests/fuzz/tokens.py 1000000` runs as many as you like.
"""

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from bartizan import Issuer, TokenVerifier
from bartizan.core.drive import run
from bartizan.core.encoding import base64url, unbase64url
from bartizan.core.ports import SteppedClock
from bartizan.credentials.access_tokens import signed
from bartizan.credentials.issuer_keys import Outside
from bartizan.credentials.jws import SigningKey, new_signing_key
from bartizan.errors import InvalidToken
from bartizan.stores.waits import BlockingWaits
from bartizan.testing import FakeClock, Kit

NOW = 1_800_000_000
CLAIMS: dict[str, Any] = {
    "iss": "shop", "aud": "api", "sub": "cons_1", "exp": NOW + 300, "iat": NOW - 60, "jti": "j", "org": "org_1", "sid": "s_1",
    "gen": 0, "env": "live",
}  # fmt: skip
TRAPS = (
    ".", "..", "=", "==", "+", "/", " ", "\n", "\0", "é", "\ud800", "A", "_", "-", "eyJhbGciOiJub25lIn0", "e30", "bnVsbA", "A" * 300, "eyJ", "{", '"',
)  # fmt: skip
JSON_TRAPS = (
    b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"1e999", b"-1", b"0", b"9" * 30, b'"alg":"none",', b'"sub":"x",',
    b"\xff", b"\0", b"\xef\xbb\xbf", b" ", b"[" * 60, b'"iss":"https://b.example",', b'"aud":"x",', b'"typ":"rt+jwt",', b'"crit":["a"],', b'"exp":1,', b"1.5",
)  # fmt: skip
CHANGES: tuple[tuple[str, Any], ...] = (
    ("exp", NOW - 4), ("exp", NOW - 5), ("exp", NOW + 90_000), ("iat", NOW + 5), ("iat", NOW + 6), ("iat", NOW - 90_000),
    ("nbf", NOW + 6), ("nbf", NOW - 6), ("kid", "x"), ("aud", ["api", "x"]), ("aud", [["api"]]), ("org", "org_2"),
    ("env", "test"), ("iss", "x"), ("act", None),
)  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        place, act = chance.randrange(len(text) + 1), chance.randrange(5)
        if act == 0:
            text = text[:place] + chance.choice(TRAPS) + text[place:]
        elif act == 1:
            text = text[:place] + chr(chance.randrange(256)) + text[place + 1 :]
        elif act == 2:
            text = text[:place] + text[place + chance.randrange(1, 9) :]
        elif act == 3:
            text = text[:place]
        else:
            other = chance.randrange(len(text) + 1)
            text = text[: max(place, other)] + text[min(place, other) :]
    return text


def mutated_json(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    cut = chance.choice((0, 0, 1, 2))
    return data[:place] + chance.choice(JSON_TRAPS) + data[place + cut :]


def resigned(key: SigningKey, token: str, chance: random.Random) -> str:
    """A mutation under a signature that holds, so that the claims are reached."""
    parts = [unbase64url(part) or b"" for part in token.split(".")]
    if chance.random() < 0.2:
        name, value = chance.choice(CHANGES)
        place = "kid" not in name
        parts[place] = json.dumps({**json.loads(parts[place]), name: value}).encode()
    else:
        if chance.random() < 0.3:
            parts[0] = mutated_json(parts[0], chance)
        if chance.random() < 0.8:
            parts[1] = mutated_json(parts[1], chance)
    message = f"{base64url(parts[0])}.{base64url(parts[1])}"
    return f"{message}.{base64url(key.sign(message.encode()))}"


def fuzz(count: int, seed: int) -> Counter[str]:
    """How many were verified and refused, and why; anything else than these two is raised."""
    chance, key = random.Random(seed), new_signing_key("HS256", os.urandom)
    jwk = {**key.private_jwk(), "kid": key.verification.kid}
    check = TokenVerifier({"keys": [jwk]}, issuer="shop", audience="api", environment="live", algorithms=["HS256"])

    def verify(token: str) -> str:
        return check.verify(token, now=NOW).subject

    return _fuzzed(count, chance, key, CLAIMS, verify)


def fuzz_members(count: int, seed: int) -> Counter[str]:
    """The same of members' tokens, where one of two issuers signs, whose keys are both known."""
    chance, keys = random.Random(seed), [new_signing_key("EdDSA", os.urandom) for _ in range(2)]
    issuers = [
        Issuer(
            f"https://{name}.example",
            organizations={"org_1"},
            audience="api",
            organization_claim="org",
            jwks={"keys": [dict(key.verification.public or {})]},
        )
        for name, key in zip("ab", keys, strict=True)
    ]
    kit = Kit()
    members = Outside(
        issuers,
        environment="live",
        clock=SteppedClock(FakeClock(now=NOW)),
        journal=kit.security._shared.journal,
        wake=lambda: None,
    ).form(None, BlockingWaits())

    def verify(token: str) -> str:
        return run(members.authenticate(token.encode("latin-1", "replace"))).subject

    claims = {**CLAIMS, "act": {"iss": "https://b.example", "sub": "x"}, "iss": "https://a.example", "roles": ["r"]}
    return _fuzzed(count, chance, keys[0], claims, verify)


def _fuzzed(
    count: int, chance: random.Random, key: SigningKey, claims: dict[str, Any], verify: Callable[[str], str]
) -> Counter[str]:
    good = signed(key, claims)
    verify(good)
    seen: Counter[str] = Counter()
    for i in range(count):
        if i % 100 == 0:
            good = signed(key, {**claims, "jti": str(i), "x": [{"y": "é"}] * chance.randrange(3)})
        token = resigned(key, good, chance) if chance.random() < 0.25 else mutated(good, chance)
        try:
            subject = verify(token)
        except InvalidToken as error:
            seen["refused"] += 1
            seen[f"refused: {error.reason}"] += 1
            continue
        seen["verified"] += 1
        parts = token.split(".")
        if [base64url(unbase64url(part) or b"") for part in parts] != parts or len(parts) != 3:
            raise AssertionError(f"another spelling is accepted: {token!r}")
        if json.loads(unbase64url(parts[1]) or b"")["sub"] != subject:
            raise AssertionError(f"it says something else: {token!r}")
    return seen


if __name__ == "__main__":
    many = int(sys.argv[1]) if sys.argv[1:] else 100_000
    for run_of in (fuzz, fuzz_members):
        print(run_of.__name__, run_of(many, seed=random.randrange(2**32)))
