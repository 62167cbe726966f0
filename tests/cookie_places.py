"""A site whose pages a server renders, behind the gate, through either adapter; and browsers that keep its cookies."""

import asyncio
import io
import json
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from bartizan import ConsumerPrincipal, Rule, SessionPolicy, allow, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.core.ports import SteppedClock
from bartizan.endpoints import session_app, session_wsgi
from bartizan.errors import NotFound
from bartizan.sessions.families import FAMILIES, FamilyRow
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock, Kit
from bartizan.types import Identity, PendingCode
from bartizan.wsgi import GateMiddleware as WsgiMiddleware

ORIGIN = "https://shop.example"
ORG = "org_1"
ANYBODY = allow.optional(allow.publishable_key()) & allow.optional(allow.consumer())
RULES = [
    Rule("POST /auth/external/authorize", allow.secret_key()),
    Rule("GET|POST /auth/{rest:path}", ANYBODY),
    Rule("GET /", allow.optional(allow.consumer())),
    Rule("GET|POST /me", allow.consumer()),
    Rule("GET|POST /card", allow.consumer(guests=False)),
    Rule("GET /staff", allow.consumer() | allow.secret_key()),
    Rule("GET|POST /app/{what}", allow.optional(allow.consumer())),
    Rule("GET /products", allow.publishable_key()),
    Rule("GET /about", allow.public()),
    Rule("WEBSOCKET /live", allow.consumer()),
]


class Reply:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.pairs = [(name.lower(), value) for name, value in headers]
        self.raw = body

    @property
    def json(self) -> Any:
        return json.loads(self.raw or b"{}")

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.pairs if key == name]
        return ", ".join(found) if found else None

    @property
    def cookies(self) -> dict[str, str]:
        """What it sets, by name; nothing where it takes a cookie away."""
        told = [value for name, value in self.pairs if name == "set-cookie"]
        for line in told:
            assert line.startswith("__Host-")
            assert line.split("; ")[2:] == ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
        return {line.partition("=")[0]: line.partition("=")[2].partition(";")[0] for line in told}


class Site:
    """The site; `pages` are more of them, each a function of nothing that gives (status, headers, body)."""

    def __init__(self, adapter: str, *, transport: Any = "cookie", **arguments: Any) -> None:
        policy = {name: arguments.pop(name) for name in [*arguments] if name in SessionPolicy.__dataclass_fields__}
        self.clock: FakeClock = arguments.pop("at", None) or FakeClock()
        arguments.setdefault("url", MemoryBackend(SteppedClock(self.clock)))
        self.kit = Kit(
            **{
                "sessions": SessionPolicy(**policy),
                "clock": self.clock,
                "origins": [ORIGIN] if transport == "cookie" else (),
                "staleness": 0,
                **arguments,
            }
        )
        self.adapter = adapter
        self.sent: list[tuple[str, str]] = []
        self.mailed = threading.Semaphore(0)
        self.resolving: Callable[[Identity], str] = lambda who: f"cons_{who.subject.partition('@')[0]}"
        self.pages: dict[str, Callable[[], tuple[int, list[tuple[str, str]], bytes]]] = {}
        self.gate = self.kit.security.gate(RULES)
        common: Any = {"resolve": lambda who: self.resolving(who), "transport": transport, "org": ORG}
        self._auth = session_app(self.kit.security, deliver=self.deliver, **common)
        self._wsgi_auth = session_wsgi(self.kit.security, deliver=self.deliver, **common)
        self._asgi = GateMiddleware(self._app, self.gate)
        self._wsgi = WsgiMiddleware(self._wsgi_app, self.gate)
        self.blocking = self.kit.security.blocking.sessions

    def deliver(self, address: str, pending: PendingCode) -> None:
        self.sent.append((address, str(pending.code)))
        self.mailed.release()

    def code(self) -> str:
        """The code that was sent last."""
        assert self.mailed.acquire(timeout=30)
        return self.sent[-1][1]

    def _page(self, path: str) -> tuple[int, list[tuple[str, str]], bytes]:
        if path in self.pages:
            return self.pages[path]()
        me = current_principal(ConsumerPrincipal, optional=True)
        told = {} if me is None else {"who": me.subject, "guest": me.guest, "session": me.session_id}
        return 200, [("Content-Type", "application/json")], json.dumps(told).encode()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})
        elif scope["path"].startswith("/auth/"):
            await self._auth({**scope, "root_path": "/auth"}, receive, send)
        else:
            status, headers, body = self._page(scope["path"])
            pairs = [(name.lower().encode(), value.encode()) for name, value in headers]
            await send({"type": "http.response.start", "status": status, "headers": pairs})
            await send({"type": "http.response.body", "body": body})

    def _wsgi_app(self, environ: Any, start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path.startswith("/auth/"):
            return self._wsgi_auth({**environ, "SCRIPT_NAME": "/auth", "PATH_INFO": path[5:]}, start_response)
        status, headers, body = self._page(path)
        start_response(f"{status} Whatever", headers)
        return [body]

    # --- its clients ---

    def ask(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> Reply:
        return (self._by_asgi if self.adapter == "asgi" else self._by_wsgi)(method, path, headers, body)

    def scope(self, method: str, path: str, headers: list[tuple[str, str]]) -> dict[str, Any]:
        kind = (
            {"type": "websocket", "subprotocols": []} if method == "WEBSOCKET" else {"type": "http", "method": method}
        )
        path, _, query = path.partition("?")
        return {
            **kind, "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "scheme": "wss" if method == "WEBSOCKET" else "https", "client": None,
            "headers": [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers],
        }  # fmt: skip

    def _by_asgi(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        sent: list[Any] = []

        async def receive() -> Any:
            if method == "WEBSOCKET":
                return {"type": "websocket.connect"}
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self._asgi(self.scope(method, path, headers), receive, send))
        if method == "WEBSOCKET":
            return Reply(101 if sent[0]["type"] == "websocket.accept" else 403, [], b"")
        told = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        return Reply(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))

    def _by_wsgi(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        told: list[Any] = []
        path, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query,
            "wsgi.url_scheme": "https", "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)),
            **{
                name.upper().replace("-", "_") if name.lower() == "content-type" else f"HTTP_{name.upper().replace('-', '_')}": value
                for name, value in headers
            },
        }  # fmt: skip

        def served() -> bytes:
            chunks = self._wsgi(environ, lambda line, pairs, _=None: told.append((line, pairs)))
            try:
                return b"".join(chunks)
            finally:
                if hasattr(chunks, "close"):
                    chunks.close()

        answer = Context().run(served)
        line, pairs = told[-1]
        return Reply(int(line[:3]), pairs, answer)

    # --- what became of it ---

    @property
    def backend(self) -> Any:
        return self.kit.security._shared.blocking_side.backend

    def rows(self) -> list[FamilyRow]:
        return list(run(self.backend.find(FAMILIES, (), limit=10_000)))

    def row(self, session: str) -> FamilyRow:
        found: FamilyRow | None = run(self.backend.get(FAMILIES, session))
        if found is None:
            raise NotFound
        return found

    def events(self, name: str) -> int:
        return sum(event.name == name for event in self.kit.events)

    @property
    def reason(self) -> str | None:
        return [event.reason for event in self.kit.events if event.name == "request.refused"][-1]


class Browser:
    """Keeps cookies as long as they live, and says where a request comes from."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.jar: dict[str, tuple[str, int]] = {}

    def cookies(self) -> list[tuple[str, str]]:
        now = self.site.clock()
        live = [f"{name}={value}" for name, (value, ends) in self.jar.items() if ends > now]
        return [("Cookie", "; ".join(live))] if live else []

    def keep(self, reply: Reply) -> Reply:
        for line in (value for name, value in reply.pairs if name == "set-cookie"):
            name, _, rest = line.partition("=")
            value, _, attributes = rest.partition("; ")
            age = int(attributes.split("; ")[0].removeprefix("Max-Age="))
            if age > 0:
                self.jar[name] = (value, self.site.clock() + age)
            else:
                self.jar.pop(name, None)
        return reply

    def get(self, path: str, *headers: tuple[str, str], method: str = "GET") -> Reply:
        return self.keep(self.site.ask(method, path, [*self.cookies(), *headers]))

    def post(self, path: str, *headers: tuple[str, str], origin: str | None = ORIGIN, **sent: Any) -> Reply:
        body = json.dumps(sent).encode() if sent else b""
        came = [] if origin is None else [("Origin", origin)]
        kind = [("Content-Type", "application/json")] if body else []
        return self.keep(self.site.ask("POST", path, [*self.cookies(), *came, *kind, *headers], body))

    def guest(self) -> Reply:
        return self.post("/auth/guest")

    def sign_in(self, address: str = "anna@shop.example") -> Reply:
        asked = self.post("/auth/otp/request", address=address)
        assert asked.status == 200, asked.raw
        return self.post("/auth/otp/verify", requestId=asked.json["requestId"], code=self.site.code(), address=address)

    def copy(self) -> "Browser":
        """Another tab: the cookies of now."""
        other = Browser(self.site)
        other.jar = dict(self.jar)
        return other

    @property
    def session(self) -> str | None:
        found: str | None = self.get("/").json.get("session")
        return found
