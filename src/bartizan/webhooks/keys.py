"""The secrets of a webhook: named, with an end, newest first; rotation as a pure value; and the keys made of them."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1, sha256, sha512
from re import compile as pattern
from typing import Any, Final, NoReturn

from bartizan.errors import Misuse
from bartizan.webhooks.providers import Provider

MOST_OLD: Final = 10  # old secrets beside the one that signs
LONGEST_GRACE: Final = 7 * 86_400
GRACE: Final = 86_400

_INNER = bytes(b ^ 0x36 for b in range(256))
_OUTER = bytes(b ^ 0x5C for b in range(256))
_HASHES: dict[str, Callable[..., Any]] = {"sha256": sha256, "sha512": sha512, "sha1": sha1}
_BASE64 = pattern(r"[A-Za-z0-9+/]*={0,2}")
_HEX_KEY = pattern(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{128}")


class NamedSecret:
    """A secret with a name for the operator, and the moment (UTC seconds) from which it no longer counts, or None."""

    __slots__ = ("name", "secret", "until")  # written out: `import dataclasses` costs more than this whole room

    name: str
    secret: str
    until: int | None

    def __init__(self, secret: str, *, name: str, until: int | None = None) -> None:
        given: tuple[object, object, object] = (secret, name, until)
        if not isinstance(given[0], str) or not isinstance(given[1], str):
            raise Misuse("a secret and its name are texts")
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise Misuse("the name of a secret is 1 to 100 printable characters")
        if given[2] is not None and (isinstance(given[2], bool) or not isinstance(given[2], int)):
            raise Misuse("until is a moment in UTC seconds")
        for field, value in zip(("secret", "name", "until"), given, strict=True):
            object.__setattr__(self, field, value)

    def __setattr__(self, _: str, value: object) -> NoReturn:
        raise Misuse("a secret does not change: rotate it")

    def __repr__(self) -> str:
        return f"NamedSecret(name={self.name!r}, until={self.until!r})"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a secret is not copied or pickled")


Secrets = str | NamedSecret | Sequence[str | NamedSecret]


class HmacKey:
    """An HMAC key (RFC 2104), its pads hashed once and not for every message."""

    __slots__ = ("inner", "name", "outer", "until")
    asymmetric: Final = False

    def __init__(self, named: NamedSecret, key: bytes, algorithm: str) -> None:
        self.name: str = named.name
        self.until: int | None = named.until
        made = _HASHES[algorithm]
        size = made().block_size
        block = (made(key).digest() if len(key) > size else key).ljust(size, b"\0")
        self.inner: Any = made(block.translate(_INNER))
        self.outer: Any = made(block.translate(_OUTER))

    def mac(self, message: bytes) -> bytes:
        """The MAC of `message`."""
        inner, outer = self.inner.copy(), self.outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        code: bytes = outer.digest()
        return code

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a key is not copied or pickled")


class Ed25519Key:
    """A public key (RFC 8032), and the private one where it was given. `cryptography` is loaded with the first one."""

    __slots__ = ("_private", "_public", "name", "until")
    asymmetric: Final = True

    def __init__(self, named: NamedSecret, public: bytes, seed: bytes | None = None) -> None:
        # Loaded here: who receives HMACs alone does not pay for it.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
            Ed25519PrivateKey,
            Ed25519PublicKey,
        )

        self.name: str = named.name
        self.until: int | None = named.until
        try:
            self._public = Ed25519PublicKey.from_public_bytes(public)
            self._private = None if seed is None else Ed25519PrivateKey.from_private_bytes(seed)
        except ValueError:
            raise Misuse("this is no Ed25519 key") from None
        if self._private is not None and self._private.public_key() != self._public:
            raise Misuse("the two halves of a whsk_ secret do not belong together")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the 64 bytes are this key's signature of the message."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        if self._private is None:
            raise Misuse("a public key does not sign: give the whsk_ secret")
        return self._private.sign(message)

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a key is not copied or pickled")


Key = HmacKey | Ed25519Key


class WebhookSecrets:
    """The secrets of one endpoint, newest first: a pure value. The first signs and has no end; the others end."""

    __slots__ = ("secrets",)

    def __init__(self, secrets: Secrets) -> None:
        given = (secrets,) if isinstance(secrets, (str, NamedSecret)) else tuple(secrets)
        if not given:
            raise Misuse("secrets is empty: without one, every message would verify or none")
        self.secrets: tuple[NamedSecret, ...] = tuple(
            item if isinstance(item, NamedSecret) else NamedSecret(item, name=fingerprint(item)) for item in given
        )
        if len({item.name for item in self.secrets}) != len(self.secrets):
            raise Misuse("two secrets have the same name")
        if len(self.secrets) > MOST_OLD + 1:
            raise Misuse(f"at most {MOST_OLD} old secrets stand beside the newest")

    def __iter__(self) -> Iterator[NamedSecret]:
        return iter(self.secrets)

    def rotate(self, new: NamedSecret, *, now: int, grace: int = GRACE) -> "WebhookSecrets":
        """The ring with `new` first; what was first ends `grace` seconds from now, and none lives longer than before.

        `Misuse` where ten old secrets still live: it says when the next one ends.
        """
        if isinstance(grace, bool) or not 0 <= grace <= LONGEST_GRACE:
            raise Misuse(f"grace is 0 to {LONGEST_GRACE} seconds")
        end = now + grace
        ending = [(old, end if old.until is None else min(old.until, end)) for old in self.secrets]
        kept = [NamedSecret(old.secret, name=old.name, until=until) for old, until in ending if until > now]
        if len(kept) > MOST_OLD:
            first = min(until for _, until in ending if until > now)
            raise Misuse(f"{MOST_OLD} old secrets still live; the next one ends at {first}")
        return WebhookSecrets((new, *kept))

    def keys(self, provider: Provider, *, unsafe_short_secret: bool) -> tuple[Key, ...]:
        """What verifies and signs."""
        return tuple(key_of(item, provider, unsafe_short_secret=unsafe_short_secret) for item in self.secrets)

    def __repr__(self) -> str:
        return f"<WebhookSecrets of {', '.join(item.name for item in self.secrets)}>"


def fingerprint(secret: object) -> str:
    """The name of a secret that was given none: the first 8 characters of its SHA-256."""
    if not isinstance(secret, str):
        raise Misuse("a secret is a text, or a NamedSecret")
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def key_of(named: NamedSecret, provider: Provider, *, unsafe_short_secret: bool) -> Key:
    """The key that a secret is under the provider's reading of it; `Misuse` for one that is too easy to guess."""
    text = named.secret
    if not text.strip():
        raise Misuse("a secret is empty: everybody could sign with it")
    if provider.key_form == "ed25519":
        if not _HEX_KEY.fullmatch(text):
            raise Misuse("this sender's secret is a public key of 64 hexadecimal digits; for tests, the seed before it")
        key = bytes.fromhex(text)
        return Ed25519Key(named, key[-32:], key[:-32] or None)
    if provider.key_form == "standard":
        if text.startswith("whpk_"):
            return Ed25519Key(named, _decoded(text[5:]))
        if text.startswith("whsk_"):
            both = _decoded(text[5:])
            if len(both) != 64:
                raise Misuse("a whsk_ secret is 32 bytes of seed and 32 of public key")
            return Ed25519Key(named, both[32:], both[:32])
        key = _decoded(text.removeprefix("whsec_"))
    else:
        try:
            key = text.encode("utf-8")
        except UnicodeEncodeError:
            raise Misuse("a secret is text that UTF-8 can write") from None
    if not key:
        raise Misuse("a secret is empty: everybody could sign with it")
    if len(key) < provider.minimum and not unsafe_short_secret:
        raise Misuse(f"a secret of this sender has at least {provider.minimum} bytes")
    return HmacKey(named, key, provider.algorithm)


def new_secret(entropy: Callable[[int], bytes]) -> str:
    """A fresh `whsec_` secret: 32 random bytes in base64."""
    return "whsec_" + b64encode(entropy(32)).decode("ascii")


def for_receivers(secret: str) -> str:
    """What whoever verifies is given of a secret: of a `whsk_` its public half, of any other all of it."""
    if not secret.startswith("whsk_"):
        return secret
    return "whpk_" + b64encode(_decoded(secret[5:])[32:]).decode("ascii")


def new_key_pair(entropy: Callable[[int], bytes]) -> tuple[str, str]:
    """A fresh `whsk_` secret for the sender and its `whpk_` for receivers."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    seed = entropy(32)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return "whsk_" + b64encode(seed + public).decode("ascii"), "whpk_" + b64encode(public).decode("ascii")


def _decoded(text: str) -> bytes:
    """Base64 in the standard alphabet, its padding optional; a lenient reader would make `!!!!` an empty key."""
    bare = text.rstrip("=")
    if not _BASE64.fullmatch(text) or len(bare) % 4 == 1 or (bare != text and len(text) % 4):
        raise Misuse("a secret of Standard Webhooks is whsec_, whsk_ or whpk_ and base64")
    return b64decode(bare + "=" * (-len(bare) % 4))
