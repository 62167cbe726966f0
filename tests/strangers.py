"""An example without one of its lines, and whoever has no right to what it protects.

A `Cut` is one wiring line: what joins an application to what protects it (the gate's place, a rule, an issuer, a
verifier, the line that asks for the caller). Without it a stranger still gets nothing: the application does not start,
or refuses, or its handler raises. Needs nothing but the core dependencies.
"""

import ast
import asyncio
import contextvars
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote
from wsgiref.util import setup_testing_defaults

import pytest
from test_documents import blocks

from bartizan import Rejected, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.testing import Kit

ROOT = Path(__file__).parents[1]


class Reply(NamedTuple):
    status: int
    text: str = ""


Ask = Callable[[], Reply]


class World(NamedTuple):
    """Who asks a running example, and what none but its owner may ever be told."""

    owner: Mapping[str, Ask]
    strangers: Mapping[str, Ask]
    secret: str = ""


class Cut(NamedTuple):
    """A line taken out of a source, what is left in its place, and what then becomes of strangers."""

    line: str
    gives: str  # the error at the start, or each status that strangers get
    left: str = ""


@dataclass(frozen=True)
class Example:
    """What is attacked: a source, how it is asked once it runs, and the lines that are taken out one by one."""

    name: str
    source: str
    world: Callable[[ModuleType], Any]  # a context manager that gives a World
    cuts: tuple[Cut, ...]
    module: str = ""  # the name that the source has for itself, where it has one


def example(name: str) -> str:
    return (ROOT / "examples" / f"{name}.py").read_text("utf-8")


def page(name: str, *parts: str) -> str:
    """The blocks of a page in which these texts stand, in the order of the page."""
    found = [block.text for block in blocks((ROOT / name).read_text("utf-8")) if block.language == "python"]
    for part in parts:
        assert sum(part in text for text in found) == 1, f"{name}: {part}"
    return "\n".join(text for text in found if any(part in text for part in parts))


def without(source: str, cut: Cut) -> str:
    """The source with the one place that the cut names taken out; a list or call that is left empty stays one."""
    assert source.count(cut.line) == 1, f"{source.count(cut.line)} times: {cut.line}"
    return source.replace(cut.line, cut.left)


@contextmanager
def running(name: str, source: str) -> Iterator[ModuleType]:
    """The module of a source, with `await` outside functions as in a page."""
    module = ModuleType(name)
    before, sys.modules[name] = sys.modules.get(name), module
    try:
        code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waits = eval(code, module.__dict__)
        if inspect.iscoroutine(waits):
            asyncio.run(waits)
        yield module
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


def as_written(told: Example) -> None:
    """The owner is served and strangers are refused, in so many words."""
    with running(told.module or told.name, told.source) as module, told.world(module) as world:
        assert world.owner, "somebody is served"
        assert world.strangers, "somebody is not"
        for who, ask in world.owner.items():
            reply = ask()
            assert reply.status < 300, (who, reply)
            assert world.secret in reply.text, (who, reply)
        for who, ask in world.strangers.items():
            reply = ask()
            assert 400 <= reply.status < 500, (who, reply)
            assert not world.secret or world.secret not in reply.text, (who, reply)


def strangers_without(told: Example, cut: Cut) -> str:
    """What becomes of strangers without that line; fails where one of them is served."""
    source = without(told.source, cut)
    gave: set[str] = set()
    try:
        with running(told.module or told.name, source) as module, told.world(module) as world:
            for who, ask in world.strangers.items():
                reply = ask()
                assert reply.status >= 400, (who, reply)
                assert not world.secret or world.secret not in reply.text, (who, reply)
                gave.add(str(reply.status))
    except AssertionError:
        raise
    except Exception as error:
        return type(error).__name__
    return " ".join(sorted(gave))


# --- requests, by the protocols themselves ---


def asgi(
    app: Any,
    target: str,
    headers: Mapping[str, str] = {},
    method: str = "GET",
    body: bytes = b"",
    *,
    client: str = "203.0.113.7",
) -> Reply:
    """One request, in a context and on an event loop of its own; what the application raises is a 500."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**_scope(target, headers), "type": "http", "method": method, "scheme": "https", "http_version": "1.1"}
    scope["client"] = (client, 4242)
    if body:
        scope["headers"].append((b"content-length", b"%d" % len(body)))
    try:
        asyncio.run(app(scope, receive, send))
    except Exception:
        sent.insert(0, {"status": 500})  # whatever had been sent before is looked at all the same
    text = b"".join(message.get("body", b"") for message in sent).decode()
    return Reply(next(message["status"] for message in sent if "status" in message), text)


def websocket(app: Any, target: str, headers: Mapping[str, str] = {}) -> Reply:
    """One handshake; 101 where anything was sent to whoever came."""
    sent: list[dict[str, Any]] = []
    coming = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return coming.pop() if coming else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**_scope(target, headers), "type": "websocket", "scheme": "wss", "subprotocols": [], "extensions": {}}
    failed = False
    try:
        asyncio.run(app(scope, receive, send))
    except Exception:
        failed = True
    if any(message["type"] == "websocket.accept" for message in sent):
        return Reply(101, "".join(message.get("text", "") for message in sent))
    return Reply(500 if failed else 403)


def _scope(target: str, headers: Mapping[str, str]) -> dict[str, Any]:
    path, _, query = target.partition("?")
    return {
        "asgi": {"version": "3.0"},
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in {"Host": "s.test", **headers}.items()],
        "client": ("203.0.113.7", 4242),
        "server": ("s.test", 443),
        "state": {},
    }


def wsgi(app: Any, target: str, headers: Mapping[str, str] = {}, method: str = "GET", body: bytes = b"") -> Reply:
    """One request, in a context of its own; what the application raises is a 500."""
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": unquote(path), "QUERY_STRING": query}
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    environ |= {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), "REMOTE_ADDR": "203.0.113.7"}
    setup_testing_defaults(environ)
    told: list[str] = []

    def served() -> bytes:
        answer = app(environ, lambda status, _headers, _error=None: told.append(status))
        try:
            return b"".join(answer)
        finally:
            getattr(answer, "close", lambda: None)()

    try:
        text = contextvars.copy_context().run(served).decode()
    except Exception:
        return Reply(500)
    return Reply(int(told[-1].split()[0]), text)


def raised(call: Callable[[], Any]) -> Reply:
    """What a plain call comes to, as an adapter would answer it."""
    try:
        return Reply(200, str(call()))
    except Rejected as refused:
        return Reply(refused.status)
    except Exception:
        return Reply(500)


def behind(gate: Any) -> GateMiddleware:
    """An application behind a gate that a page makes without one."""

    async def shop(_scope: Any, _receive: Any, send: Any) -> None:
        body = f"for {current_principal().org}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return GateMiddleware(shop, gate)


# --- strangers with keys ---


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def forged(kind: Any = "secret", *scopes: str) -> str:
    """A key in good form for `org_1`, made under another root secret."""
    return Kit(environment="live").key(org="org_1", kind=kind, scopes=set(scopes)).key


def key(security: Any, org: str, *scopes: str, **more: Any) -> dict[str, str]:
    """The headers of a caller with a good key."""
    return bearer(security.blocking.keys.create(org=org, kind="secret", scopes=set(scopes), **more).key)


def callers(security: Any, *scopes: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The headers of an organization's own caller, and those of strangers to it."""
    own = key(security, "org_1", *scopes)
    ended = security.blocking.keys.create(org="org_1", kind="secret", scopes=set(scopes))
    security.blocking.keys.revoke(ended.record.id, org="org_1")
    return own, {
        "no credential": {},
        "a forged key": bearer(forged("secret", *scopes)),
        "a revoked key": bearer(ended.key),
        "a key of another organization": key(security, "org_2", *scopes),
    }


def each(examples: Sequence[Example]) -> pytest.MarkDecorator:
    """A test for each example: `told`."""
    return pytest.mark.parametrize("told", examples, ids=lambda told: told.name)


def each_cut(examples: Sequence[Example]) -> pytest.MarkDecorator:
    """A test for each line that is taken out of an example: `told` and `cut`."""
    found = [pytest.param(told, cut, id=f"{told.name}: {cut.line.strip()}") for told in examples for cut in told.cuts]
    return pytest.mark.parametrize(("told", "cut"), found)
