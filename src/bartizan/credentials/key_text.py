"""The text of an API key: what it looks like, and nothing about who holds it.

    secret       [brand_]sk_(live|test)_<16 base62 id>_<43 base62 secret><6 base62 CRC-32>     74 characters
    publishable  [brand_]pk_(live|test)_<16 base62 id>_<6 base62 CRC-32>                       31 characters

The id of 16 characters and the underscore behind it keep the rules of secret scanners for Stripe's keys from matching,
which would send the key to Stripe. The checksum covers every character before it: a slip, or a kind or environment
that was edited, ends here, before any hash or store.
"""

from collections.abc import Callable
from re import compile as regex
from struct import Struct
from typing import Any, Literal, NoReturn

from bartizan.core.encoding import CHECK, base62, check_of, checksum, random62
from bartizan.core.ports import Entropy
from bartizan.core.principal import ENVIRONMENTS, Environment
from bartizan.errors import InvalidKey, Misuse, Reason

Kind = Literal["secret", "publishable"]
KINDS: tuple[Kind, ...] = ("secret", "publishable")
_SECRETS: dict[Kind, int] = {"secret": 43, "publishable": 0}  # how many characters of secret a key has
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

    __slots__ = ("_brand", "_looks", "_shapes", "_usual")

    def __init__(self, key_prefix: str | None = None) -> None:
        if key_prefix is not None and not _BRAND.fullmatch(key_prefix):
            raise Misuse("key_prefix is 2 to 16 characters of a-z and 0-9, a letter first, and none of ours")
        self._brand = "" if key_prefix is None else f"{key_prefix}_"
        head = len(self._brand) + 8
        # By length: what cuts a key into head, id, underscore, secret and checksum; and by head: what it says it is.
        self._shapes: dict[int, tuple[Callable[[bytes], tuple[Any, ...]], dict[bytes, tuple[Kind, Environment]]]] = {
            head + 16 + 1 + size + CHECK: (
                Struct(f"{head}s16s1s{size}s{CHECK}s").unpack,
                {f"{self._brand}{_LETTERS[kind]}_{place}_".encode(): (kind, place) for place in ENVIRONMENTS},
            )
            for kind, size in _SECRETS.items()
        }
        self._usual = tuple(said for _, heads in self._shapes.values() for said in heads)
        self._looks = regex(rb"(?:[a-z][a-z0-9]{1,15}_)?[sp]k_", flags=2)

    def looks_like(self, presented: bytes) -> bool:
        """Whether the value begins as one of our keys does, however it goes on."""
        return b"_" in presented and (
            presented.startswith(self._usual) or self._looks.match(presented) is not None
        )  # an underscore is in all of them, and in few other values: to look for one costs nothing

    def parse(self, text: str) -> ParsedKey:
        """The parts of a key; anything else is `InvalidKey`, without a hash, a MAC or a look at the store."""
        return self.parsed(text.encode("ascii", "replace"))

    def parsed(self, text: bytes) -> ParsedKey:
        """As `parse`, of bytes as a header brings them."""
        shape = self._shapes.get(len(text))
        if shape is None:
            raise InvalidKey(Reason.MALFORMED_KEY)
        head, key_id, bar, secret, check = shape[0](text)
        said = shape[1].get(head)
        if (
            said is None
            or bar != b"_"
            or not key_id.isalnum()  # of bytes, this is about ASCII
            or not (secret.isalnum() or not secret)
            or check_of(text[:-CHECK]) != check
        ):
            raise InvalidKey(Reason.MALFORMED_KEY)
        return ParsedKey(said[0], said[1], key_id.decode(), secret)

    def new(self, kind: Kind, environment: Environment, entropy: Entropy) -> tuple[str, ParsedKey]:
        """A fresh key: its text and its parts."""
        key_id = random62(16, entropy)
        secret = base62(entropy(32), 43) if kind == "secret" else ""
        body = self.named(kind, environment, key_id) + "_" + secret
        return body + checksum(body), ParsedKey(kind, environment, key_id, secret.encode())

    def named(self, kind: str, environment: str, key_id: str) -> str:
        """A key's public name, for logs: everything before its secret."""
        return f"{self._brand}{_LETTERS.get(kind, kind)}_{environment}_{key_id}"
