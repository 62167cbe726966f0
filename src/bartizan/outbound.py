"""The only code that opens a connection to an address that somebody else chose (extra `send`).

httpcore, the transport of httpx, speaks TLS and HTTP/1.1. It follows no redirect, decompresses nothing, keeps no cookie
and reads no proxy from the environment; names are looked up here, and nowhere else.
"""

import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from functools import cache
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from bartizan.core.address import Endpoint, EndpointPolicy, address_of
from bartizan.core.ports import Answered, Fetch, Post
from bartizan.errors import BartizanError, InvalidRequest, Misuse, Reason, Unavailable

if TYPE_CHECKING:
    from httpcore import NetworkBackend, NetworkStream
else:  # httpcore takes whatever has the methods, and is loaded only when somebody connects
    NetworkBackend = NetworkStream = object

__all__ = [
    "BlockingFetch", "BlockingPost", "EndpointPolicy", "Outbound", "ThreadedFetch", "ThreadedPost", "both_fetches",
    "both_posts",
]  # fmt: skip

T = TypeVar("T")

Resolve = Callable[[str, int], Sequence[str]]
InThread = Callable[[Callable[[], T]], Awaitable[T]]

ATTEMPTS = 4  # addresses of a name that are tried, at most


def looked_up(host: str, port: int) -> Sequence[str]:
    """The addresses that the system's resolver gives for a name."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Outbound:
    """Asks what stands behind an `https` URL, at an address that was checked, within one deadline.

    A name is looked up once; all its addresses must be allowed, and the connection goes to one of those that were
    checked, with the name in SNI and in the certificate. A redirect is never followed.
    """

    def __init__(self, *, resolve: Resolve = looked_up, tick: Callable[[], float] = time.monotonic) -> None:
        try:
            import httpcore  # noqa: PLC0415
        except ImportError:
            raise Misuse("outgoing connections need the extra: pip install 'bartizan[send]'") from None
        self._http: Any = httpcore
        self._resolve = resolve
        self._tick = tick
        self._trusts: dict[str | None, ssl.SSLContext] = {}

    def get(self, url: str, policy: EndpointPolicy) -> bytes:
        """The body of the 200 answer to a GET; `Unavailable`, whose reason is coarse, for anything else."""
        return self._asked("GET", url, policy, {"User-Agent": "bartizan", "Accept": "application/json"}, None, _whole)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], policy: EndpointPolicy) -> Answered:
        """The status of the answer to a POST, whatever it is; `Unavailable` where none came, or none was asked for.

        `headers` are checked: none of them is the connection's. Of the answer's body nothing is kept.
        """
        return self._asked("POST", url, policy, headers, body, _head)

    def _asked(  # noqa: PLR0917 - one call for each method, and this is private
        self,
        method: str,
        url: str,
        policy: EndpointPolicy,
        headers: Mapping[str, str],
        body: bytes | None,
        read: Callable[[Any, EndpointPolicy], T],
    ) -> T:
        deadline = self._tick() + policy.seconds
        try:
            endpoint = policy.check(url)
            backend = _Pinned(self._http.SyncBackend(), self._resolve, policy, lambda: deadline - self._tick())
            with (
                self._http.ConnectionPool(
                    ssl_context=self._trust(policy.authorities), max_connections=1, network_backend=backend
                ) as pool,
                pool.stream(
                    method, self._where(endpoint), headers=_lines(endpoint, headers, body), content=body
                ) as response,
            ):
                return read(response, policy)
        except InvalidRequest as error:
            raise Unavailable(error.reason) from None
        except BartizanError:
            raise
        except Exception:  # noqa: BLE001 - whatever a stranger's server does to TLS and HTTP
            raise Unavailable(Reason.ENDPOINT_FAILED) from None

    def _where(self, endpoint: Endpoint) -> Any:
        host, target = endpoint.host.encode(), endpoint.target.encode()
        return self._http.URL(scheme=b"https", host=host, port=endpoint.port, target=target)

    def _trust(self, authorities: str | None) -> ssl.SSLContext:
        trust = self._trusts.get(authorities)
        if trust is None:
            try:
                trust = self._trusts[authorities] = ssl.create_default_context(cadata=authorities)
            except ssl.SSLError:
                raise Misuse("authorities are certificates in PEM") from None
        return trust


def _lines(endpoint: Endpoint, headers: Mapping[str, str], body: bytes | None) -> list[tuple[str, str]]:
    """The header lines: the connection's own around those that were given, `Host` first, as some receivers need it."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [("Host", host if endpoint.port == 443 else f"{host}:{endpoint.port}")]
    lines += [(name.title(), value) for name, value in headers.items()]  # and some read names by their capitals
    if body is not None:
        lines.append(("Content-Length", str(len(body))))
    return [*lines, ("Accept-Encoding", "identity"), ("Connection", "close")]


def _whole(response: Any, policy: EndpointPolicy) -> bytes:
    if response.status != 200:
        raise Unavailable(Reason.ENDPOINT_FAILED)
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > policy.max_bytes:
            raise Unavailable(Reason.ENDPOINT_FAILED)
    return bytes(body)


def _head(response: Any, policy: EndpointPolicy) -> Answered:
    """What the head says. The body is let come for a while, so that the receiver is not cut off in the middle of it."""
    wanted = [value for name, value in response.headers if name.lower() == b"retry-after"]
    retry_after = wanted[0].decode("latin-1") if len(wanted) == 1 else None
    size = 0
    with suppress(Exception):  # the answer has been given: how its body ends makes no other of it
        for chunk in response.iter_stream():
            size += len(chunk)
            if size > policy.max_bytes:
                break
    return Answered(response.status, retry_after)


class BlockingFetch:
    """`Fetch` for threads."""

    __slots__ = ("_outbound",)

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def __call__(self, url: str, policy: EndpointPolicy, /) -> bytes:
        """As `Outbound.get`."""
        return self._outbound.get(url, policy)


class ThreadedFetch:
    """`Fetch` for an event loop: the same, in a thread that `in_thread` gives."""

    __slots__ = ("_in_thread", "_outbound")

    def __init__(self, outbound: Outbound, in_thread: InThread[bytes]) -> None:
        self._outbound = outbound
        self._in_thread = in_thread

    async def __call__(self, url: str, policy: EndpointPolicy, /) -> bytes:
        """As `Outbound.get`."""
        return await self._in_thread(lambda: self._outbound.get(url, policy))


def both_fetches(in_thread: InThread[bytes]) -> tuple[Fetch, Fetch]:
    """The async and the blocking form over one transport."""
    outbound = Outbound()
    return ThreadedFetch(outbound, in_thread), BlockingFetch(outbound)


class BlockingPost:
    """`Post` for threads."""

    __slots__ = ("_outbound",)

    def __init__(self, outbound: Callable[[], Outbound]) -> None:
        self._outbound = outbound

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str], policy: EndpointPolicy, /) -> Answered:
        """As `Outbound.post`."""
        return self._outbound().post(url, body, headers, policy)


class ThreadedPost:
    """`Post` for an event loop: the same, in a thread that `in_thread` gives."""

    __slots__ = ("_in_thread", "_outbound")

    def __init__(self, outbound: Callable[[], Outbound], in_thread: InThread[Answered]) -> None:
        self._outbound = outbound
        self._in_thread = in_thread

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str], policy: EndpointPolicy, /) -> Answered:
        """As `Outbound.post`."""
        outbound = self._outbound()
        return await self._in_thread(lambda: outbound.post(url, body, headers, policy))


def both_posts(in_thread: InThread[Answered]) -> tuple[Post, Post]:
    """The async and the blocking form over one transport, made at the first use: who sends nothing needs no extra."""
    outbound = cache(Outbound)
    return ThreadedPost(outbound, in_thread), BlockingPost(outbound)


class _Pinned(NetworkBackend):
    """Connects to addresses that the policy allows, and to nothing else."""

    def __init__(self, inner: Any, resolve: Resolve, policy: EndpointPolicy, left: Callable[[], float]) -> None:
        self._inner = inner
        self._resolve = resolve
        self._policy = policy
        self._left = left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - there is one deadline for everything
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> NetworkStream:
        """A connection to the first of the name's addresses that takes one."""
        addresses = [host] if address_of(host) is not None else self._addresses(host, port)
        # All of them, before the first connection: a public address beside a private one is somebody's trick.
        if not addresses or not all(map(self._policy.allows, addresses)):
            raise Unavailable(Reason.ENDPOINT_NOT_ALLOWED if addresses else Reason.ENDPOINT_FAILED)
        attempts = list(dict.fromkeys(addresses))[:ATTEMPTS]
        for number, address in enumerate(attempts):
            seconds = _positive(self._left()) / (len(attempts) - number)
            try:
                stream = self._inner.connect_tcp(address, port, timeout=seconds)
            except Exception:  # noqa: BLE001, S112 - refused, unreachable, too slow: the next one
                continue
            try:
                self._compare(stream, address)
            except BaseException:
                stream.close()
                raise
            return _Timed(stream, self._left)
        raise Unavailable(Reason.ENDPOINT_FAILED)

    def _addresses(self, host: str, port: int) -> Sequence[str]:
        """The system's resolver knows no deadline, so it is asked in a thread that may be left behind."""
        answers: SimpleQueue[Sequence[str]] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolve(host, port))
            except Exception:  # noqa: BLE001 - no such name, no resolver: no addresses
                answers.put(())

        Thread(target=Context().run, args=(ask,), name="bartizan-resolver", daemon=True).start()
        try:
            return answers.get(timeout=_positive(self._left()))
        except Empty:
            return ()

    def _compare(self, stream: NetworkStream, address: str) -> None:
        """Refuse a peer that is not the one we asked for, and one that is ourselves."""
        peer, local = stream.get_extra_info("server_addr")[0], stream.get_extra_info("client_addr")[0]
        if address_of(peer) != address_of(address) or (peer == local and not self._policy.exempts(address)):
            raise Unavailable(Reason.ENDPOINT_NOT_ALLOWED)


class _Timed(NetworkStream):
    """A connection on which every step gets what is left until the deadline."""

    def __init__(self, inner: NetworkStream, left: Callable[[], float]) -> None:
        self._inner = inner
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, _positive(self._left()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        # One timeout is one deadline, however slowly it is taken: `ssl` sends all of it in one call.
        self._inner.write(buffer, _positive(self._left()))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> NetworkStream:
        return _Timed(self._inner.start_tls(ssl_context, server_hostname, _positive(self._left())), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise Unavailable(Reason.ENDPOINT_FAILED)
    return seconds
