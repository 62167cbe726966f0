"""The one form of every opaque text that we hand out and read back: purpose, expiry, id, body, MAC.

`<prefix>_` base64url(0x01, expiry in 5 bytes, id in 16, body) `.` base64url(HMAC-SHA-256). The MAC covers everything
before the dot and `bind`, what the text is bound to without saying it, each behind its length, under the subkey of the
text's purpose and environment (RFC 2104; base64url without padding, RFC 4648 section 5). The body can be read by
whoever holds the text; it is not a place for secrets.
"""

from collections.abc import Mapping
from hashlib import sha256
from re import compile as pattern

from itsdangerous import Signer
from itsdangerous.signer import SigningAlgorithm

from bartizan.core.encoding import base64url, joined, unbase64url
from bartizan.core.ports import Entropy, fresh
from bartizan.core.principal import Environment
from bartizan.core.ring import Purpose, SecretRing, Subkey
from bartizan.errors import Misuse, Reason, Rejected

VERSION = 1
HEAD = 22  # bytes before the body: version, expiry, id
ID = 16
_PREFIX = pattern(r"[a-z]{2,12}")


class Stamped:
    """What a text that verified says: `id` is its own, for using it once; `expires_at` is UTC seconds."""

    __slots__ = ("body", "expires_at", "id")

    def __init__(self, id_: bytes, expires_at: int, body: bytes) -> None:
        self.id: bytes = id_
        self.expires_at: int = expires_at
        self.body: bytes = body


class _UnderSubkeys(SigningAlgorithm):
    """HMAC-SHA-256 under subkeys; the signer knows only the ids of their roots, so that no key leaves the ring."""

    def __init__(self, subkeys: Mapping[bytes, Subkey]) -> None:
        self._subkeys = subkeys

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return self._subkeys[key].mac(value)


class Stamp:
    """Makes and reads the texts of one purpose in one environment.

    `longest` is how many bytes a body may have, `life` how many seconds a text may live, `error` what a text that is
    not valid raises, with the reason `malformed`, `forged` or `expired`. `issuer` is given where the texts are tokens
    of one.
    """

    __slots__ = ("_entropy", "_error", "_life", "_longest", "_most", "_prefix", "_shape", "_shortest", "_signer")

    def __init__(
        self,
        ring: SecretRing,
        purpose: Purpose,
        environment: Environment,
        *,
        prefix: str,
        longest: int,
        life: int,
        error: type[Rejected],
        issuer: str = "",
        entropy: Entropy = fresh,
    ) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise Misuse("a prefix is 2 to 12 lower-case letters")
        found = {root_id.encode(): ring.subkey(root_id, purpose, environment, issuer) for root_id in ring}
        subkeys = {name: subkey for name, subkey in found.items() if subkey is not None}
        # The ring has the newest root first, itsdangerous signs with the last key and tries it first.
        self._signer = Signer(
            list(reversed(subkeys)), key_derivation="none", digest_method=sha256, algorithm=_UnderSubkeys(subkeys)
        )
        self._prefix = f"{prefix}_"
        # 43 characters carry 32 bytes and two bits more, which are zero in the last one.
        self._shape = pattern(rf"{prefix}_([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{{42}}[AEIMQUYcgkosw048])")
        self._most = longest
        self._shortest = len(self._prefix) + _width(HEAD) + 44
        self._longest = len(self._prefix) + _width(HEAD + longest) + 44
        self._life = life
        self._error = error
        self._entropy = entropy

    def make(self, body: bytes, *, now: int, seconds: int, bind: bytes = b"", id_: bytes | None = None) -> str:
        """A text that says `body` until `now + seconds`; it is read only with the same `bind`.

        Its id is a new one, or `id_` where a row decides what the text is worth: then the same is the same text again.
        """
        if len(body) > self._most or (id_ is not None and len(id_) != ID):
            raise Misuse("this is more than fits into one text")
        expires_at = now + self.checked_life(seconds)
        head = self._prefix + base64url(
            VERSION.to_bytes() + expires_at.to_bytes(5) + (self._entropy(ID) if id_ is None else id_) + body,
        )
        return f"{head}.{self._signer.get_signature(joined(head.encode(), bind)).decode()}"

    def read(self, text: str, *, now: int, bind: bytes = b"") -> Stamped:
        """What `text` says, if we made it, for this purpose and `bind`, and it lives at `now`."""
        given: object = text
        if not isinstance(given, str) or not self._shortest <= len(text) <= self._longest:
            raise self._error(Reason.MALFORMED)
        shape = self._shape.fullmatch(text)
        data = None if shape is None else unbase64url(shape[1])
        if shape is None or data is None:
            raise self._error(Reason.MALFORMED)
        # The signer decodes leniently: that the MAC is written in the one canonical way was checked above.
        if not self._signer.verify_signature(joined(text[:-44].encode(), bind), shape[2]):
            raise self._error(Reason.FORGED)
        if data[0] != VERSION:
            raise self._error(Reason.MALFORMED)
        expires_at = int.from_bytes(data[1:6])
        if now >= expires_at:
            raise self._error(Reason.EXPIRED)
        return Stamped(data[6:HEAD], expires_at, data[HEAD:])

    def checked_life(self, seconds: object) -> int:
        """`seconds` as a life of a text: from 1 to the longest one."""
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= self._life:
            raise Misuse(f"seconds is a whole number from 1 to {self._life}")
        return seconds


def _width(size: int) -> int:
    """How many characters of base64url carry so many bytes."""
    return (size * 8 + 5) // 6
