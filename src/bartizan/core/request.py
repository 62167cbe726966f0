"""The request as every room sees it: a view, without a body, made by an adapter for each request."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, overload

from bartizan.errors import Misuse

AUTHORIZATION: Final = 0  # where the gate's scan of the headers puts these
ORIGIN: Final = 2
SEC_FETCH_SITE: Final = 3
DPOP: Final = 10

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 section 9.2.1

Pairs = Sequence[tuple[bytes, bytes]]


class EnvironHeaders(Sequence[tuple[bytes, bytes]]):
    """The header pairs of a WSGI environment (PEP 3333), made when somebody asks for them."""

    __slots__ = ("_made", "environ")

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self.environ: Mapping[str, Any] = environ
        self._made: list[tuple[bytes, bytes]] | None = None

    def _pairs(self) -> list[tuple[bytes, bytes]]:
        if self._made is None:
            self._made = [
                (name.removeprefix("HTTP_").lower().replace("_", "-").encode("latin-1"), value.encode("latin-1"))
                for name, value in self.environ.items()
                if name.startswith("HTTP_") or (name in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value)
            ]
        return self._made

    def __len__(self) -> int:
        return len(self._pairs())

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._pairs())

    @overload
    def __getitem__(self, index: int) -> tuple[bytes, bytes]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[bytes, bytes]]: ...
    def __getitem__(self, index: Any) -> Any:
        return self._pairs()[index]


class Request:
    """One HTTP request or websocket handshake.

    `path` is the decoded path that the application routes on, `raw_path` what was on the wire (None where the server
    does not tell), `headers` pairs of bytes with lower-case names, `client` the socket peer, `mount` the prefix that
    the server or a parent application took off. A websocket handshake has the method `WEBSOCKET`; `subprotocols` are
    what it offers (RFC 6455 section 1.9).
    """

    __slots__ = ("client", "headers", "method", "mount", "path", "query", "raw_path", "scheme", "slots", "subprotocols")

    def __init__(  # noqa: PLR0917 - keywords cost a dictionary, and one is made for every request
        self,
        method: str,
        path: str,
        headers: Pairs,
        client: tuple[str, int] | None,
        scheme: str,
        query: bytes = b"",
        raw_path: bytes | None = None,
        mount: str = "",
        subprotocols: Sequence[str] = (),
    ) -> None:
        self.method: str = method
        self.path: str = path
        self.headers: Pairs = headers
        self.client: tuple[str, int] | None = client
        self.scheme: str = scheme
        self.query: bytes = query
        self.raw_path: bytes | None = raw_path
        self.mount: str = mount
        self.subprotocols: Sequence[str] = subprotocols
        self.slots: Any = None  # the gate's one scan of the headers

    def header(self, name: str) -> str | None:
        """The value of a header, all its lines joined with `, ` (RFC 9110 section 5.3), or None.

        Those of `Cookie`, which HTTP/2 may split, are joined with `; ` (RFC 9113 section 8.2.3).
        """
        found = self._line(name.lower().encode("latin-1"))
        return None if found is None else found.decode("latin-1")

    def _line(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key == name]
        return (b"; " if name == b"cookie" else b", ").join(found) if found else None

    @property
    def proof(self) -> str | None:
        """The proof of possession that came with it (RFC 9449 section 4.1), unread; two of them are none that is good.

        Without one, whoever says `Authorization: DPoP` has brought an empty one.
        """
        slots = self.slots
        found: bytes | None = self._line(b"dpop") if slots is None else slots[DPOP]
        if found is None:
            return "" if self.says_dpop else None
        return found.decode("latin-1")

    @property
    def says_dpop(self) -> bool:
        """Whether its access token comes in the scheme of tokens that are bound to a key (RFC 9449 section 7.1)."""
        slots = self.slots
        found: bytes | None = self._line(b"authorization") if slots is None else slots[AUTHORIZATION]
        return found is not None and found[:5].lower() == b"dpop "

    def from_browser(self) -> bool:
        """Whether a web page sent it. `Sec-Fetch-Mode` alone does not say so: Node sends it from servers too."""
        slots = self.slots
        if slots is None:
            return self.header("origin") is not None or self.header("sec-fetch-site") is not None
        return slots[ORIGIN] is not None or slots[SEC_FETCH_SITE] is not None

    def __repr__(self) -> str:
        return f"<Request {self.method}>"  # the path is the peer's text

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a request is not copied or pickled: credentials are in its headers")


def of_scope(scope: Mapping[str, Any], method: str) -> Request:
    """The request of an ASGI scope; its path is what the application routes on, without its leading `root_path`."""
    path: str = scope["path"]
    mount: str = scope.get("root_path", "")
    if mount:
        if path.startswith(mount) and path[len(mount) : len(mount) + 1] in {"", "/"}:
            path = path[len(mount) :]
        else:
            mount = ""
    client, query, raw = scope.get("client"), scope.get("query_string", b""), scope.get("raw_path")
    if method == "WEBSOCKET":  # servers take what it offers out of the headers
        offered, scheme = scope.get("subprotocols", ()), scope.get("scheme", "ws")
        return Request(method, path, scope["headers"], client, scheme, query, raw, mount, offered)
    return Request(method, path, scope["headers"], client, scope.get("scheme", "http"), query, raw, mount)


def of_environ(environ: Mapping[str, Any]) -> Request:
    """The request of a WSGI environment."""
    peer = environ.get("REMOTE_ADDR")
    # PEP 3333 knows no raw path; where a server gives one under the usual names, it is checked as ASGI's is.
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    return Request(
        environ["REQUEST_METHOD"],
        _text(environ.get("PATH_INFO", "")) or "/",
        EnvironHeaders(environ),
        None if peer is None else (peer, 0),
        environ["wsgi.url_scheme"],
        query=environ.get("QUERY_STRING", "").encode("latin-1"),
        raw_path=None if raw is None else raw.partition("?")[0].encode("latin-1"),
        mount=_text(environ.get("SCRIPT_NAME", "")),
    )


def _text(native: str) -> str:
    """A path as the application reads it: UTF-8 in latin-1 (PEP 3333, "Unicode Issues"); what is not becomes U+FFFD."""
    if native.isascii():
        return native
    try:
        return native.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:  # not a native string: a server that breaks PEP 3333
        return "\ufffd"


def viewed(request: object) -> Request:
    """The request as we see it, given ours or a framework's: that has an ASGI scope, or a WSGI environment.

    Neither has to be whole for somebody who only looks at the query: what is missing is nothing.
    """
    if isinstance(request, Request):
        return request
    for name in ("", "scope", "environ", "META"):
        found = getattr(request, name, None) if name else request
        if isinstance(found, Mapping) and "query_string" in found:
            return of_scope({"path": "", "headers": (), **found}, found.get("method", "WEBSOCKET"))
        if isinstance(found, Mapping) and "QUERY_STRING" in found:
            return of_environ({"REQUEST_METHOD": "", "wsgi.url_scheme": "", **found})
    raise Misuse("this takes the request: Bartizan's, your framework's, an ASGI scope, or a WSGI environment")
