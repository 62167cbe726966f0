"""The answer of a refusal: RFC 9457 `application/problem+json`, its bytes made once for each error class."""

import json

from bartizan.core.passage import HeaderPairs, Refuse
from bartizan.errors import BartizanError

_made: dict[type[BartizanError], tuple[bytes, HeaderPairs]] = {}


def _make(kind: type[BartizanError]) -> tuple[bytes, HeaderPairs]:
    body = json.dumps(kind.__new__(kind).problem, separators=(",", ":")).encode()
    _made[kind] = (
        body,
        [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ],
    )
    return _made[kind]


def refusal(error: BartizanError, extra: HeaderPairs) -> Refuse:
    """The complete answer to a request that ends in `error`."""
    body, headers = _made.get(type(error)) or _make(type(error))
    headers = headers + extra
    for name, value in error.headers:
        headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    return Refuse(error, error.status, headers, body)
