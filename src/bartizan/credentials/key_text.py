"""The text of an API key: what it looks like, and nothing about who holds it.

    secret       [brand_]sk_(live|test)_<16 base62 id>_<43 base62 secret><6 base62 CRC-32>     74 characters
    publishable  [brand_]pk_(live|test)_<16 base62 id>_<6 base62 CRC-32>                       31 characters

The id of 16 characters and the underscore behind it keep the rules of secret scanners for Stripe's keys from matching,
which would send the key to Stripe. The checksum covers every character before it: a slip, or a kind or environment
that was edited, ends here, before any hash or store.
"""

from collections.abc import Callable
from re import compile as regex
from typing import Any, Literal, NoReturn

from bartizan.core.encoding import CHECK, base62, checksum, random62
from bartizan.core.ports import Entropy
from bartizan.core.principal import ENVIRONMENTS, Environment
from bartizan.errors import InvalidKey, Misuse, Reason

Kind = Literal["secret", "publishable"]
KINDS: tuple[Kind, ...] = ("secret", "publishable")
_LENGTHS: dict[Kind, int] = {"secret": 74, "publishable": 31}  # without a brand
_LETTERS: dict[str, str] = {"secret": "sk", "publishable": "pk"}
_BRAND = regex(r"(?!(?:sk|pk|rk|live|test)\Z)[a-z][a-z0-9]{1,15}")


class ParsedKey:
    """A well-formed key: `kind`, `environment`, `id`. Its secret is here too, and in no representation of it."""

    __slots__ = ("_secret", "environment", "id", "kind")

    def __init__(self, kind: Kind, environment: Environment, key_id: str, secret: bytes) -> None:
        self.kind = kind
        self.environment = environment
        self.id: str = key_id
        self._secret = secret

    def __repr__(self) -> str:
        return f"<ParsedKey {self.kind} {self.environment} {self.id}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a key is not copied or pickled")


class KeyText:
    """The grammar of one deployment, with its brand or without."""

    __slots__ = ("_brand", "_heads", "_id", "looks_like")

    def __init__(self, key_prefix: str | None = None) -> None:
        if key_prefix is not None and not _BRAND.fullmatch(key_prefix):
            raise Misuse("key_prefix is 2 to 16 characters of a-z and 0-9, a letter first, and none of ours")
        self._brand = "" if key_prefix is None else f"{key_prefix}_"
        # By a key's first characters: what it says it is, and how long it then has to be.
        self._heads: dict[str, tuple[Kind, Environment, int]] = {
            f"{self._brand}{_LETTERS[kind]}_{environment}_": (kind, environment, len(self._brand) + length)
            for kind, length in _LENGTHS.items()
            for environment in ENVIRONMENTS
        }
        self._id = len(self._brand) + 8  # where the id begins
        # Whether a value begins as a key does, however it goes on.
        self.looks_like: Callable[[bytes], object] = regex(rb"(?:[a-z][a-z0-9]{1,15}_)?[sp]k_", flags=2).match

    def parse(self, text: str) -> ParsedKey:
        """The parts of a key; anything else is `InvalidKey`, without a hash, a MAC or a look at the store."""
        start = self._id
        head = self._heads.get(text[:start])
        if (
            head is None
            or len(text) != head[2]
            or not text.isascii()
            or not text[start : start + 16].isalnum()
            or text[start + 16] != "_"
            or not text[start + 17 :].isalnum()
            or checksum(text[:-CHECK]) != text[-CHECK:]
        ):
            raise InvalidKey(Reason.MALFORMED_KEY)
        return ParsedKey(head[0], head[1], text[start : start + 16], text[start + 17 : -CHECK].encode())

    def new(self, kind: Kind, environment: Environment, entropy: Entropy) -> tuple[str, ParsedKey]:
        """A fresh key: its text and its parts."""
        key_id = random62(16, entropy)
        secret = base62(entropy(32), 43) if kind == "secret" else ""
        body = self.named(kind, environment, key_id) + "_" + secret
        return body + checksum(body), ParsedKey(kind, environment, key_id, secret.encode())

    def named(self, kind: str, environment: str, key_id: str) -> str:
        """A key's public name, for logs: everything before its secret."""
        return f"{self._brand}{_LETTERS.get(kind, kind)}_{environment}_{key_id}"
