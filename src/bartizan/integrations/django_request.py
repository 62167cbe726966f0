"""What the gate reads of a `django.http.HttpRequest`, which Django has read before."""

from re import compile as regex
from typing import Any, Final

from bartizan.core.passage import Edits, HeaderPairs
from bartizan.core.request import EnvironHeaders, Request

_ESCAPE = regex(r"%[0-9a-fA-F]{2}")
_MALFORMED: Final = "\ufffd"  # a path that the gate refuses


def request_of(request: Any) -> Request:
    """The request of a `django.http.HttpRequest`; its path is what Django's router reads."""
    scope, environ = getattr(request, "scope", None), request.META
    path: str = request.path_info
    if scope is None:
        raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
        peer = environ.get("REMOTE_ADDR")
        if raw is None and _ESCAPE.search(path):
            path = _MALFORMED  # Django writes bytes that are no UTF-8 as `%FF`, and then nobody can tell
        wire, scheme = environ.get("REQUEST_METHOD") or request.method, environ.get("wsgi.url_scheme", "http")
        headers: Any = EnvironHeaders(environ)
        client = None if peer is None else (peer, 0)
        query = environ.get("QUERY_STRING", "").encode("latin-1")
        raw_path = None if raw is None else raw.partition("?")[0].encode("latin-1")
    else:
        wire, scheme, headers, client = (
            scope["method"],
            scope.get("scheme", "http"),
            scope["headers"],
            scope.get("client"),
        )
        query, raw_path = scope.get("query_string", b""), scope.get("raw_path")
    # Django reads `post` as POST; the gate refuses it, unless something has set another method.
    method = wire if wire.upper() == request.method else request.method
    return Request(method, path, headers, client, scheme, query, raw_path, environ.get("SCRIPT_NAME", ""))


def size_of(request: Any) -> int:
    """How many bytes of body Django has read before it asks anybody, which it does under ASGI."""
    stream = request._stream  # noqa: SLF001 - a file that Django has filled, and no public word for it
    if not hasattr(stream, "seek"):
        return 0
    at, size = stream.tell(), stream.seek(0, 2)
    stream.seek(at)
    return int(size)


def pairs_of(response: Any) -> HeaderPairs:
    """The head of a response as it will leave."""
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    return pairs + [(b"set-cookie", each.OutputString().encode("latin-1")) for each in response.cookies.values()]


def edit(response: Any, edits: Edits) -> None:
    """Make these edits of the head."""
    for name in edits.drop:
        response.headers.pop(name.decode(), None)
    for name, value in edits.put:
        before = response.headers.get(name.decode())
        response.headers[name.decode()] = f"{before}, {value.decode()}" if before else value.decode()
    for cookie in edits.cookies:
        response.set_cookie(**cookie.args())
