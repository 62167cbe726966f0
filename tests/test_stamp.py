import hmac
from base64 import urlsafe_b64encode
from itertools import product
from random import Random
from string import ascii_letters, digits, punctuation
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given, strategies as st

from bartizan.core.encoding import base64url, joined, unbase62, unbase64url
from bartizan.core.principal import Environment
from bartizan.core.ring import Purpose, SecretRing, Subkey, new_root
from bartizan.core.stamp import Stamp, Stamped
from bartizan.errors import InvalidCode, Misuse, NotFound, Reason, Rejected

NOW = 1_800_000_000
BODY = b'["org_1","user_1",true]'
ROOT = new_root()


def stamp(
    *roots: str, purpose: Purpose = Purpose.LINK, environment: Environment = "live", prefix: str = "link", **more: Any
) -> Stamp:
    fields = {"longest": 200, "life": 1000, "error": InvalidCode, **more}
    return Stamp(SecretRing(roots or (ROOT,)), purpose, environment, prefix=prefix, **fields)


def reason_of(reader: Stamp, text: Any, *, now: int = NOW, bind: bytes = b"") -> Reason:
    with pytest.raises(InvalidCode) as caught:
        reader.read(text, now=now, bind=bind)
    return caught.value.reason


# --- what a text is ---


def test_the_form_is_the_one_that_is_written_down() -> None:
    """Made anew from the design's words, with none of our code but the list of parts."""
    made = stamp(entropy=lambda size: b"\xab" * size).make(BODY, now=NOW, seconds=60, bind=b"state")
    root = unbase62(ROOT[13:-6], 32)
    assert root is not None
    info = b"".join(len(p).to_bytes(4) + p for p in (b"bartizan/v1", b"link", b"live", b""))
    key = HKDF(SHA256(), 32, b"bartizan/v1", info).derive(root)
    head = b"link_" + urlsafe_b64encode(b"\x01" + (NOW + 60).to_bytes(5) + b"\xab" * 16 + BODY).rstrip(b"=")
    mac = hmac.digest(key, b"".join(len(p).to_bytes(4) + p for p in (head, b"state")), "sha256")
    assert made == f"{head.decode()}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@given(st.binary(max_size=200), st.integers(1, 1000), st.binary(max_size=50))
def test_what_was_made_is_read(body: bytes, seconds: int, bind: bytes) -> None:
    both = stamp()
    text = both.make(body, now=NOW, seconds=seconds, bind=bind)
    stamped = both.read(text, now=NOW + seconds - 1, bind=bind)
    assert (stamped.body, stamped.expires_at, len(stamped.id)) == (body, NOW + seconds, 16)
    assert both.make(body, now=NOW, seconds=seconds, bind=bind) != text, "each has an id of its own"
    assert base64url(bind) not in text or len(bind) < 6


def test_what_it_is_bound_to_is_not_in_it() -> None:
    text = stamp().make(b"", now=NOW, seconds=1, bind=b"anna@shop.example")
    assert b"anna" not in (unbase64url(text[5:-44]) or b"")
    assert len(text) == len(stamp().make(b"", now=NOW, seconds=1, bind=b""))


def test_at_its_expiry_it_has_expired() -> None:
    text = stamp().make(BODY, now=NOW, seconds=60)
    assert stamp().read(text, now=NOW + 59).body == BODY
    for now in (NOW + 60, NOW + 61, 2**40, 2**70):
        assert reason_of(stamp(), text, now=now) is Reason.EXPIRED


# --- forgeries ---


def test_every_one_character_change_is_refused() -> None:
    text = stamp().make(BODY, now=NOW, seconds=60)
    tried = 0
    for other in {*ascii_letters, *digits, *punctuation, " ", "\n", "\0", "é", "ſ", "１", "\ud800"}:
        for at in range(len(text) + 1):
            changes = [text[:at] + other + text[at:]]
            if at < len(text) and text[at] != other:
                changes.append(text[:at] + other + text[at + 1 :])
            for changed in changes:
                assert reason_of(stamp(), changed) in {Reason.MALFORMED, Reason.FORGED}, changed
                tried += 1
    for at in range(len(text)):
        for changed in (text[:at] + text[at + 1 :], text[:at], text[at + 1 :]):
            reason_of(stamp(), changed)
            tried += 1
    assert tried > 20_000


def test_a_million_mutants() -> None:
    """Each is refused as what it is, or is the text itself."""
    both = stamp()
    texts = [both.make(body, now=NOW, seconds=60).encode() for body in (b"", b"x", BODY, bytes(range(200)))]
    random = Random(5)
    some, number, pick = random.random, random.randrange, random.choice
    accepted = refused = 0
    outcomes: dict[Reason, int] = {}
    letters = (ascii_letters + digits + "-_.").encode()
    while accepted + refused < 1_000_000:
        original = pick(texts)
        mutant = bytearray(original)
        while True:
            at = int(some() * len(mutant))
            kind = int(some() * 6)
            if kind == 0:
                mutant[at] ^= 1 << number(8)
            elif kind == 1:
                mutant[at] = pick(letters)
            elif kind == 2:
                mutant.insert(at, number(256))
            elif kind == 3:
                del mutant[at : at + 1 + number(3)]
            elif kind == 4:
                other = pick(texts)
                mutant[at:] = other[at:]
            else:
                to = int(some() * len(mutant))
                mutant[at], mutant[to] = mutant[to], mutant[at]
            if not mutant or some() < 0.7:
                break
        text = mutant.decode("latin-1")
        try:
            stamped = both.read(text, now=NOW)
        except InvalidCode as error:
            refused += 1
            outcomes[error.reason] = outcomes.get(error.reason, 0) + 1
        else:
            accepted += 1
            assert mutant in texts
            assert isinstance(stamped, Stamped)
    print(f"{refused:,} refused ({dict(outcomes)}), {accepted:,} were a text itself")
    assert outcomes.keys() == {Reason.MALFORMED, Reason.FORGED}
    assert min(outcomes.values()) > 100_000


@given(st.text() | st.binary().map(lambda data: f"link_{base64url(data)}.{base64url(data[:32].ljust(32))}"))
@example("")
@example("link_" + "A" * 30 + "." + "A" * 43)
def test_what_others_made_is_refused(text: str) -> None:
    assert reason_of(stamp(), text) in {Reason.MALFORMED, Reason.FORGED}


@pytest.mark.parametrize("text", [None, b"link_x", 7, ["link_"], object()])
def test_what_is_no_text_is_refused(text: Any) -> None:
    assert reason_of(stamp(), text) is Reason.MALFORMED


def test_every_purpose_refuses_every_other_ones_texts() -> None:
    """Under one prefix, so that the key alone must tell them apart."""
    environments: tuple[Environment, ...] = ("live", "test")
    stamps = {(p, e): stamp(purpose=p, environment=e) for p in Purpose for e in environments}
    texts = {place: made.make(BODY, now=NOW, seconds=60) for place, made in stamps.items()}
    for here, there in product(stamps, texts):
        reader, text = stamps[here], texts[there]
        if here == there:
            assert reader.read(text, now=NOW).body == BODY
        else:
            assert reason_of(reader, text) is Reason.FORGED
    assert len(texts) == 2 * len(Purpose) >= 6


def test_prefix_and_binding_are_part_of_it() -> None:
    text = stamp().make(BODY, now=NOW, seconds=60, bind=b"a")
    renamed = "lunk" + text[4:]
    assert reason_of(stamp(prefix="lunk"), renamed, bind=b"a") is Reason.FORGED
    for bind in (b"", b"b", b"aa", b"a\0", joined(b"a")):
        assert reason_of(stamp(), text, bind=bind) is Reason.FORGED
    # What moves over the border between text and binding is not the same.
    head, mac = text[:-44], text[-44:]
    assert reason_of(stamp(), head + "AAAA" + mac, bind=b"") is Reason.FORGED


def test_an_older_root_reads_and_a_dropped_one_no_longer() -> None:
    old, new, newest = new_root(), new_root(), new_root()
    text = stamp(old).make(BODY, now=NOW, seconds=60)
    assert stamp(new, old).read(text, now=NOW).body == BODY
    assert stamp(newest, new, old).read(text, now=NOW).body == BODY
    assert reason_of(stamp(new), text) is Reason.FORGED
    by_newest = stamp(new, old).make(BODY, now=NOW, seconds=60)
    assert stamp(new).read(by_newest, now=NOW).body == BODY
    assert reason_of(stamp(old), by_newest) is Reason.FORGED


def test_a_forged_text_that_has_expired_is_forged() -> None:
    """The MAC is looked at before anything that the text says."""
    text = stamp(new_root()).make(BODY, now=NOW, seconds=1)
    assert reason_of(stamp(), text, now=NOW + 9) is Reason.FORGED


def test_a_later_version_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bartizan.core.stamp.VERSION", 2)
        text = stamp().make(BODY, now=NOW, seconds=1)
    assert reason_of(stamp(), text) is Reason.MALFORMED


def test_what_cannot_be_ours_costs_no_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    text = stamp().make(BODY, now=NOW, seconds=60)
    reader = stamp()

    def no(*_: object) -> bytes:
        raise AssertionError("a MAC was made")

    monkeypatch.setattr(Subkey, "mac", no)
    body, mac = text[5:-44], text[-43:]
    last = "AEIMQUYcgkosw048"
    for malformed in (
        "", "link_", text[5:], "LINK" + text[4:], "link-" + text[5:], text + "=", text + "\n", " " + text, text[:-1],
        text[:-44] + "=" + text[-44:], text.replace(".", ".."), text.replace(".", "_"), text + "." + mac,
        text[:-1] + chr(ord(max(last)) + 1), f"link_{body}+.{mac}", f"link_{'A' * 29}.{mac}", f"link_{'A' * 5000}.{mac}",
        text + "A" * 1_000_000, "x" * 1_000_000, "link_" + "é" * 100,
    ):  # fmt: skip
        assert reason_of(reader, malformed) is Reason.MALFORMED, malformed[:80]
    with pytest.raises(AssertionError, match="a MAC was made"):
        reader.read(text, now=NOW)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 31])
def test_base64url_has_one_text_for_each_value(size: int) -> None:
    """Lenient readers accept four texts, or sixteen, for one that ends within a character."""
    data = bytes(range(size))
    text = base64url(data)
    assert unbase64url(text) == data
    same = [text[:-1] + c for c in ascii_letters + digits + "-_"]
    assert [t for t in same if unbase64url(t) == data] == [text]
    for wrong in (text + "=", text + "==", text + "\n", text[:-1] + "+", text + "é", "A" * 5):
        assert unbase64url(wrong) is None


@given(st.text(alphabet=ascii_letters + digits + "-_=+/", max_size=20))
def test_base64url_accepts_what_it_would_write(text: str) -> None:
    data = unbase64url(text)
    assert data is None or base64url(data) == text


# --- how it is used ---


def test_subkeys_are_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both = stamp(ROOT, new_root())
    monkeypatch.setattr(SecretRing, "subkey", None)
    both.read(both.make(BODY, now=NOW, seconds=60), now=NOW)


def test_the_owner_says_which_error() -> None:
    for error in (NotFound, InvalidCode):
        with pytest.raises(Rejected) as caught:
            stamp(error=error).read("x", now=NOW)
        assert type(caught.value) is error
        assert "x" not in str(caught.value).split()
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_misuse() -> None:
    for seconds in (0, -1, 1001, True, 1.0, None):
        with pytest.raises(Misuse):
            stamp().make(BODY, now=NOW, seconds=seconds)  # type: ignore[arg-type]
    stamp().make(b"x" * 200, now=NOW, seconds=1000)
    with pytest.raises(Misuse):
        stamp().make(b"x" * 201, now=NOW, seconds=1)
    for prefix in ("", "a", "Link", "li_nk", "link_", "l.k", "x" * 13):
        with pytest.raises(Misuse):
            stamp(prefix=prefix)
