"""A shop that refreshes tokens, behind the gate, through either adapter; and several processes over one store."""

import asyncio
import io
import json
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any, NamedTuple

from bartizan import ConsumerPrincipal, Rule, SessionPolicy, TokenPair, allow, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.core.ports import SteppedClock
from bartizan.core.ring import new_root
from bartizan.sessions.families import FAMILIES, FamilyRow
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock, Kit
from bartizan.wsgi import GateMiddleware as WsgiMiddleware

RULES = [
    Rule("GET /me", allow.consumer()),
    Rule("GET /card", allow.consumer(guests=False, factors={"otp"}, max_auth_age=300)),
    Rule("GET /maybe", allow.optional(allow.consumer())),
    Rule("GET /orgs/{org}/me", allow.consumer()),
    Rule("POST /refresh", allow.public()),
    Rule("POST /logout", allow.consumer()),
    Rule("POST /password", allow.consumer()),
    Rule("POST /upgrade", allow.consumer()),
]
ROOT = new_root()
DAY = 86_400


class Reply(NamedTuple):
    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def access(self) -> str:
        return str(self.body["access"])

    @property
    def refresh(self) -> str:
        return str(self.body["refresh"])


def told(pair: TokenPair) -> dict[str, Any]:
    return {"access": pair.access_token, "refresh": pair.refresh_token, "session": pair.session.id}


class Place:
    """One process: a kit over a store that others may have too, and its shop behind both adapters."""

    def __init__(self, adapter: str = "asgi", **arguments: Any) -> None:
        policy = {name: arguments.pop(name) for name in [*arguments] if name in SessionPolicy.__dataclass_fields__}
        clock = arguments.pop("at", None) or FakeClock()
        arguments.setdefault("url", MemoryBackend(SteppedClock(clock)))
        self.kit = Kit(**{"secrets": [ROOT], "sessions": SessionPolicy(**policy), "clock": clock, **arguments})
        self.clock: FakeClock = clock
        self.adapter = adapter
        self.blocking = self.kit.security.blocking.sessions
        self.sessions = self.kit.security.sessions
        gate = self.kit.security.gate(RULES)
        self._asgi = GateMiddleware(self._app, gate)
        self._wsgi = WsgiMiddleware(self._wsgi_app, gate)

    # --- the shop ---

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        sent = json.loads((await receive()).get("body") or b"{}")
        done = await self._done(scope["path"], sent, self.sessions)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(done).encode()})

    def _wsgi_app(self, environ: Any, start_response: Any) -> Any:
        sent = json.loads(environ["wsgi.input"].read() or b"{}")
        done = run(self._done(environ["PATH_INFO"], sent, self.kit.security._shared.blocking_side.sessions))
        start_response("200 OK", [])
        return [json.dumps(done).encode()]

    async def _done(self, path: str, sent: dict[str, Any], sessions: Any) -> dict[str, Any]:
        if path == "/refresh":
            return told(await sessions.refresh(sent["token"], org=sent.get("org")))
        me = current_principal(ConsumerPrincipal, optional=True)
        if me is None:
            return {}
        if path == "/logout":
            await sessions.revoke(me.session_id, org=me.org)
        elif path == "/password":
            ended = await sessions.revoke_subject(org=me.org, subject=me.subject, except_session=me.session_id)
            return {"ended": ended}
        elif path == "/upgrade":
            return told(await sessions.upgrade(me, subject=sent["subject"], factors=sent.get("factors", {})))
        return {"who": me.actor, "org": me.org}

    # --- its clients ---

    def ask(self, method: str, path: str, token: str | None = None, **sent: Any) -> Reply:
        body = json.dumps(sent).encode() if sent else b""
        headers = [] if token is None else [("authorization", f"Bearer {token}")]
        return (self._by_asgi if self.adapter == "asgi" else self._by_wsgi)(method, path, headers, body)

    def me(self, pair: Any, path: str = "/me") -> int:
        return self.ask("GET", path, pair if isinstance(pair, str) else pair.access).status

    def refresh(self, token: Any, **sent: Any) -> Reply:
        text = token if isinstance(token, str) else token.refresh
        body = json.dumps({"token": text, **sent}).encode()
        return (self._by_asgi if self.adapter == "asgi" else self._by_wsgi)("POST", "/refresh", [], body)

    def start(self, org: str = "org_1", subject: str = "cons_1", **fields: Any) -> Reply:
        return Reply(200, told(self.blocking.start(org=org, subject=subject, **fields)), {})

    def _by_asgi(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "scheme": "https", "client": None,
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers],
        }  # fmt: skip
        asyncio.run(self._asgi(scope, receive, send))
        head = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], json.loads(sent[1]["body"] or b"{}"), head)

    def _by_wsgi(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        told_: list[Any] = []
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "",
            "wsgi.url_scheme": "https", "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)),
            **{f"HTTP_{name.upper()}": value for name, value in headers},
        }  # fmt: skip
        answer = Context().run(lambda: list(self._wsgi(environ, lambda line, pairs: told_.append((line, pairs)))))
        line, pairs = told_[0]
        return Reply(int(line[:3]), json.loads(b"".join(answer) or b"{}"), {n.lower(): v for n, v in pairs})

    # --- what became of it ---

    @property
    def backend(self) -> Any:
        return self.kit.security._shared.blocking_side.backend

    def row(self, session: str) -> FamilyRow | None:
        found: FamilyRow | None = run(self.backend.get(FAMILIES, session))
        return found

    def rows(self) -> list[FamilyRow]:
        return list(run(self.backend.find(FAMILIES, (), limit=10_000)))

    def events(self, name: str) -> int:
        return sum(event.name == name for event in self.kit.events)

    @property
    def reason(self) -> str | None:
        """Why the gate refused last."""
        return [event.reason for event in self.kit.events if event.name == "request.refused"][-1]


def processes(count: int = 2, **arguments: Any) -> list[Place]:
    """Several processes over one store in memory, each with caches of its own."""
    clock = FakeClock()
    backend = MemoryBackend(SteppedClock(clock))
    return [Place(url=backend, at=clock, **arguments) for _ in range(count)]


def stores(path: Path) -> dict[str, Callable[[FakeClock], Any]]:
    """How a store of each kind is named for a kit."""
    return {
        "memory": lambda clock: MemoryBackend(SteppedClock(clock)),
        "sqlite": lambda _: f"sqlite:///{path}/store.db",
    }
