"""What must never be printed: every form of every secret is found, in linear time, and nothing else is touched."""

import base64
import json
import urllib.parse
from collections.abc import Callable
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import pytest
from fuzz.redaction import fuzzed
from hypothesis import given, strategies as st

from bartizan import Misuse
from bartizan.core.encoding import base62, checksum
from bartizan.core.ports import fresh
from bartizan.core.redact import LONGEST_HELD, MARK, REDACTOR, Held, Pattern, Redactor
from bartizan.core.ring import new_root
from bartizan.testing.kit import Kit
from bartizan.webhooks.keys import new_secret

KIT = Kit()
KEY = KIT.key(org="org_1").key
PAGE = KIT.key(org="org_1", kind="publishable").key
ROOT = new_root()
WEBHOOK = new_secret(fresh)
TOKEN = KIT.token(org="org_1", subject="cons_1")
LINK = KIT.security.blocking.links.issue("invite", org="org_1", subject="cons_1", seconds=60)
# Each with the part that gives it away.
SECRETS = {
    "secret key": (KEY, KEY[25:]),
    "secret key with a brand": (f"acme_{KEY}", KEY[25:]),
    "root secret": (ROOT, ROOT[13:]),
    "webhook secret": (WEBHOOK, WEBHOOK[6:]),
    "access token": (TOKEN, TOKEN.rpartition(".")[2]),
    "link": (LINK, LINK[5:]),
}
secret = pytest.mark.parametrize("name", SECRETS)
AROUND = ["", " ", "'", '"', "key=", "\\n", "%20", "%3D", "(", "[", "<", "\n", ":", "x-", "\t", "é", "\u2028"]


def percent(text: str) -> str:
    return "".join(f"%{ord(c):02X}" for c in text)


ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "repr": repr,
    "bytes": lambda text: repr(text.encode()),
    "json": json.dumps,
    "json in json": lambda text: json.dumps(json.dumps({"a\n": text})),
    "json escaped": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "json escaped twice": lambda text: json.dumps("".join(f"\\u{ord(c):04x}" for c in text)),
    "escaped in part": lambda text: text.replace("_", "\\u005f").replace(".", "\\u002e"),
    "python escaped": lambda text: "".join(f"\\x{ord(c):02x}" for c in text),
    "url": urllib.parse.quote_plus,
    "url in url": lambda text: urllib.parse.quote_plus(urllib.parse.quote_plus(text)),
    "percent": percent,
    "percent in lower case": lambda text: percent(text).lower(),
    "percent twice": lambda text: percent(text).replace("%", "%25"),
    "percent in part": lambda text: text.replace("_", "%5F").replace(".", "%2E"),
    "query": lambda text: "https://a.example/x?" + urllib.parse.urlencode({"key": text, "b": "c"}),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 behind 1": lambda text: base64.b64encode(f"u{text}:".encode()).decode(),
    "base64 behind 2": lambda text: base64.b64encode(f"u:{text}".encode()).decode(),
    "base64 in lines": lambda text: base64.encodebytes(f"user:{text}".encode()).decode(),
    "base64 in escaped lines": lambda text: json.dumps(base64.encodebytes(f"us:{text}".encode()).decode()),
    "base64url without padding": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 in lines, in json": lambda text: json.dumps({"a": "\n" + base64.encodebytes(text.encode()).decode()}),
    "base64 in lines, in a url": lambda text: urllib.parse.quote(base64.encodebytes(text.encode()).decode()),
    "base64 of json": lambda text: base64.b64encode(json.dumps({"a": text}).encode()).decode(),
    "base64, percent": lambda text: percent(base64.b64encode(text.encode()).decode()),
    "basic": lambda text: "Authorization: Basic " + base64.b64encode(f"user:{text}".encode()).decode(),
    "bearer": lambda text: f"authorization: bearer {text}",
    "header pairs": lambda text: repr([(b"authorization", f"Bearer {text}".encode())]),
}  # fmt: skip


# In base64 that nothing announces, links are not told from anything else.
SOUGHT = [
    (name, encoding)
    for name in SECRETS
    for encoding in ENCODINGS
    if not (name == "link" and encoding.startswith("base64"))
]


@pytest.mark.parametrize(("name", "encoding"), SOUGHT)
def test_k9_encodings(name: str, encoding: str) -> None:
    text, core = SECRETS[name]
    encoded = ENCODINGS[encoding](text)
    kept = ENCODINGS[encoding](core)
    for before in AROUND:
        for after in ("", " ", '"', ",", "\\n", "&x=1", "%22", ")"):
            out = REDACTOR.text(f"before {before}{encoded}{after} after")
            assert MARK in out
            assert core not in out
            assert kept.strip("'\"b") not in out
            for part in (core[:12], core[-12:]):
                assert part not in out
            assert out.startswith("before ")
            assert out.endswith(" after")


@secret
def test_k9_every_piece_of_a_cut_off_secret(name: str) -> None:
    """A line that was cut by its writer shows some of the secret's beginning."""
    text, core = SECRETS[name]
    start = text.index(core)
    for end in range(start + 24, len(text)):
        out = REDACTOR.text(f"x {text[:end]}")
        if "." in text[:end] or "_" in text[:end]:
            assert text[start + 3 : end] not in out


@secret
def test_the_public_name_of_a_key_stays(name: str) -> None:
    text, core = SECRETS[name]
    out = REDACTOR.text(f"a {text} b")
    assert out == f"a {text[: text.index(core)] if name != 'access token' else ''}{MARK} b"


@pytest.mark.parametrize(
    "header", ["Basic dXNlcjpwYXNz", "basic dTpwYXNzd29yZA==", "Bearer abcdefgh1", "bearer abcdEfgh"]
)
def test_what_a_header_announces(header: str) -> None:
    scheme, _, _ = header.partition(" ")
    assert REDACTOR.text(f"Authorization: {header}") == f"Authorization: {scheme} {MARK}"


@pytest.mark.parametrize("dot", ["%2E", "%2e", "%252e", "\\u002e", "\\x2E"])
def test_a_token_whose_dots_alone_are_escaped(dot: str) -> None:
    assert REDACTOR.text(f"x eyJhbGciOiJFZERTQSJ9{dot}eyJzdWIiOiIxIn0{dot}c2lnbmF0dXJl y") == f"x {MARK} y"


def test_secrets_in_any_surroundings() -> None:
    assert sum(fuzzed(10_000).values()) == 10_000


def test_once_is_enough() -> None:
    for text, _ in SECRETS.values():
        once = REDACTOR.text(f"Authorization: Bearer {text}\nx")
        assert REDACTOR.text(once) == once


CLEAN = [
    "2026-11-28 04:06:33,123 INFO shop.orders[4711] order ord_01J9ZK3V6W8Q2M4N5P7R of org_1 paid in 27.3 ms",
    f"sk_live_{KEY[8:24]} was used by {PAGE}",
    "task_live_update of test_live_orders and start_of_something_that_is_long_enough",
    "the bearer of bad news; Basic information; bearer authentication failed for realm api",
    "GET /v1/orders?limit=20&after=b2xk&sort=-created HTTP/1.1",
    "50% of 7 \\ 3 \\n \\x41 %20 %zz \\u0041",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "eyJhIjoxfQ", "c2tf", "za19NrXYnpzX", "k_live_", "whsec_", "_AQ", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "550e8400-e29b-41d4-a716-446655440000 2001:db8::1 203.0.113.7 a@b.example",
    "", "é\ud800\x00",
]  # fmt: skip


@pytest.mark.parametrize("line", CLEAN)
def test_what_is_no_secret_stays(line: str) -> None:
    assert REDACTOR.text(line) == line


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    out = REDACTOR.text(text + KEY)
    assert KEY[25:] not in out
    assert isinstance(REDACTOR.text(text), str)


@given(st.binary())
def test_any_bytes_are_read(data: bytes) -> None:
    assert KEY[25:].encode() not in REDACTOR.bytes(data + KEY.encode() + data)
    assert REDACTOR.bytes(data) == data or MARK.encode() in REDACTOR.bytes(data)


HOSTILE = {
    "eyJ": "eyJ" * 40_000, "eyJ.": "eyJ." * 30_000, "keys": "sk_live_" * 15_000, "base64": "c2tf" * 30_000,
    "percent": "%5f" * 40_000, "percents": "%" * 120_000 + "%5f", "percent 25": "%" + "25" * 60_000 + "%5f",
    "bearers": "bearer " * 17_000, "queries": "?key=" * 24_000, "pem": "-----BEGIN PRIVATE KEY-----" * 4_500,
    "dashes": "-----BEGIN PRIVATE KEY-----" + "-" * 120_000, "backslashes": "\\" * 120_000 + "\\u0061",
    "escapes": "\\u0061" * 20_000, "stamps": "ab_AQ" * 24_000, "lines": ("c2tf" * 19 + "\n") * 1_500,
    "letters": "a" * 120_000 + "_AQ", "bearer": "Bearer " + "a" * 120_000, "secrets": "whsec_" * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_searches_are_linear(name: str) -> None:
    """Two lines as long as the first take no more than a few times its searches: a quadratic one takes hours at this size."""
    for text in (HOSTILE[name], HOSTILE[name] * 8):
        assert isinstance(REDACTOR.text(text), str)


class Url:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return "Url()"


class Told(Url):
    def __str__(self) -> str:
        return "fine"

    def __repr__(self) -> str:
        return self.text


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError(KEY)


def test_values_of_every_kind() -> None:
    number = object()
    value = {
        "a": [1, 2.5, None, True, KEY, (KEY, {KEY}), frozenset({TOKEN})], KEY: 1, "b": {"c": {"d": KEY.encode()}},
        "e": Url(KEY), "f": Told(KEY), "g": Broken(), "h": MappingProxyType({"i": KEY}), "j": bytearray(KEY.encode()),
        "k": number, "password": "hunter2", "Set-Cookie": ["a=b"], "X-API-Key": 5, "token": None, 5: KEY,
    }  # fmt: skip
    out = REDACTOR.value(value)
    assert KEY[25:] not in repr(out)
    assert TOKEN not in repr(out)
    assert (out["password"], out["Set-Cookie"], out["X-API-Key"], out["token"]) == (MARK, MARK, MARK, None)
    assert out["a"][:4] == [1, 2.5, None, True]
    assert out["k"] is number
    assert value["a"][4] == KEY  # type: ignore[index]  # what was given is not changed
    assert REDACTOR.value("x", "Authorization") == MARK


def test_values_without_an_end() -> None:
    round_: dict[str, Any] = {"key": KEY}
    round_ |= {str(i): round_ for i in range(5)}
    deep: Any = KEY
    for _ in range(1000):
        deep = [deep]
    for value in (round_, deep, [[KEY] * 100] * 1000):
        assert KEY[25:] not in repr(REDACTOR.value(value))


def test_patterns_and_names_of_ones_own() -> None:
    mine = Redactor([Pattern("order", ("ord-",), r"(ord-)([0-9]+)")], ["pin"])
    assert mine.text("ord-123") == f"ord-{MARK}"
    assert REDACTOR.text("ord-123") == "ord-123"
    assert mine.value({"PIN": 1234, "key": KEY}) == {"PIN": MARK, "key": KEY[:25] + MARK}
    for pattern in (Pattern("a", ("x",), "x"), Pattern("a", (), "(x)(y)"), Pattern("a", ("",), "(x)(y)")):
        with pytest.raises(Misuse):
            Redactor([pattern])
    with pytest.raises(Misuse):
        Redactor(names="pin")


# --- streams ---


def pieces(text: str, *cuts: int) -> str:
    held = Held(REDACTOR)
    edges = [0, *sorted(cuts), len(text)]
    out = ""
    for start, end in pairwise(edges):
        out += held.feed(text[start:end])
        out += held.flush()
    return out + held.end()


@secret
def test_split_over_two_writes(name: str) -> None:
    text, core = SECRETS[name]
    line = f"Authorization: Bearer {text}\nnext {text} end"
    for cut in range(len(line)):
        out = pieces(line, cut)
        assert core not in out
        assert core[-12:] not in out
        assert out.endswith(" end")


@given(st.lists(st.integers(0, 200), max_size=20))
def test_split_anywhere(cuts: list[int]) -> None:
    line = f"a {KEY} b\n{ROOT} Bearer abcdef0123456789 c"
    out = pieces(line, *[cut for cut in cuts if cut < len(line)])
    assert out == f"a {KEY[:25]}{MARK} b\n{ROOT[:13]}{MARK} Bearer {MARK} c"


def test_what_is_no_secret_goes_through_a_stream_as_it_is() -> None:
    text = "Password: \n" + "word " * 1000 + "\n" + "x" * LONGEST_HELD
    assert pieces(text, 5, 9, 700, 6000) == text
    held = Held(REDACTOR)
    assert held.feed("Password: ") + held.flush() == "Password: "  # who is asked sees the question


def test_a_word_without_an_end_is_not_kept() -> None:
    held = Held(REDACTOR)
    out = "".join(held.feed("a" * 10_000) for _ in range(100))
    assert out == MARK
    assert len(held._held) <= LONGEST_HELD
    assert held.feed("a b\n") + held.end() == " b\n"


def test_a_base62_of_our_own_making() -> None:
    body = "sk_test_" + "0" * 16 + "_" + base62(bytes(32), 43)
    assert REDACTOR.text(body + checksum(body)) == body[:25] + MARK
