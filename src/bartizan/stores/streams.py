"""The watch over one open stream, for an event loop: it asks while the stream is open whether it may stay so."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from contextlib import suppress
from contextvars import Context
from random import uniform
from time import monotonic
from typing import Any, TypeVar

from bartizan.core.passage import Edits, Head, HeaderPairs
from bartizan.errors import TooLarge, Unavailable
from bartizan.stores.watches import AGE, ENDED

T = TypeVar("T")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Stream:
    """`ask` is awaited about every `every` seconds once the watch has started; when it raises, the stream is over.

    A store that fails ends a stream only at the second time in a row. Then `close` is awaited, once.
    """

    __slots__ = ("_ask", "_close", "_every", "_failures", "_over", "_task")

    def __init__(
        self,
        ask: Callable[[], Awaitable[None]],
        every: float,
        close: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._ask = ask
        self._every = every
        self._close = close
        self._failures = 0
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether the stream may go on no longer."""
        return self._over.done()

    @property
    def watched(self) -> bool:
        """Whether it has been started."""
        return self._task is not None

    async def ask(self) -> None:
        """Ask once, now; whatever is no yes ends the stream, but for a store that fails the first time."""
        try:
            await self._ask()
        except Unavailable:
            self._failures += 1
        except Exception:  # noqa: BLE001 - whatever keeps us from a yes is a no
            self._failures = 2
        else:
            self._failures = 0
        if self._failures >= 2 and not self.over:
            self._over.set_result(None)

    def start(self, delay: float) -> None:
        """Begin to ask, the first time in `delay` seconds."""
        if self._task is None:
            # Nobody is current in it: it asks for the stream, not as its caller.
            self._task = asyncio.get_running_loop().create_task(self._watch(delay), context=Context())

    def stop(self) -> None:
        """The stream has ended by itself: nothing is asked any more."""
        if self._task is not None and not self.over:
            self._task.cancel()

    async def end(self) -> None:
        """Stop, or wait until what is over has been closed."""
        self.stop()
        if self._task is not None and self.over:
            await asyncio.wait({self._task})

    async def until_over(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """What `work` gives, or None once the stream is over: then what it might have had is not delivered."""
        if self.over:
            return None
        task = asyncio.ensure_future(work())
        try:
            first: set[asyncio.Future[Any]] = {task, self._over}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not self._over.done():
            return task.result()
        task.add_done_callback(_taken)
        task.cancel()
        return None

    async def _watch(self, delay: float) -> None:
        while not self.over:
            await asyncio.sleep(delay)
            delay = self._every * uniform(0.9, 1.1)  # noqa: S311 - spreads load; nothing depends on chance
            await self.ask()
        if self._close is not None:
            with suppress(Exception):  # the client may be gone already
                await self._close()


class Passing:
    """One admitted request over ASGI: counts its body, and watches its response once that is a stream.

    The head is what `head` makes of it; with `begin` it waits for the body, and is what that makes of it.
    `limit` is in bytes; `ask` raises once the caller's credential has ended, and is None where there is no caller.
    """

    __slots__ = (
        "_ask", "_begin", "_begun", "_every", "_head", "_held", "_left", "_receive", "_send", "_whole", "status",
        "stream",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - one is made for every request
        self,
        receive: Receive,
        send: Send,
        limit: int,
        ask: Callable[[], Awaitable[None]] | None,
        every: float,
        head: Head | None = None,
        begin: Callable[[HeaderPairs], Awaitable[Edits]] | None = None,
    ) -> None:
        self._receive = receive
        self._send = send
        self._left = limit
        self._ask = ask
        self._every = every
        self._begun = monotonic()
        self._head = head
        self._begin = begin  # what the head becomes when it is about to leave
        self._held: Message | None = None  # the head, until then
        self._whole = False  # whether the request's body has been read to its end
        self.status: int = 0
        self.stream: Stream | None = None

    async def receive(self) -> Message:
        """The application's `receive`."""
        if self._ask is not None and (self._whole or self.stream is not None):
            # Once the body is read it waits for the client to hang up: as long as the response goes on.
            message = await self._watched(self._ask).until_over(self._receive) or {"type": "http.disconnect"}
        else:
            message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise TooLarge
            self._whole = not message.get("more_body", False)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """The application's `send`. It hands on what the server's own gives to await: one coroutine less."""
        stream, kind = self.stream, message["type"]
        if stream is not None and stream.over:
            raise OSError(ENDED)
        if self._begin is not None:
            if kind == "http.response.start":
                self._held = message
                return _NOTHING
            if self._held is not None:
                return self._first(message, self._begin)
        if kind == "http.response.start":
            if self._left < 0:
                raise TooLarge  # the application made an answer of its own of it
            if self._head is not None:
                pairs = [(name.lower(), value) for name, value in message.get("headers", ())]
                message = {**message, "headers": self._head.shaped(pairs).applied(pairs)}
            if self._ask is not None and monotonic() - self._begun >= AGE:
                return self._late(message, self._ask)
            self.status = message["status"]
        elif kind == "http.response.body":
            if self._ask is not None and (stream is None or not stream.watched):
                left = AGE - monotonic() + self._begun
                if left <= 0:
                    return self._late(message, self._ask)
                if message.get("more_body"):
                    self._watched(self._ask).start(left)
            elif stream is not None and not message.get("more_body"):
                stream.stop()  # a response ends with its last message, not with its background tasks
        return self._send(message)

    async def _first(self, message: Message, begin: Callable[[HeaderPairs], Awaitable[Edits]]) -> None:
        if self._left < 0:
            raise TooLarge  # before anything is begun for it
        head, self._begin, self._head, self._held = self._held or {}, None, None, None
        pairs = [(name.lower(), value) for name, value in head.get("headers", ())]
        await self.send({**head, "headers": (await begin(pairs)).applied(pairs)})
        await self.send(message)

    async def _late(self, message: Message, ask: Callable[[], Awaitable[None]]) -> None:
        # The application took its time: what it sends now was made after the caller was last asked for.
        if message["type"] == "http.response.start":
            await ask()  # what this raises can still be answered
            self.status = message["status"]
        else:
            stream = self._watched(ask)
            await stream.ask()
            if stream.over:
                raise OSError(ENDED)
            if message.get("more_body"):
                stream.start(self._every)
        await self._send(message)

    def _watched(self, ask: Callable[[], Awaitable[None]]) -> Stream:
        if self.stream is None:
            self.stream = Stream(ask, self._every)
        return self.stream


class _Nothing:
    """What there is to await where nothing is sent yet."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


_NOTHING = _Nothing()


def _taken(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()
