"""Where somebody goes back to who had to sign in first: a path of this site alone, as a stamped `next`."""

from urllib.parse import parse_qs, quote

from bartizan.core.cookies import PRE, Cookie, browser_secret, cookies_in
from bartizan.core.passage import HeaderPairs
from bartizan.core.ports import Clock, Entropy, fresh
from bartizan.core.principal import Environment
from bartizan.core.request import Request, viewed
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp
from bartizan.errors import InvalidCode, Misuse

LIFE = 3600  # seconds
LONGEST = 2048  # characters of a path with its query
NEXT = "next"
_IN_A_PATH = "/:@!$&'()*+,;=~"
_IN_A_QUERY = _IN_A_PATH + "?%"
MOST_FIELDS = 100  # of a query


class ReturnPaths:
    """Makes the redirect to a page for signing in, and reads from there where to go back to."""

    def __init__(self, *, ring: SecretRing, environment: Environment, clock: Clock, entropy: Entropy = fresh) -> None:
        self._stamp = Stamp(
            ring, Purpose.RETURN_PATH, environment, prefix="next", longest=LONGEST, life=LIFE, error=InvalidCode,
            entropy=entropy,
        )  # fmt: skip
        self._clock = clock
        self._entropy = entropy

    def redirect(self, login: str, request: Request, /) -> HeaderPairs:
        """The headers of a 303 to `login`, which say where to come back to, to this browser alone."""
        path = quote(request.mount + request.path, safe=_IN_A_PATH)
        if request.query:
            path += "?" + quote(request.query, safe=_IN_A_QUERY)
        target, headers = request.mount + login, [(b"cache-control", b"no-store"), (b"vary", b"Cookie")]
        if len(path) <= LONGEST and _is_local(path):
            secret = browser_secret(cookies_in(request.header("cookie") or ""), self._entropy)
            text = self._stamp.make(path.encode(), now=self._clock.seconds(), seconds=LIFE, bind=secret.encode())
            target += f"?{NEXT}={text}"
            headers.append((b"set-cookie", Cookie(PRE, secret, LIFE).header().encode("latin-1")))
        return [(b"location", quote(target, safe=_IN_A_QUERY).encode()), *headers]

    def opened(self, request: object, default: str) -> str:
        """The path that the request's `next` says, or `default` where it is not of ours, or of another browser."""
        if not _is_local(default):
            raise Misuse("default is a path of this site")
        asked = viewed(request)
        secret = cookies_in(asked.header("cookie") or "").get(PRE)
        try:
            (text,) = parse_qs(asked.query.decode("latin-1"), max_num_fields=MOST_FIELDS)[NEXT]
            path = self._stamp.read(
                text, now=self._clock.seconds(), bind=(secret or "").encode("latin-1")
            ).body.decode()
        except (InvalidCode, KeyError, ValueError):
            return default
        return path if secret and _is_local(path) else default


def _is_local(path: str) -> bool:
    """Whether every browser takes it for a path of the site that says it."""
    return (
        path[:1] == "/" and path[1:2] not in {"/", "\\"} and path.isascii() and path.isprintable() and "\\" not in path
    )
