"""The answer of a refusal: RFC 9457 `application/problem+json`, all but its `instance` made once for each class."""

import json
from collections.abc import Callable

from bartizan.core.passage import HeaderPairs, Refuse
from bartizan.core.request import Request
from bartizan.errors import BartizanError

Problems = Callable[[BartizanError, Request], tuple[str, bytes]]

MEDIA_TYPE = b"application/problem+json"
_INSTANCE = b',"instance":"urn:bartizan:event:'
_END = b'"}'
_made: dict[type[BartizanError], tuple[bytes, HeaderPairs]] = {}


def _make(kind: type[BartizanError]) -> tuple[bytes, HeaderPairs]:
    begun = json.dumps(kind.__new__(kind).problem, separators=(",", ":")).encode()[:-1]
    _made[kind] = (begun, _headers(MEDIA_TYPE, len(begun) + len(_INSTANCE) + 32 + len(_END)))
    return _made[kind]


def _headers(media_type: bytes, length: int) -> HeaderPairs:
    return [
        (b"content-type", media_type),
        (b"content-length", b"%d" % length),
        (b"cache-control", b"no-store"),
    ]


def asked(problems: Problems, error: BartizanError, request: Request) -> tuple[str, bytes] | None:
    """The application's own media type and body, or None where it fails: then ours will do."""
    try:
        media_type, body = problems(error, request)
        if type(body) is bytes and media_type.isascii() and media_type.isprintable():
            return media_type, body
    except Exception:  # noqa: BLE001 - it is foreign code, and the refusal stands
        return None
    return None


def refusal(
    error: BartizanError, event: str | None, extra: HeaderPairs, instead: tuple[str, bytes] | None = None
) -> Refuse:
    """The complete answer to a request that ends in `error`; `event` is the id of the event that tells of it.

    `instead` is a media type and a body of the application's own.
    """
    if instead is not None:
        body = instead[1]
        headers = _headers(instead[0].encode("latin-1"), len(body)) + extra
    else:
        begun, headers = _made.get(type(error)) or _make(type(error))
        if event is None:
            body = begun + b"}"
            headers = _headers(MEDIA_TYPE, len(body)) + extra
        else:
            body = begun + _INSTANCE + event.encode() + _END
            headers = headers + extra
    for name, value in error.headers:
        headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    return Refuse(error, error.status, headers, body)
