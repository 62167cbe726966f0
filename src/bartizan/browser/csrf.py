"""Whether a page of another origin sent a request: by its headers, before the body is read. Pure.

The Origin that a browser names comes first (RFC 6454 section 7), then Fetch Metadata (`Sec-Fetch-Site`). A request that
has neither is refused: whoever is no browser has no cookie of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from bartizan.core.request import SAFE_METHODS
from bartizan.errors import CrossOrigin, Misuse

HeaderSource = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
_LENGTHS = frozenset({len("origin"), len("sec-fetch-site")})  # of the names of two headers
_LOCAL = {"localhost", "127.0.0.1", "[::1]"}
_PORTS = {"https": 443, "http": 80}


class OriginCheck:
    """`verify` for requests that browsers send with cookies: those of `origins`, each `https://host[:port]`, pass."""

    __slots__ = ("_origins",)

    def __init__(self, origins: Sequence[str]) -> None:
        if isinstance(origins, str) or not origins:
            raise Misuse('origins is a list of origins, at least one: ["https://shop.example"]')
        self._origins = frozenset(checked_origin(origin) for origin in origins)

    def verify(self, method: str, headers: HeaderSource, *, websocket: bool = False) -> None:
        """Return where a page of one of the origins sent it, or the method is safe; else `CrossOrigin`.

        A websocket's handshake has a safe method and is checked all the same: it needs its Origin.
        """
        if method in SAFE_METHODS and not websocket:
            return
        origin = site = None
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            if len(name) not in _LENGTHS:
                continue
            key = (name if isinstance(name, bytes) else name.encode("latin-1", "replace")).lower()
            said = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
            if key == b"origin":
                if origin is not None:
                    raise CrossOrigin
                origin = said
            elif key == b"sec-fetch-site":
                if site is not None:
                    raise CrossOrigin
                site = said
        self.judge(origin, site, websocket=websocket)

    def judge(self, origin: bytes | None, site: bytes | None, *, websocket: bool = False) -> None:
        """As `verify`, of what the two headers say of a request that is not safe."""
        if origin is not None:
            if origin in self._origins:
                return
            raise CrossOrigin
        if site != b"same-origin" or websocket:
            raise CrossOrigin


def checked_origin(origin: object) -> bytes:
    """An origin as a browser writes it (RFC 6454 section 6.2)."""
    wrong = Misuse("an origin is https://host or https://host:port, in lower case and without a path")
    if not isinstance(origin, str) or not origin.isascii() or origin != origin.lower():
        raise wrong
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in _PORTS or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
        raise wrong
    if "@" in parts.netloc or "*" in parts.netloc or port == _PORTS[parts.scheme] or parts.netloc.endswith(":"):
        raise wrong
    if parts.scheme == "http" and parts.netloc.rpartition(":")[0 if port else 2] not in _LOCAL:
        raise Misuse("an origin over http is one of this machine's: cookies of ours travel over TLS only")
    return origin.encode()
