"""Real servers on loopback, and a client that sends exactly the bytes it is given."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import uvicorn

USUAL = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@contextmanager
def serving(app: Any, http: str = "h11", **options: Any) -> Iterator[int]:
    """The port of an ASGI application behind uvicorn with this HTTP implementation."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=http, log_level="error", lifespan="off", **options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Raw(_Quiet):
    def get_environ(self) -> Any:
        return {**super().get_environ(), "RAW_URI": self.requestline.split(" ")[1]}


@contextmanager
def wsgi_serving(app: Any, *, raw: bool = False) -> Iterator[int]:
    """The port of a WSGI application behind the server of the standard library, which checks PEP 3333 on both sides.

    With `raw` it tells the target as it came, as gunicorn does.
    """
    checked = validator(app)

    def serve(environ: Any, start_response: Any) -> Any:
        # The validator takes no path but `/…` and no unusual method: the application has to answer those too.
        usual = environ["PATH_INFO"].startswith("/") and environ["REQUEST_METHOD"] in USUAL
        return (checked if usual else app)(environ, start_response)

    server = make_server("127.0.0.1", 0, serve, handler_class=_Raw if raw else _Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def exchange(port: int, data: bytes) -> bytes:
    """What comes back for these bytes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)
        received = bytearray()
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def ask(
    port: int,
    target: str | bytes,
    *headers: tuple[str, str],
    method: str = "GET",
    host: str = "shop.example",
    body: bytes = b"",
) -> Answer:
    """One request, its target sent as it is written."""
    raw = target if isinstance(target, bytes) else target.encode("latin-1")
    lines = [("Host", host), ("Connection", "close"), *headers]
    if body or method in {"POST", "PUT"}:
        lines.append(("Content-Length", str(len(body))))
    head = method.encode() + b" " + raw + b" HTTP/1.1\r\n"
    head += b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in lines)
    return answered(exchange(port, head + b"\r\n" + body))


def answered(raw: bytes) -> Answer:
    """An HTTP/1.1 answer in its parts."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers: dict[str, str] = {}
    for name, value in pairs:
        headers[name.lower()] = ", ".join([*([headers[name.lower()]] if name.lower() in headers else []), value])
    return Answer(int(status.split(" ")[1]), headers, body)
