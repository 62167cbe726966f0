"""Bytes and text: base62 with a checksum, strict base64url, length-prefixed joining, canonical JSON.

The only place where bytes become text. Whatever is accepted re-encodes to the same text.
"""

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import inf
from typing import Any, NoReturn
from zlib import crc32

from bartizan.core.ports import Entropy

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple((a + b).encode() for a in ALPHABET for b in ALPHABET)
_VALUES = {c: i for i, c in enumerate(ALPHABET)}
_STANDARD = bytes.maketrans(b"-_", b"+/")
_URL = bytes.maketrans(b"+/", b"-_")
_PADDING = (b"", b"==", b"==", b"=")
_LAST = ("", "", "AQgw", "AEIMQUYcgkosw048")
_URL_SAFE = (ALPHABET + "-_").encode()
DEEPEST = 32  # levels of arrays and objects in JSON from elsewhere
_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode  # made once
CHECK = 6  # characters of a checksum: 62**6 > 2**32

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]


def base62(data: bytes, width: int) -> str:
    """`data`, read as one big-endian number, in exactly `width` characters, left-padded with `0`."""
    number, out = int.from_bytes(data), []
    for _ in range(width):
        number, digit = divmod(number, 62)
        out.append(ALPHABET[digit])
    if number:
        raise OverflowError("the number does not fit the width")
    return "".join(reversed(out))


def random62(width: int, entropy: Entropy) -> str:
    """`width` characters, uniformly at random (eight bytes more than needed make the bias smaller than 2**-60)."""
    return base62((int.from_bytes(entropy(width * 6 // 8 + 9)) % 62**width).to_bytes(width), width)


def unbase62(text: str, size: int) -> bytes | None:
    """The `size` bytes that `base62` would write as `text`, or None where there are none."""
    number = 0
    for c in text:
        value = _VALUES.get(c)
        if value is None:
            return None
        number = number * 62 + value
    return None if number >> (8 * size) else number.to_bytes(size)


def checksum(text: str) -> str:
    """CRC-32 (zlib) of the ASCII `text` in six base62 characters. It catches slips; it keeps nobody out."""
    return check_of(text.encode("ascii")).decode()


def check_of(data: bytes) -> bytes:
    """`checksum` of text that is bytes already."""
    number = crc32(data)
    rest = number // 3844
    return b"%b%b%b" % (_PAIRS[rest // 3844], _PAIRS[rest % 3844], _PAIRS[number % 3844])


def base64url(data: bytes) -> str:
    """`data` in the URL-safe alphabet, without padding (RFC 4648 section 5)."""
    return b2a_base64(data, newline=False).translate(_URL).rstrip(b"=").decode("ascii")


def is_base64url(text: str) -> bool:
    """Whether `text` is what `base64url` writes for some bytes.

    A lenient reader skips what it does not know and drops the last bits, so that many texts give the same bytes.
    """
    over = len(text) % 4
    # What is behind whole groups of four says four or two bits more than there are bytes for: they are zero.
    return text.isascii() and not text.encode().translate(None, _URL_SAFE) and (not over or text[-1] in _LAST[over])


def unbase64url(text: str) -> bytes | None:
    """The bytes that `base64url` would write as exactly `text`, or None where there are none."""
    return loose_base64url(text.encode()) if is_base64url(text) else None


def loose_base64url(text: bytes) -> bytes:
    """What `unbase64url` gives, and something or nothing where it gives None: to look at, or after `is_base64url`."""
    try:
        return a2b_base64(text.translate(_STANDARD) + _PADDING[len(text) % 4])
    except ValueError:
        return b""


def hashed(text: str) -> str:
    """The SHA-256 of a text in base64url: a thumbprint (RFC 7638), a challenge (RFC 7636), an `ath` (RFC 9449)."""
    return base64url(sha256(text.encode()).digest())


def joined(*parts: bytes) -> bytes:
    """Each part behind its length in four big-endian bytes: no two lists of parts give the same bytes."""
    return b"".join([len(part).to_bytes(4) + part for part in parts])


def canonical(value: Any) -> str:
    """JSON with sorted keys and no white space; a lone surrogate or a float is a `ValueError` of its caller."""
    return _canonical(_plain(value))


def parsed(data: bytes) -> Any:
    """The value that strict JSON in UTF-8 says (RFC 8259), or `ValueError`.

    A member that occurs twice, NaN, infinity, a number that overflows, a lone surrogate, and nesting beyond `DEEPEST`
    are no value: two readers could differ over each.
    """
    text = data.decode("utf-8")
    try:
        if text[:1] in {"{", "["}:  # as `decode` does it, without looking for white space that is hardly ever there
            value, end = _STRICT.raw_decode(text)
            if text[end:].strip(" \t\r\n"):
                raise ValueError("more than one value")
        else:
            value = _STRICT.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate encodes to nothing
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        inside = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        if not inside:
            return
        level = [child for children in inside for child in children]
    raise ValueError("nested too deeply")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number in (inf, -inf):
        raise ValueError("a number beyond all floats")
    return number


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_members, parse_float=_finite, parse_constant=_no_constant)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a JSON object is keyed by text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError("only text, whole numbers, booleans, None, lists and mappings are canonical")
