"""Secrets in whatever surroundings: none is printed, and no text raises.

`python tests/fuzz/redaction.py 1000000` runs as many as you like.
"""

import random
import string
import sys
from collections import Counter

from bartizan.core.encoding import base62, checksum
from bartizan.core.redact import MARK, REDACTOR, Held

TRAPS = (
    "sk_live_", "sk_test_", "bzs_", "whsec_", "eyJ", ".", "_AQ", "Bearer ", "Basic ", "?key=", "%", "%25", "%5F", "\\", "\\u00", "\\x5f",
    "c2tf", "ZXlK", "=", "==", "\n", "\\n", "-----BEGIN PRIVATE KEY-----", "é", "\ud800", "\x00", "a" * 80, " ", "[redacted]",
)  # fmt: skip


def around(chance: random.Random) -> str:
    """Text that a secret may stand in, with whatever could mislead a search."""
    parts = [chance.choice((*TRAPS, chance.choice(string.printable))) for _ in range(int(chance.random() * 8))]
    return "".join(parts)


def fuzzed(count: int, seed: int = 1) -> Counter[str]:
    """How often each kind of text was read; raises where a secret is printed."""
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(count):
        core = base62(chance.randbytes(32), 43)
        body = f"sk_live_{base62(chance.randbytes(11), 16)}_{core}"
        key = body + checksum(body)
        before, after = around(chance), around(chance)
        text = before + key + after
        kind = chance.choice(("text", "bytes", "value", "stream"))
        if kind == "text":
            out = REDACTOR.text(text)
        elif kind == "bytes":
            out = REDACTOR.bytes(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        elif kind == "value":
            out = str(REDACTOR.value({"a": [(text,)], before: text}))
        else:
            held, cut = Held(REDACTOR), int(chance.random() * len(text))
            out = held.feed(text[:cut]) + held.flush() + held.feed(text[cut:]) + held.flush() + held.end()
        if core in out or core[:20] in out or core[-20:] in out or MARK not in out:
            raise AssertionError(repr((text, out)))
        if REDACTOR.text(out) != out and MARK not in REDACTOR.text(out):
            raise AssertionError(repr((text, out)))
        seen[kind] += 1
    return seen


if __name__ == "__main__":
    print(fuzzed(int(sys.argv[1])))
