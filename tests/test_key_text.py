import re

import pytest
from hypothesis import given, strategies as st

from bartizan.core.encoding import ALPHABET, base62, checksum, joined, unbase62
from bartizan.core.ports import fresh
from bartizan.credentials.key_text import KINDS, KeyText
from bartizan.errors import InvalidKey, Misuse, Reason

plain = KeyText()
branded = KeyText("acme")

# The detectors of secret scanners for Stripe's keys: what they match, they verify by sending it to Stripe.
TRUFFLEHOG_STRIPE = re.compile(r"[rs]k_live_[a-zA-Z0-9]{20,247}")
DETECT_SECRETS_STRIPE = re.compile(r"(?:r|s)k_live_[0-9a-zA-Z]{24}")
GITLEAKS_STRIPE = re.compile(r"(?:sk|rk)_(?:test|live|prod)_[a-zA-Z0-9]{10,99}(?:[\x60'\"\s;]|\\[nr]|$)")
CONTEXTS = (
    "{0}",
    'API_KEY="{0}"',
    "token = '{0}'",
    '{{"key":"{0}"}}',
    "Authorization: Bearer {0}",
    "curl -u {0}: https://x",
    "https://x/?key={0}",
)


def recheck(body: str) -> str:
    return body + checksum(body)


def test_lengths_and_shape() -> None:
    for text, extra in ((plain, 0), (branded, 5)):
        secret, _ = text.new("secret", "live", fresh)
        publishable, _ = text.new("publishable", "test", fresh)
        assert len(secret) == 74 + extra
        assert len(publishable) == 31 + extra
        assert secret.removeprefix("acme_").startswith("sk_live_")
        assert publishable.removeprefix("acme_").startswith("pk_test_")


@pytest.mark.parametrize("detector", [TRUFFLEHOG_STRIPE, DETECT_SECRETS_STRIPE, GITLEAKS_STRIPE])
@pytest.mark.parametrize("text", [plain, branded])
def test_stripe_scanners_do_not_match(detector: re.Pattern[str], text: KeyText) -> None:
    for _ in range(100):
        for kind in KINDS:
            key, _ = text.new(kind, "live", fresh)
            for context in CONTEXTS:
                assert detector.search(context.format(key)) is None
    assert detector.search("sk_live_" + "a" * 49) is not None  # the detectors do match what they are for


def test_parse_gives_the_parts() -> None:
    key, made = plain.new("secret", "live", fresh)

    parsed = plain.parse(key)

    assert (parsed.kind, parsed.environment, parsed.id) == ("secret", "live", made.id)
    assert parsed.id == key[8:24]
    assert key[25:68] not in repr(parsed)


def test_k2_kind_environment_brand_edited_without_checksum() -> None:
    secret, _ = plain.new("secret", "test", fresh)
    publishable, _ = plain.new("publishable", "test", fresh)
    for edited in (
        secret.replace("_test_", "_live_"),
        publishable.replace("pk_", "sk_"),
        secret.replace("sk_", "pk_"),
        secret.replace("sk_", "rk_"),
        "acme_" + secret,
    ):
        for text in (plain, branded):
            with pytest.raises(InvalidKey) as refused:
                text.parse(edited)
            assert refused.value.reason is Reason.MALFORMED_KEY


def test_k5_parsing_is_strict_and_echoes_nothing() -> None:
    key, _ = plain.new("secret", "live", fresh)
    hostile = [
        "", " ", "\0", key + "\0", key + "\n", "\n" + key, " " + key, key + " ", key.upper(), key.lower(), key * 2,
        "x" * 1_000_000, "sk_live_" + "_" * 66, key.replace("sk", "ѕk"), key[:-1] + "\uff11", key[:10] + "é" + key[11:],
        "sk%5Flive" + key[7:], key[:-1], key + "0", key.replace("_", "-"), "Bearer " + key, "\ud800" * 74,
        recheck(key[:-6].replace("sk_", "xx_")), recheck("pk_live_" + key[8:-6]),
    ]  # fmt: skip
    for text in hostile:
        with pytest.raises(InvalidKey) as refused:
            plain.parse(text)
        assert refused.value.reason is Reason.MALFORMED_KEY
        assert str(refused.value) == "The API key is not valid."


@given(place=st.integers(0, 73), to=st.sampled_from(ALPHABET + "_-. \n\0é"))
def test_every_one_character_change_is_refused(place: int, to: str) -> None:
    key = "sk_live_0123456789abcdef_" + "A" * 43
    key = recheck(key)
    changed = key[:place] + to + key[place + 1 :]
    if changed != key:
        with pytest.raises(InvalidKey):
            plain.parse(changed)


def test_brands_that_are_refused() -> None:
    for brand in ("", "a", "sk", "pk", "rk", "live", "test", "Acme", "a_b", "1ab", "a" * 17, "é1", "ab\n"):
        with pytest.raises(Misuse):
            KeyText(brand)


@given(st.binary(min_size=32, max_size=32))
def test_base62_is_reversible(data: bytes) -> None:
    text = base62(data, 43)
    assert len(text) == 43
    assert unbase62(text, 32) == data


def test_base62_limits() -> None:
    assert unbase62("z" * 43, 32) is None
    assert unbase62("é" * 43, 32) is None
    with pytest.raises(OverflowError):
        base62(b"\xff" * 33, 43)


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_joined_is_injective(a: list[bytes], b: list[bytes]) -> None:
    assert (joined(*a) == joined(*b)) == (a == b)
