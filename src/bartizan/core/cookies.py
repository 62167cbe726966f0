"""The cookies that we set: their names, and each as a framework or a header takes it (RFC 6265bis)."""

from collections.abc import Mapping
from re import ASCII, compile as pattern
from typing import Any, Final, Literal, NoReturn, TypedDict

from bartizan.core.encoding import base64url
from bartizan.core.ports import Entropy
from bartizan.errors import Misuse

ACCESS: Final = "__Host-access"
REFRESH: Final = "__Host-refresh"
BIND: Final = "__Host-bind"  # that this browser began the session whose tokens travel in bodies
PRE: Final = "__Host-pre"  # what tells one browser from another before anybody has signed in
DEVICE: Final = "__Host-device"  # that somebody signed in here before; it outlives a sign-out
LONGEST = 4096  # characters of name and value, which browsers keep
_SECRET = pattern(r"[A-Za-z0-9_-]{22}", ASCII)


class CookieArgs(TypedDict):
    """The arguments of `set_cookie` in Starlette, Flask and Django."""

    key: str
    value: str
    max_age: int
    path: Literal["/"]
    secure: Literal[True]
    httponly: Literal[True]
    samesite: Literal["lax"]


class Cookie:
    """A cookie for the browser: of this host alone, over TLS, never read by a script. A `max_age` of 0 removes it."""

    __slots__ = ("_value", "max_age", "name")

    def __init__(self, name: str, value: str, max_age: int) -> None:
        if len(name) + len(value) > LONGEST:
            raise Misuse("a browser keeps no cookie as long as that: fewer scopes and factors go into a session")
        self.name: str = name
        self.max_age: int = max_age
        self._value = value

    def args(self) -> CookieArgs:
        """For `response.set_cookie(**cookie.args())`."""
        return {
            "key": self.name, "value": self._value, "max_age": self.max_age, "path": "/", "secure": True,
            "httponly": True, "samesite": "lax",
        }  # fmt: skip

    def header(self) -> str:
        """The value of a `Set-Cookie` header."""
        return f"{self.name}={self._value}; Max-Age={self.max_age}; Path=/; Secure; HttpOnly; SameSite=Lax"

    def __repr__(self) -> str:
        return f"<Cookie {self.name}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a cookie is not copied or pickled: a token is in it")


def cookies_in(header: str) -> dict[str, str]:
    """Names and values of a `Cookie` header, or of several that were joined with `; `; the first of a name counts."""
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            found.setdefault(name.strip(" \t"), value.strip(" \t"))
    return found


def browser_secret(jar: Mapping[str, str], entropy: Entropy) -> str:
    """What tells this browser from others: what it has under `PRE`, if that is of ours, or a new one."""
    held = jar.get(PRE, "")
    return held if _SECRET.fullmatch(held) else base64url(entropy(16))
