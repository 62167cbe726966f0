"""The gate in front of a WSGI application (PEP 3333): build a `Request`, ask, write the answer."""

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from http import HTTPStatus
from typing import Any

from bartizan.core.passage import Admit, Refuse
from bartizan.core.request import Request, of_environ
from bartizan.errors import BartizanError, Rejected, Unavailable
from bartizan.gate.gate import BlockingGate, Gate
from bartizan.stores.bodies import Limited, edited
from bartizan.stores.watches import ENDED, Watch

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class GateMiddleware:
    """`app` behind `gate`. What rewrites `PATH_INFO` goes outside it.

    The application finds the verdict in `environ["bartizan"]`, except under `untouched()`. It and every step of its
    body run in one context of their own, so that nothing of a request is left in the server's thread.
    """

    def __init__(self, app: App, gate: Gate) -> None:
        self.app: App = app
        self.gate: BlockingGate = gate.blocking

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        request = of_environ(environ)
        context = copy_context()
        verdict = context.run(self.gate.check, request)
        if isinstance(verdict, Refuse):
            return _answer(verdict, request.method, start_response)
        if verdict.rule.requirement.look == "away":
            return context.run(self.app, environ, start_response)
        environ["bartizan"] = verdict
        if "wsgi.input" in environ:  # whatever length was declared: servers read it in different ways
            environ["wsgi.input"] = Limited(environ["wsgi.input"], verdict.rule.body_limit)
        return _Body(self.gate, verdict, request, context, start_response).begin(self.app, environ)


class _Body:
    """The application's body, each step in the request's context; between steps a stream's caller is asked for."""

    __slots__ = (
        "_admit", "_begun", "_context", "_gate", "_held", "_iterable", "_next", "_request", "_start", "_status",
        "_watch",
    )  # fmt: skip

    def __init__(
        self, gate: BlockingGate, admit: Admit, request: Request, context: Context, start_response: StartResponse
    ) -> None:
        self._gate = gate
        self._admit = admit
        self._request = request
        self._context = context
        self._start = start_response
        self._status = 0
        self._begun = False
        self._held: tuple[Any, ...] | None = None  # the head, until it is about to leave
        self._iterable: Iterable[bytes] = ()
        self._watch: Watch | None = Watch(gate.every) if admit.callers else None

    def begin(self, app: App, environ: Environ) -> Iterable[bytes]:
        """Call the application. A list goes back as it is, for servers that take its length."""
        try:
            self._iterable = self._context.run(app, environ, self._starting)
        except (Rejected, Unavailable) as error:
            self._iterable = self._refused(error)
        if (
            isinstance(self._iterable, (list, tuple))
            and self._admit.ends is None
            and self._held is None
            and not (self._watch is not None and self._watch.due())
        ):
            self._admit.over = True
            return self._iterable
        self._next = iter(self._iterable).__next__
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = self._context.run(self._next)
            while self._held is not None and not chunk:  # nothing of the answer has left yet
                chunk = self._context.run(self._next)
            if chunk:
                self._ask()  # now, not before: the application may have waited for hours to make it
        except StopIteration:
            self._leave()
            raise
        except (Rejected, Unavailable) as error:
            self._next = iter(self._refused(error)).__next__
            return self._next()
        if self._held is not None:
            self._leave()
        if chunk:
            self._begun = True  # from here on the server has sent the head (PEP 3333, "The start_response() Callable")
        return chunk

    def close(self) -> None:
        """Close the application's body, and settle what waited for its end."""
        try:
            closing = getattr(self._iterable, "close", None)
            if closing is not None:
                self._context.run(closing)
        finally:
            self._admit.over = True
            if self._admit.ends is not None:
                self._context.run(self._gate.end, self._admit, self._status)

    def _starting(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        head = self._admit.head
        if head is not None and head.pending:
            self._held = (status, headers, *(() if exc_info is None else (exc_info,)))
            return self._early
        if head is not None:
            headers = edited(headers, head.shaped)
        self._status = int(status[:3])
        write = self._start(status, headers) if exc_info is None else self._start(status, headers, exc_info)

        def writing(data: bytes) -> Any:
            self._ask()
            self._begun = True
            return write(data)

        return writing

    def _leave(self) -> Any:
        """The head leaves, with what it gets."""
        held, self._held, head = self._held, None, self._admit.head
        if held is None or head is None:
            return None
        gate, context = self._gate, self._context
        self._status = int(held[0][:3])
        return self._start(held[0], edited(held[1], lambda pairs: context.run(gate.begin, head, pairs)), *held[2:])

    def _early(self, data: bytes) -> Any:
        """`write` (PEP 3333) of an application whose head is held."""
        write = self._leave()
        if write is None:
            raise OSError(ENDED)
        self._begun = True
        return write(data)

    def _refused(self, error: BartizanError) -> Iterable[bytes]:
        if self._begun:
            raise error
        self._held = None
        refuse = self._context.run(self._gate.refusal, error, self._request)
        instead = (type(error), error, error.__traceback__) if self._status else None
        self._status = refuse.status
        return _answer(refuse, self._request.method, self._start, instead)

    def _ask(self) -> None:
        watch = self._watch
        if watch is None or not watch.due():
            return
        watch.asking()
        try:
            self._gate.recheck(self._admit)
        except (Rejected, Unavailable) as error:
            if not self._begun:
                raise  # it can still be answered
            watch.failed(error)
        else:
            watch.lives()


def _answer(refuse: Refuse, method: str, start_response: StartResponse, instead: Any = None) -> Iterable[bytes]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in refuse.headers]
    status = f"{refuse.status} {HTTPStatus(refuse.status).phrase}"
    start_response(status, headers, *((instead,) if instead is not None else ()))
    return [] if method == "HEAD" else [refuse.body]
