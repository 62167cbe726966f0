"""Root secrets, newest first, and the subkeys derived from them: the only module that derives a key."""

import hmac
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from re import compile as pattern
from typing import Any, NoReturn

from bartizan.core.encoding import CHECK, base62, checksum, joined, random62, unbase62
from bartizan.core.ports import Entropy, fresh
from bartizan.core.principal import Environment
from bartizan.errors import Misuse

MAKE_ONE = "make one with: python -m bartizan secret"
_LABEL = b"bartizan/v1"
_ROOT = pattern(r"bzs_([0-9A-Za-z]{8})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")
_INNER = bytes(b ^ 0x36 for b in range(256))
_OUTER = bytes(b ^ 0x5C for b in range(256))


class Purpose(StrEnum):
    """What a subkey is for: a closed list, one for each room that keeps or hands out anything under a key."""

    APIKEY_PEPPER = "apikey-pepper"
    LINK = "link"
    CARRY = "carry"
    REFRESH_MAC = "refresh-mac"
    KEK = "kek"
    OTP = "otp"
    PENDING = "pending"
    EXCHANGE = "exchange"
    COOKIE_BIND = "cookie-bind"
    DPOP_NONCE = "dpop-nonce"
    DEVICE_HASH = "device-hash"
    TICKET = "ticket"
    RETURN_PATH = "return-path"


class Begun:
    """An HMAC-SHA-256 over bytes already fed: `finish` adds the rest.

    The pads are hashed once, not for every message (RFC 2104 section 4).
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, inner: Any, outer: Any) -> None:
        self._inner = inner
        self._outer = outer

    def finish(self, rest: bytes) -> bytes:
        """The 32 bytes of the MAC."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(rest)
        outer.update(inner.digest())
        return outer.digest()  # type: ignore[no-any-return]


class Subkey:
    """A derived key of 32 bytes. It is never shown, copied out, or pickled."""

    __slots__ = ("_inner", "_outer", "root_id")

    def __init__(self, root_id: str, key: bytes) -> None:
        self.root_id: str = root_id
        block = key.ljust(64, b"\0")
        self._inner = sha256(block.translate(_INNER))
        self._outer = sha256(block.translate(_OUTER))

    def begin(self, data: bytes) -> Begun:
        """A MAC that starts with `data`."""
        inner = self._inner.copy()
        inner.update(data)
        return Begun(inner, self._outer)

    def mac(self, data: bytes) -> bytes:
        """HMAC-SHA-256 of `data`: 32 bytes."""
        return self.begin(data).finish(b"")

    def __repr__(self) -> str:
        return f"<Subkey of root {self.root_id}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a key is not copied or pickled")


class SecretRing:
    """The root secrets of a deployment, newest first: the first one writes, all of them read.

    A root is `bzs_` id `_` 32 random bytes and a CRC-32, in base62. Subkeys are HKDF-SHA-256 (RFC 5869) with the salt
    `bartizan/v1` and the info label, purpose, environment and issuer (or nothing), each behind its length.
    """

    __slots__ = ("_cached", "_roots")

    def __init__(self, secrets: Sequence[str]) -> None:
        if isinstance(secrets, str):
            raise Misuse("secrets is a list of root secrets, newest first, not one text")
        roots: dict[str, bytes] = {}
        self._roots = roots
        for text in secrets:
            root_id, root = _parsed(text)
            if root_id in roots:
                raise Misuse("two root secrets have the same id")
            roots[root_id] = hmac.digest(_LABEL, root, "sha256")
        if not roots:
            raise Misuse(f"secrets is empty: {MAKE_ONE}")
        self._cached = lru_cache(maxsize=256)(self._derived)

    def __iter__(self) -> Iterator[str]:
        """The ids, newest first."""
        return iter(self._roots)

    @property
    def newest(self) -> str:
        """The id of the root that writes."""
        return next(iter(self._roots))

    def subkey(self, root_id: str, purpose: Purpose, environment: Environment, issuer: str = "") -> Subkey | None:
        """The subkey of one root for one purpose in one environment; None where the ring has no such root."""
        return self._cached(root_id, purpose, environment, issuer)

    def _derived(self, root_id: str, purpose: Purpose, environment: Environment, issuer: str) -> Subkey | None:
        root = self._roots.get(root_id)
        if root is None:
            return None
        info = joined(_LABEL, purpose.value.encode(), environment.encode(), issuer.encode())
        return Subkey(root_id, hmac.digest(root, info + b"\x01", "sha256"))

    def __repr__(self) -> str:
        return f"<SecretRing of {', '.join(self._roots)}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("secrets are not copied or pickled")


def new_root(entropy: Entropy = fresh) -> str:
    """A fresh root secret, as `python -m bartizan secret` prints it."""
    body = f"bzs_{random62(8, entropy)}_{base62(entropy(32), 43)}"
    return body + checksum(body)


def _parsed(text: str) -> tuple[str, bytes]:
    match = _ROOT.fullmatch(text)
    if match is None or checksum(text[:-CHECK]) != match[3]:
        raise Misuse(f"a root secret is not of the form that we make, so it may be guessable: {MAKE_ONE}")
    root = unbase62(match[2], 32)
    if root is None:
        raise Misuse(f"a root secret is not of the form that we make: {MAKE_ONE}")
    return match[1], root
