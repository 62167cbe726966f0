"""How anything secret rests: AES-256-GCM under a random key of its own, which is wrapped under the `kek` of a root.

0x01, root id in 8 bytes, nonce in 12, wrapped key in 48; nonce in 12, ciphertext and its tag of 16 (NIST SP 800-38D).
What the box is bound to is in the associated data of both and not in the box, so that one moved to another place does
not open. A root is replaced by wrapping the same random key anew: what it seals is not touched.
"""

from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bartizan.core.encoding import joined
from bartizan.core.ports import Entropy, fresh
from bartizan.core.principal import Environment
from bartizan.core.ring import Purpose, SecretRing
from bartizan.errors import Reason, Unavailable

VERSION = b"\x01"
ROOT = 8
NONCE = 12
TAG = 16
KEY = 32
_HEAD = 1 + ROOT + NONCE + KEY + TAG
_WRAP = b"box/v1 wrap"
_CONTENT = b"box/v1 content"


class Box:
    """Seals and opens what rests in a store of one environment."""

    __slots__ = ("_entropy", "_environment", "_kek", "_ring")

    def __init__(self, ring: SecretRing, environment: Environment, entropy: Entropy = fresh) -> None:
        self._ring = ring
        self._environment = environment
        self._entropy = entropy
        self._kek = lru_cache(maxsize=16)(self._made)

    def seal(self, content: bytes, *, context: bytes) -> bytes:
        """`content` in a new box under the newest root, bound to `context` (parts joined with their lengths)."""
        key, nonce = self._entropy(KEY), self._entropy(NONCE)
        return self._wrapped(key, context) + nonce + AESGCM(key).encrypt(nonce, content, joined(_CONTENT, context))

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """What was sealed, with the same `context`; `Unavailable` where the root is missing or a byte was changed."""
        nonce, content = sealed[_HEAD : _HEAD + NONCE], sealed[_HEAD + NONCE :]
        return _opened(AESGCM(self._unwrapped(sealed, context)), nonce, content, joined(_CONTENT, context))

    def rewrap(self, sealed: bytes, *, context: bytes) -> bytes:
        """The same content under the newest root."""
        return self._wrapped(self._unwrapped(sealed, context), context) + sealed[_HEAD:]

    def _wrapped(self, key: bytes, context: bytes) -> bytes:
        root, nonce = self._ring.newest, self._entropy(NONCE)
        name = root.encode()
        return VERSION + name + nonce + self._kek(root).encrypt(nonce, key, joined(_WRAP, name, context))

    def _unwrapped(self, sealed: bytes, context: bytes) -> bytes:
        name, rest = sealed[1 : 1 + ROOT], sealed[1 + ROOT : _HEAD]
        if sealed[:1] != VERSION or len(sealed) < _HEAD + NONCE + TAG or not name.isalnum():
            raise Unavailable(Reason.SEAL_BROKEN)
        return _opened(self._kek(name.decode()), rest[:NONCE], rest[NONCE:], joined(_WRAP, name, context))

    def _made(self, root: str) -> AESGCM:
        subkey = self._ring.subkey(root, Purpose.KEK, self._environment)
        if subkey is None:
            raise Unavailable(Reason.SECRET_MISSING)
        return AESGCM(subkey.mac(_WRAP))  # the subkey itself never leaves the ring; its MAC of a label is as random


def _opened(key: AESGCM, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
    try:
        return key.decrypt(nonce, sealed, context)
    except InvalidTag:
        raise Unavailable(Reason.SEAL_BROKEN) from None
