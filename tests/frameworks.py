"""One application in five frameworks, Django's under WSGI and under ASGI: each route answers with its own path."""

import asyncio
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import unquote_to_bytes

from django.apps import apps  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]
from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.http import HttpResponse  # type: ignore[import-untyped]
from django.test import override_settings  # type: ignore[import-untyped]
from django.urls import path as django_path  # type: ignore[import-untyped]
from django.views.decorators.http import require_GET  # type: ignore[import-untyped]
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse as FastText
from flask import Flask
from litestar import Litestar, MediaType, get
from litestar.handlers import HTTPRouteHandler
from servers import Answer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bartizan import Gate
from bartizan.integrations import fastapi, flask, litestar, starlette

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")
apps.populate(())  # REST framework's own answers are translated, and ask which applications there are

Act = Callable[[str], str]  # what a handler does with its route's path
Build = Callable[[Sequence[str], Gate, Act], AbstractContextManager[Any]]
MIDDLEWARE = "bartizan.integrations.django.GateMiddleware"
gate: Gate | None = None  # the one that `settings.BARTIZAN_GATE` names


def same(path: str) -> str:
    return path


@contextmanager
def of_starlette(paths: Sequence[str], gate: Gate, act: Act) -> Iterator[Any]:
    def handler(path: str) -> Any:
        async def handle(_: Request) -> PlainTextResponse:
            return PlainTextResponse(act(path))

        return handle

    app = Starlette(routes=[Route(path, handler(path)) for path in paths])
    starlette.install(app, gate)
    yield app


@contextmanager
def of_fastapi(paths: Sequence[str], gate: Gate, act: Act) -> Iterator[Any]:
    def handler(path: str) -> Any:
        async def handle() -> FastText:
            return FastText(act(path))

        return handle

    app = FastAPI(openapi_url=None)
    for path in paths:
        app.add_api_route(path, handler(path), methods=["GET"])
    fastapi.install(app, gate)
    yield app


@contextmanager
def of_flask(paths: Sequence[str], gate: Gate, act: Act) -> Iterator[Any]:
    app = Flask("shop", static_folder=None)
    for path in paths:
        app.add_url_rule(path.replace("{", "<").replace("}", ">"), path, lambda path=path, **_: act(path))
    flask.install(app, gate)
    yield app


@contextmanager
def of_litestar(paths: Sequence[str], gate: Gate, act: Act) -> Iterator[Any]:
    def handler(path: str) -> HTTPRouteHandler:
        @get(path.replace("}", ":str}"), media_type=MediaType.TEXT, sync_to_thread=False)
        def handle() -> str:
            return act(path)

        return handle

    app = Litestar([handler(path) for path in paths], openapi_config=None, logging_config=None)
    litestar.install(app, gate)
    yield app


def urls(paths: Sequence[str], act: Act) -> tuple[Any, ...]:
    def view(path: str) -> Any:
        return require_GET(lambda _, **__: HttpResponse(act(path), content_type="text/plain"))

    return tuple(django_path(path[1:].replace("{", "<").replace("}", ">"), view(path)) for path in paths)


@contextmanager
def django_site(urlconf: Sequence[Any], of: Gate, *, middleware: Sequence[str] = (), **more: Any) -> Iterator[None]:
    """The settings of a site with this gate."""
    global gate
    gate = of
    stack = [*middleware, MIDDLEWARE]
    with override_settings(ROOT_URLCONF=tuple(urlconf), MIDDLEWARE=stack, BARTIZAN_GATE="frameworks.gate", **more):
        yield


def of_django(handler: Callable[[], Any]) -> Build:
    @contextmanager
    def build(paths: Sequence[str], gate: Gate, act: Act) -> Iterator[Any]:
        with django_site(urls(paths, act), gate):
            yield handler()

    return build


ASGI: dict[str, Build] = {
    "starlette": of_starlette,
    "fastapi": of_fastapi,
    "litestar": of_litestar,
    "django-asgi": of_django(ASGIHandler),
}
WSGI: dict[str, Build] = {"flask": of_flask, "django-wsgi": of_django(WSGIHandler)}
FRAMEWORKS = {**ASGI, **WSGI}


def asked(app: Any, target: str, headers: dict[str, str] | None = None) -> Answer:
    """The answer to one GET, without a server between."""
    wsgi = isinstance(app, (Flask, WSGIHandler))
    return (_asked_wsgi if wsgi else _asked_asgi)(app, target, headers or {})


def _asked_asgi(app: Any, target: str, headers: dict[str, str]) -> Answer:
    raw = target.encode()
    sent: list[Any] = []
    scope = {
        "type": "http", "method": "GET", "path": unquote_to_bytes(raw).decode("utf-8", "replace"), "raw_path": raw,
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1),
        "server": ("x", 80), "asgi": {"version": "3.0"}, "extensions": {}, "state": {},
        "headers": [(b"host", b"x"), *((k.lower().encode(), v.encode()) for k, v in headers.items())],
    }  # fmt: skip

    async def run() -> None:
        waiting = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(run())
    named = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    return Answer(sent[0]["status"], named, b"".join(message.get("body", b"") for message in sent[1:]))


def _asked_wsgi(app: Any, target: str, headers: dict[str, str]) -> Answer:
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": unquote_to_bytes(target).decode("latin-1"), "RAW_URI": target,
        "SCRIPT_NAME": "", "QUERY_STRING": "", "REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "x", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "HTTP_HOST": "x",
        "wsgi.errors": io.StringIO(), **{f"HTTP_{k.upper().replace('-', '_')}": v for k, v in headers.items()},
    }  # fmt: skip
    head: list[Any] = []
    body = app(environ, lambda status, pairs, *_: head.extend([status, pairs]))
    whole = b"".join(body)
    getattr(body, "close", lambda: None)()
    return Answer(int(head[0][:3]), {k.lower(): v for k, v in head[1]}, whole)
