"""Receiving over WSGI (PEP 3333): as over ASGI, the body read in pieces and given to the application again."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import quote

from bartizan.errors import BartizanError, MethodNotAllowed, Rejected, Unavailable
from bartizan.webhooks.event import WebhookEvent
from bartizan.webhooks.matching import Matcher
from bartizan.webhooks.receiving import FOUND, Security, WsgiApp, checked_path, declared, is_at, note_refusal, problem

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

PIECE = 65_536


class _NotHandled(Exception):  # noqa: N818 - no error: it leaves the claim's block, and goes no further
    """The application did not answer 2xx."""


class WsgiReceiver:
    """See `WebhookVerifier.wsgi`."""

    __slots__ = ("_app", "_path", "_security", "_verifier")

    def __init__(self, verifier: Matcher, app: WsgiApp, *, path: str, security: Security | None) -> None:
        self._verifier = verifier
        self._app = app
        self._path = checked_path(path)
        self._security = security

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not is_at(self._path, _text(environ.get("PATH_INFO", "")) or "/"):
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer
        try:
            if environ["REQUEST_METHOD"] != "POST":
                raise MethodNotAllowed(headers=(("Allow", "POST"),))
            event = environ[FOUND] = received(self._verifier, environ)
            held = _Held()
            try:
                if self._security is None:
                    held.run(self._app, environ)
                else:
                    with self._security.blocking.once.claim(event, namespace=self._path) as claim:
                        if not claim.first:
                            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
                            return []
                        held.run(self._app, environ)
                        if not held.status.startswith("2"):
                            raise _NotHandled
            except _NotHandled:
                pass
        except (Rejected, Unavailable) as error:
            return self._refused(error, environ["REQUEST_METHOD"], start_response)
        start_response(held.status, held.headers)
        return held.chunks

    def _refused(self, error: BartizanError, method: str, start_response: StartResponse) -> Iterable[bytes]:
        if self._security is not None:
            note_refusal(self._security, error, self._path)
        body, headers = problem(error)
        start_response(f"{error.status} {HTTPStatus(error.status).phrase}", headers)
        return [] if method == "HEAD" else [body]


class _Held:
    """The application's whole answer: a sender reads none of it, and it goes out after the commit."""

    __slots__ = ("chunks", "headers", "status")

    def __init__(self) -> None:
        self.status: str = ""
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []

    def run(self, app: WsgiApp, environ: Environ) -> None:
        """Call the application to the end of its body."""

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], None]:
            self.status, self.headers = status, headers
            return self.chunks.append

        answer = app(environ, start)
        try:
            self.chunks.extend(answer)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()


def received(verifier: Matcher, environ: Environ) -> WebhookEvent:
    """See `WebhookVerifier.receive_wsgi`."""
    check = verifier.begin(environ, target=target_of(environ))
    length: str | None = environ.get("CONTENT_LENGTH") or None
    declared(length, verifier.max_bytes)
    # Without a length there is no body, unless the server says that its stream ends by itself.
    left = int(length) if length is not None else verifier.max_bytes + 1 if environ.get("wsgi.input_terminated") else 0
    chunks: list[bytes] = []
    while left > 0:
        chunk: bytes = environ["wsgi.input"].read(min(left, PIECE))
        if not chunk:
            break
        check.update(chunk)
        chunks.append(chunk)
        left -= len(chunk)
    event = check.end(b"".join(chunks))
    environ["wsgi.input"] = BytesIO(event.body)
    environ["CONTENT_LENGTH"] = str(len(event.body))
    return event


def target_of(environ: Environ) -> str:
    """Path and query as they were requested."""
    raw: str | None = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw is not None and raw.startswith("/"):
        return raw
    path = quote((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1", "replace"))
    query: str = environ.get("QUERY_STRING", "")
    return path + (f"?{query}" if query else "")


def _text(native: str) -> str:
    """A path as the application reads it: UTF-8 in latin-1 (PEP 3333)."""
    try:
        return native.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return native
