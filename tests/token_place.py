"""A gate over ASGI that takes consumers' tokens, and what it answers."""

import asyncio
from typing import Any

from token_forge import Forge

from bartizan import Rule, allow, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.testing import Kit

RULES = [
    Rule("GET /me", allow.consumer()),
    Rule("GET /orders", allow.consumer("orders:read")),
    Rule("GET /account", allow.consumer(guests=False)),
    Rule("GET /card", allow.consumer(factors={"otp"}, max_auth_age=300)),
    Rule("GET /recent", allow.consumer(max_auth_age=300)),
    Rule("GET /either", allow.secret_key("orders:read") | allow.consumer("orders:read")),
    Rule("GET /both", allow.publishable_key() & allow.consumer()),
    Rule("GET /maybe", allow.optional(allow.consumer())),
    Rule("GET /orgs/{org}/me", allow.consumer()),
    Rule("GET /server", allow.secret_key()),
]
Answer = tuple[int, dict[str, str]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    who = current_principal(optional=True).actor.encode() if scope["path"] != "/maybe" else b"-"  # type: ignore[call-overload]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-who", who)]})
    await send({"type": "http.response.body", "body": b""})


class Place:
    def __init__(self, **arguments: Any) -> None:
        self.kit = Kit(**arguments)
        self.forge = Forge(self.kit)
        self.app = GateMiddleware(app, self.kit.security.gate(RULES))

    def get(self, path: str, *headers: tuple[str, str], query: bytes = b"") -> Answer:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query,
            "root_path": "", "scheme": "https", "client": None,
            "headers": [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers],
        }  # fmt: skip
        asyncio.run(self.app(scope, None, send))  # type: ignore[arg-type]
        head = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return sent[0]["status"], head

    def with_token(self, token: str, path: str = "/me", scheme: str = "Bearer") -> Answer:
        return self.get(path, ("Authorization", f"{scheme} {token}"))

    @property
    def reason(self) -> str | None:
        return self.kit.events[-1].reason


def refused(place: Place, token: str) -> None:
    status, headers = place.with_token(token)
    assert (status, headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
