"""From headers to what has to be compared: one reader for every provider's row, strict where the field is lenient.

Nothing here costs more for a larger body, and nothing is decoded before it is known to be short and plain.
"""

from collections.abc import Iterable, Mapping, Sequence
from re import compile as pattern
from typing import Any, Final

from bartizan.errors import InvalidWebhook, MalformedWebhook, Misuse, Reason, StaleWebhook
from bartizan.webhooks.providers import HOOK0_COVERED, Provider

LONGEST_SIGNATURE: Final = 4096  # bytes of a signature header
MOST_CODES: Final = 32  # codes in it; a thousand of them would be compared in vain
DIGITS: Final = 12  # of a time: until the year 33658

LONGEST_ID: Final = 256
_NAME = pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_SIZES = {"sha256": 32, "sha512": 64, "sha1": 20, "ed25519": 64}
V1A: Final = "v1a,"

Headers = Mapping[str, str] | Mapping[str, Any] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
# What stands before the body, the codes of HMACs and of Ed25519 signatures, signed id and time, unsigned headers.
Read = tuple[bytes, Sequence[str], Sequence[str], str | None, int | None, Mapping[str, str]]
_NONE: Mapping[str, str] = {}
# Signature, time, id, and unsigned headers, as they stand there.
Found = tuple[str, str | None, str | None, Mapping[str, str]]
_MALFORMED = Reason.MALFORMED_HEADER
_MISSING = Reason.HEADER_MISSING  # to look a member of an enumeration up costs as much as to look for a header


class Scheme:
    """A provider's row, made ready."""

    __slots__ = (
        "_asymmetric", "_covers", "_first", "_id", "_label", "_lengths", "_names", "_parts", "_second", "_signature",
        "_symmetric", "_third", "_time", "_timed", "_unsigned", "_usual", "_wire",
        "provider", "signature_width", "sizes", "width",
    )  # fmt: skip

    def __init__(self, provider: Provider, *, symmetric: bool, asymmetric: bool) -> None:
        self.provider: Provider = provider
        self._symmetric = symmetric
        self._asymmetric = asymmetric
        size = _SIZES[provider.algorithm]
        self.sizes: frozenset[int] = frozenset({size, _SIZES["ed25519"]})  # bytes of a code
        self.width: int = size * 2 if provider.encoding == "hex" else (size + 2) // 3 * 4
        self.signature_width: int = 128 if provider.encoding == "hex" else 88
        self._signature = provider.signature.lower()
        self._time = "" if provider.timestamp is None else provider.timestamp.lower()
        self._id = "" if provider.id is None else provider.id.lower()
        self._unsigned = tuple(name.lower() for name in provider.unsigned)
        self._wire = tuple(name.encode() for name in (self._signature, self._time, self._id))
        names = [name for name in (self._signature, self._time, self._id, *self._unsigned) if name]
        if len(set(names)) != len(names):
            raise Misuse("two parts of a provider read the same header")
        self._names: dict[Any, str] = {**{name: name for name in names}, **{name.encode(): name for name in names}}
        self._lengths = frozenset(map(len, names))
        self._label = provider.label + ("," if provider.layout == "spaced" else "")
        self._covers = provider.covered_id is not None
        self._timed = "timestamp" in provider.slots
        self._first, self._second, self._third, *_ = (*provider.literals, "", "")
        # Where three headers say it all, and one code of ours is what a signature header mostly is: its length then.
        plain = provider.layout in {"spaced", "plain"} and symmetric and provider.algorithm != "ed25519"
        three = provider.slots[:2] == ["id", "timestamp"] and not self._unsigned
        self._usual = len(self._label) + self.width if plain and three else 0
        self._parts = tuple(name for name in provider.slots if name in {"id", "timestamp"})

    def prefix(self, identity: str | None, time: str | None) -> bytes:
        """What is signed before the body."""
        parts = self._parts
        if len(parts) == 2:
            one, two = (identity, time) if parts[0] == "id" else (time, identity)
            return f"{self._first}{one}{self._second}{two}{self._third}".encode()
        if not parts:
            return self._first.encode()
        return f"{self._first}{identity if parts[0] == 'id' else time}{self._second}".encode()

    def read(self, headers: Headers, now: float, tolerance: int) -> Read:
        """All that the headers say, or the refusal that they are enough for."""
        signature: Any = None
        time: Any = None
        identity: Any = None
        unsigned = _NONE
        if self._usual:
            if type(headers) is dict:
                signature, time, identity = headers.get(self._signature), headers.get(self._time), headers.get(self._id)
            elif type(headers) is list:
                signature, time, identity = self._from_wire(headers)
        if type(signature) is type(time) is type(identity) is str:
            # What a message mostly is: one code of ours, and nothing odd in any of the three headers. What is not
            # exactly so is read with care below, which also finds out what is wrong with it.
            if (
                len(signature) == self._usual
                and len(code := signature.removeprefix(self._label)) == self.width
                and code.isascii()
                and len(time) <= DIGITS
                and len(identity) <= LONGEST_ID
                and (prefix := f"{self._first}{identity}{self._second}{time}{self._third}").isascii()
                and time.isdigit()
                and time[0] != "0"
                and identity.isidentifier()
            ):
                moment = int(time)
                if -tolerance <= now - moment <= tolerance:
                    return prefix.encode(), (code,), (), identity, moment, _NONE
                raise _stale(now, moment)
        else:
            if self._covers:
                headers = _pairs(headers)
            signature, time, identity, unsigned = self._found(headers)
            if signature is None:
                raise MalformedWebhook(_MISSING)
        return self._with_care(headers, (signature, time, identity, unsigned), now, tolerance)

    def _with_care(self, headers: Headers, found: Found, now: float, tolerance: int) -> Read:
        signature, time, identity, unsigned = found
        if len(signature) > LONGEST_SIGNATURE or not signature.isascii():
            raise MalformedWebhook(_MALFORMED)
        time_field, covered, codes, signatures = self._codes(signature)
        if time_field is not None:
            time = time_field
        moment = None
        if self._timed:
            if time is None:
                raise MalformedWebhook(_MISSING)
            if len(time) > DIGITS or not (time.isdigit() and time.isascii()) or (time[0] == "0" and time != "0"):
                raise MalformedWebhook(Reason.MALFORMED_TIMESTAMP)
            moment = int(time)
            if not -tolerance <= now - moment <= tolerance:  # so written, it refuses at a clock that tells NaN
                raise _stale(now, moment)
        if self._id:
            if identity is None:
                raise MalformedWebhook(_MISSING)
            if not is_id(identity):
                raise MalformedWebhook(_MALFORMED)
        codes, signatures = self._possible(codes, signatures)
        prefix = self.prefix(identity, time)
        if covered is not None:
            more, identity = self._covered(covered, headers, unsigned)
            prefix += more
        return prefix, codes, signatures, identity, moment, unsigned

    def _possible(self, codes: Sequence[str], signatures: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """The codes that a key of ours may have made: an HMAC under a public key would be anybody's."""
        codes = codes if self._symmetric else ()
        signatures = signatures if self._asymmetric else ()
        if not codes and not signatures:
            raise InvalidWebhook(Reason.NO_SUPPORTED_SIGNATURE)
        codes = [code for code in codes if len(code) == self.width]
        signatures = [code for code in signatures if len(code) == self.signature_width]
        if not codes and not signatures:
            raise MalformedWebhook(Reason.MALFORMED_SIGNATURE)
        return codes, signatures

    def _from_wire(self, headers: Any) -> tuple[str | None, str | None, str | None]:
        """The three headers of ASGI's own form, where they are there in lower case, and nothing came twice."""
        one, two, three = self._wire
        try:
            given = dict(headers)
            if len(given) != len(headers):
                return None, None, None
            return given[one].decode("latin-1"), given[two].decode("latin-1"), given[three].decode("latin-1")
        except (KeyError, TypeError, ValueError, AttributeError):
            return None, None, None

    def _found(self, headers: Any) -> tuple[str | None, str | None, str | None, Mapping[str, str]]:
        """The values of the headers that the row names, each once."""
        signature: Any
        time: Any
        identity: Any
        unsigned = _NONE
        try:
            if type(headers) is dict and self._signature in headers:
                # Names in lower case: nobody has to look at every one.
                signature, time, identity = headers[self._signature], headers.get(self._time), headers.get(self._id)
                if self._unsigned:
                    unsigned = {name: _text(headers[name]) for name in self._unsigned if name in headers}
            elif type(headers) is list and self._wire[0] in (given := dict(headers)) and len(given) == len(headers):
                # ASGI's own form, whose names are in lower case, and none of them came twice.
                signature, time, identity = map(given.get, self._wire)
                if self._unsigned:
                    unsigned = {name: _text(given[name.encode()]) for name in self._unsigned if name.encode() in given}
            else:
                found: dict[str, Any] = {}
                names, lengths = self._names, self._lengths
                plain = type(headers) is dict and "wsgi.version" not in headers
                for name, value in headers.items() if plain else _pairs(headers):
                    if len(name) not in lengths:
                        continue
                    ours = names.get(name) or names.get(name.lower())
                    if ours is None:
                        continue
                    if ours in found:
                        raise MalformedWebhook(Reason.REPEATED_HEADER)
                    found[ours] = value
                if self._signature not in found:
                    return None, None, None, unsigned
                signature, time, identity = found[self._signature], found.get(self._time), found.get(self._id)
                if self._unsigned:
                    unsigned = {name: _text(found[name]) for name in self._unsigned if name in found}
            if type(signature) is not str and signature is not None:
                signature = _text(signature)
            if type(time) is not str and time is not None:
                time = _text(time)
            if type(identity) is not str and identity is not None:
                identity = _text(identity)
        except (TypeError, ValueError, AttributeError, KeyError):
            raise Misuse("headers are a mapping of texts, pairs of texts or of bytes, or a WSGI environment") from None
        return signature, time, identity, unsigned

    def _codes(self, signature: str) -> tuple[str | None, str | None, Sequence[str], Sequence[str]]:
        """Time, covered headers, codes and Ed25519 signatures of a signature header."""
        layout, label = self.provider.layout, self._label
        if layout == "spaced":
            parts = signature.split(" ")
            if len(parts) > MOST_CODES:
                raise MalformedWebhook(Reason.MALFORMED_HEADER)
            codes = [part[len(label) :] for part in parts if part.startswith(label)]
            return None, None, codes, [part[len(V1A) :] for part in parts if part.startswith(V1A)]
        if layout == "plain":
            codes = [signature[len(label) :]] if signature.startswith(label) else []
            return (None, None, (), codes) if self.provider.algorithm == "ed25519" else (None, None, codes, ())
        return (*self._fields(signature), ())

    def _fields(self, signature: str) -> tuple[str, str | None, list[str]]:
        """Time, covered headers and codes of a header like `t=…,v1=…`; or, by position alone, of two such parts."""
        parts = [part.partition("=") for part in signature.split(",")]
        if len(parts) > MOST_CODES or not all(name and equals and value for name, equals, value in parts):
            raise MalformedWebhook(Reason.MALFORMED_HEADER)
        if self.provider.layout == "pair":
            if len(parts) != 2:
                raise MalformedWebhook(Reason.MALFORMED_HEADER)
            return parts[0][2], None, [parts[1][2]]

        def values(name: str) -> list[str]:
            return [value for key, _, value in parts if key == name]

        times = values("t")
        if len(times) != 1:
            raise MalformedWebhook(Reason.MALFORMED_HEADER)
        stronger = values(HOOK0_COVERED) if self._covers else []
        if not stronger:
            return times[0], None, values(self._label)
        # The weaker code beside it is never looked at: to take it would be a downgrade.
        covered = values("h")
        if len(covered) != 1:
            raise MalformedWebhook(Reason.MALFORMED_HEADER)
        return times[0], covered[0], stronger

    def _covered(self, listed: str, headers: Headers, unsigned: Any) -> tuple[bytes, str | None]:
        """What a code over headers adds to what is signed, and the id among them; those are unsigned no more."""
        names = listed.split(" ")
        if len(names) > MOST_CODES or not all(_NAME.fullmatch(name) for name in names):
            raise MalformedWebhook(Reason.MALFORMED_HEADER)
        values: dict[str, str] = {}
        for name in map(str.lower, names):
            found = [value for key, value in _pairs(headers) if _text(key).lower() == name]
            if len(found) != 1 or name in values:
                raise MalformedWebhook(Reason.REPEATED_HEADER if found else Reason.HEADER_MISSING)
            values[name] = _text(found[0])
        try:
            more = ".".join([listed, *values.values(), ""]).encode("latin-1")
        except UnicodeEncodeError:
            raise MalformedWebhook(Reason.MALFORMED_HEADER) from None
        if any("." in value for value in values.values()):
            return more, None  # with the separator in one they could trade characters: none is known to be as signed
        for name in values.keys() & unsigned.keys():
            del unsigned[name]
        identity = values.get(self.provider.covered_id or "")
        return more, identity if identity is not None and is_id(identity) else None


def _stale(now: float, moment: int) -> StaleWebhook:
    return StaleWebhook(Reason.TIMESTAMP_TOO_OLD if now > moment else Reason.TIMESTAMP_IN_FUTURE)


def is_id(text: str) -> bool:
    """Whether this can be a signed id: printable ASCII without space, and without the dot.

    With the dot in it, id, time and body could trade characters and keep the signature.
    """
    return 0 < len(text) <= LONGEST_ID and text.isascii() and text.isprintable() and "." not in text and " " not in text


def _pairs(headers: Any) -> Any:
    """The pairs of any form of headers, as a list."""
    if type(headers) is list:
        return headers
    if type(headers) is dict and "wsgi.version" in headers:
        return [
            (name.removeprefix("HTTP_").lower().replace("_", "-"), value)
            for name, value in headers.items()
            if name.startswith("HTTP_") or name in {"CONTENT_TYPE", "CONTENT_LENGTH"}
        ]
    items = getattr(headers, "items", None)
    return list(headers if items is None else items())


def _text(value: Any) -> str:
    """A header's name or value as text, and not too long."""
    text = value.decode("latin-1") if type(value) is bytes else value
    if not isinstance(text, str):
        raise TypeError
    if len(text) > LONGEST_SIGNATURE:
        raise MalformedWebhook(Reason.MALFORMED_HEADER)
    return text
