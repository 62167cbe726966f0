"""`WebhookEvent`: a message whose signature was verified, told apart from what came with it unsigned."""

import builtins
from collections.abc import Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, TypeVar

from bartizan.core.principal import Verified
from bartizan.errors import MalformedWebhook, Reason
from bartizan.webhooks.bodies import loads
from bartizan.webhooks.providers import Provider

T = TypeVar("T")

# Provider, signed id and time, body, name of the key, unsigned headers, and what is signed where it is not the body.
Found = tuple[Provider, str | None, int | None, bytes, str, Mapping[str, str], bytes | None]

LONGEST_ID = 256  # characters of an id


class WebhookEvent(Verified):
    """A verified message. Only a verifier makes one; all it says was signed, but for `unsigned`.

    `body` is exactly what was signed; `timestamp` is the signed time in UTC seconds, None where the scheme signs none;
    `key` names the secret that matched, so that an operator sees when the old one falls silent; `unsigned` holds the
    sender's headers that no signature covers: whoever captured a message can set them at will.
    """

    __slots__ = ("_found",)

    _found: Found  # one value for all: an event is made in the hot path

    @property
    def id(self) -> str:
        """The signed id, the same in every attempt: of a header, of the body, or `sha256:` of what is signed."""
        return self._identity()[1]

    @property
    def type(self) -> str | None:
        """What happened, in the sender's words, where the signed body says so."""
        member = self._found[0].type_member
        return None if member is None else self._member(member)

    @property
    def timestamp(self) -> int | None:
        """The signed time of this attempt, in UTC seconds."""
        return self._found[2]

    @property
    def body(self) -> bytes:
        """The bytes that were signed."""
        return self._found[3]

    @property
    def key(self) -> str:
        """The name of the secret that matched."""
        return self._found[4]

    @property
    def unsigned(self) -> Mapping[str, str]:
        """Headers of the sender that no signature covers, names in lower case."""
        return MappingProxyType(self._found[5])

    @property
    def once_key(self) -> tuple[bytes, ...]:
        """What a claim is keyed by, besides its namespace: signed material alone."""
        kind, value = self._identity()
        return b"webhook", self._found[0].name.encode(), kind.encode(), value.encode("utf-8", "surrogatepass")

    @property
    def once_keep(self) -> int:
        """Seconds for which a claim of it is remembered: the sender's whole retry schedule and a day."""
        return self._found[0].keep

    def json(self) -> Any:
        """The body as JSON (RFC 8259, in UTF-8); `MalformedWebhook` where it is none."""
        value, read = _attempt(loads, self._found[3])
        if not read:
            raise MalformedWebhook(Reason.UNREADABLE_BODY)
        return value

    def parse(self, model: "builtins.type[T] | Callable[[Any], T]") -> T:
        """The body as `model`: a TypedDict, dataclass, pydantic or msgspec model, or any function of the JSON value.

        Whatever goes wrong is `MalformedWebhook`, which holds nothing of the body. A type that cannot be read from JSON
        is `Misuse`.
        """
        from bartizan.webhooks.models import reader_of  # noqa: PLC0415 - loaded by who parses

        value, read = _attempt(reader_of(model), self._found[3])
        if not read:
            raise MalformedWebhook(Reason.UNREADABLE_BODY)
        made: T = value
        return made

    def _identity(self) -> tuple[str, str]:
        provider, header, _, body, _, _, bare = self._found
        if header is not None:
            return "id", header
        if provider.id_member is not None:
            member = self._member(provider.id_member)
            if member is not None and 1 <= len(member) <= LONGEST_ID:
                return "id", member
        return "sha256", "sha256:" + sha256(body if bare is None else bare).hexdigest()

    def _member(self, name: str) -> str | None:
        value, _ = _attempt(loads, self._found[3])
        member = value.get(name) if isinstance(value, dict) else None
        return member if isinstance(member, str) else None

    def __repr__(self) -> str:
        return f"<WebhookEvent of {self._found[0].name} by {self._found[4]}>"


# How an event is made, for the verifier alone: `new_event` and then `found` with what was verified.
new_event: Callable[[builtins.type[WebhookEvent]], WebhookEvent] = object.__new__
found: Callable[[WebhookEvent, Found], None] = WebhookEvent.__dict__["_found"].__set__


def _attempt(read: Callable[[bytes], Any], body: bytes) -> tuple[Any, bool]:
    """What `read` makes of the body, and whether it made anything. Nothing of what it raised is kept."""
    try:
        return read(body), True
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a model is foreign code, and its error quotes the body
        return None, False
