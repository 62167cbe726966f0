"""Where the demos serve what they ask: a real server on this machine, for as long as the block lasts."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import uvicorn


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def asgi_served(app: Any) -> Iterator[int]:
    """The port of an ASGI application."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def wsgi_served(app: Any) -> Iterator[int]:
    """The port of a WSGI application."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server, running(server):
        yield server.server_port


@contextmanager
def running(server: Any) -> Iterator[None]:
    """Within the block a server of the standard library serves."""
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(10)


class Awaited:
    """The blocking form of a service, for handlers that are written once: each call is done when it is awaited.

    `plain` are methods that are not awaited in either form.
    """

    def __init__(self, service: Any, *plain: str) -> None:
        self._service = service
        self._plain = plain

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._service, name)
        if name in self._plain:
            return method

        async def call(*args: Any, **more: Any) -> Any:
            return method(*args, **more)

        return call
