"""How the session endpoints are spoken to: the names of fields, what is read of a request, and what is answered."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bartizan.core.cookies import Cookie
from bartizan.core.encoding import parsed
from bartizan.core.request import Request
from bartizan.errors import InvalidRequest
from bartizan.sessions.devices import LONGEST as LONGEST_DEVICE
from bartizan.sessions.families import Session
from bartizan.sessions.pairs import TokenPair

LONGEST_BODY = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the fields of requests and answers are called."""

    address: str = "address"
    request: str = "requestId"
    code: str = "code"
    device: str = "device"
    provider: str = "provider"
    issuer: str = "issuer"
    subject: str = "subject"
    challenge: str = "codeChallenge"
    exchange: str = "exchangeCode"
    verifier: str = "codeVerifier"
    token_type: str = "tokenType"  # noqa: S105 - a name, not a password
    access: str = "accessToken"
    access_ends: str = "accessTokenExpiresAt"
    refresh: str = "refreshToken"
    refresh_ends: str = "refreshTokenExpiresAt"
    session: str = "session"
    sessions: str = "sessions"
    everywhere: str = "everywhere"
    others: str = "others"
    ended: str = "ended"
    expires: str = "expiresAt"


NAMES = Names()


class Asked:
    """A request to one of the endpoints, and its body: its `path` is what comes after their mount."""

    __slots__ = ("body", "request")

    def __init__(self, request: Request, body: bytes) -> None:
        self.request: Request = request
        self.body: bytes = body

    def header(self, name: str) -> str:
        """The value of a header, or nothing."""
        return self.request.header(name) or ""

    @property
    def device(self) -> str | None:
        """What the client says of itself."""
        return self.header("user-agent")[:LONGEST_DEVICE] or None


class Answered:
    """What an endpoint answers: `body` is JSON, or None."""

    __slots__ = ("body", "cookies", "headers", "status")

    def __init__(
        self, body: Mapping[str, Any] | None, *, status: int = 200, cookies: Iterable[Cookie] = (), clears: bool = False
    ) -> None:
        self.status: int = status
        self.body: Mapping[str, Any] | None = body
        self.cookies: tuple[Cookie, ...] = tuple(cookies)
        self.headers: list[tuple[str, str]] = [("Cache-Control", "no-store")]
        if clears:  # never "cookies": that would be those of the whole registrable domain
            self.headers.append(("Clear-Site-Data", '"cache", "storage"'))


def fields_of(asked: Asked) -> dict[str, Any]:
    """The members of the body, a JSON object: no page of another origin sends that type without being asked first."""
    if not asked.body and not asked.header("content-type"):
        return {}
    if asked.header("content-type").partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequest
    try:
        found = parsed(asked.body or b"{}")
    except ValueError:
        raise InvalidRequest from None
    if not isinstance(found, dict):
        raise InvalidRequest
    return found


def read(sent: dict[str, Any], *names: str, needs: int = 0) -> list[Any]:
    """The texts of these members, of which the first `needs` have to be there, and no other may be."""
    if not sent.keys() <= set(names):
        raise InvalidRequest
    values = [sent.get(name) for name in names]
    if not all(isinstance(value, str) or (value is None and at >= needs) for at, value in enumerate(values)):
        raise InvalidRequest
    return values


def shown(session: Session) -> dict[str, Any]:
    """A session, for a body."""
    return {
        "id": session.id, "type": "guest" if session.guest else "authenticated", "subject": session.subject,
        "createdAt": session.created_at, "lastSeenAt": session.last_seen_at, NAMES.expires: session.expires_at,
    }  # fmt: skip


def tokens_of(pair: TokenPair) -> dict[str, Any]:
    """The tokens of a pair, for a body."""
    return {
        NAMES.token_type: pair.token_type,
        NAMES.access: pair.access_token, NAMES.access_ends: pair.access_expires_at,
        NAMES.refresh: pair.refresh_token, NAMES.refresh_ends: pair.refresh_expires_at,
    }  # fmt: skip
