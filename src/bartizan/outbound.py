"""The only code that opens a connection to an address that somebody else chose (extra `send`).

httpcore, the transport of httpx, speaks TLS and HTTP/1.1. It follows no redirect, decompresses nothing, keeps no cookie
and reads no proxy from the environment; names are looked up here, and nowhere else.
"""

import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from bartizan.core.address import Endpoint, EndpointPolicy, address_of
from bartizan.core.ports import Fetch
from bartizan.errors import BartizanError, InvalidRequest, Misuse, Reason, Unavailable

if TYPE_CHECKING:
    from httpcore import NetworkBackend, NetworkStream
else:  # httpcore takes whatever has the methods, and is loaded only when somebody connects
    NetworkBackend = NetworkStream = object

__all__ = ["BlockingFetch", "EndpointPolicy", "Outbound", "ThreadedFetch", "both_fetches"]

Resolve = Callable[[str, int], Sequence[str]]

ATTEMPTS = 4  # addresses of a name that are tried, at most


def looked_up(host: str, port: int) -> Sequence[str]:
    """The addresses that the system's resolver gives for a name."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Outbound:
    """Reads what stands behind an `https` URL, from an address that was checked, within one deadline.

    A name is looked up once; all its addresses must be allowed, and the connection goes to one of those that were
    checked, with the name in SNI and in the certificate. Redirects are failures.
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
        try:
            endpoint = policy.check(url)
            return self._get(endpoint, policy, self._tick() + policy.seconds)
        except InvalidRequest as error:
            raise Unavailable(error.reason) from None
        except BartizanError:
            raise
        except Exception:  # noqa: BLE001 - whatever a stranger's server does to TLS and HTTP
            raise Unavailable(Reason.ENDPOINT_FAILED) from None

    def _get(self, endpoint: Endpoint, policy: EndpointPolicy, deadline: float) -> bytes:
        backend = _Pinned(self._http.SyncBackend(), self._resolve, policy, lambda: deadline - self._tick())
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        authority = host if endpoint.port == 443 else f"{host}:{endpoint.port}"
        headers = [
            ("Host", authority),
            ("User-Agent", "bartizan"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        where = self._http.URL(
            scheme=b"https", host=endpoint.host.encode(), port=endpoint.port, target=endpoint.target.encode()
        )
        with (
            self._http.ConnectionPool(
                ssl_context=self._trust(policy.authorities), max_connections=1, network_backend=backend
            ) as pool,
            pool.stream("GET", where, headers=headers) as response,
        ):
            if response.status != 200:
                raise Unavailable(Reason.ENDPOINT_FAILED)
            body = bytearray()
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > policy.max_bytes:
                    raise Unavailable(Reason.ENDPOINT_FAILED)
            return bytes(body)

    def _trust(self, authorities: str | None) -> ssl.SSLContext:
        trust = self._trusts.get(authorities)
        if trust is None:
            try:
                trust = self._trusts[authorities] = ssl.create_default_context(cadata=authorities)
            except ssl.SSLError:
                raise Misuse("authorities are certificates in PEM") from None
        return trust


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

    def __init__(self, outbound: Outbound, in_thread: Callable[[Callable[[], bytes]], Awaitable[bytes]]) -> None:
        self._outbound = outbound
        self._in_thread = in_thread

    async def __call__(self, url: str, policy: EndpointPolicy, /) -> bytes:
        """As `Outbound.get`."""
        return await self._in_thread(lambda: self._outbound.get(url, policy))


def both_fetches(in_thread: Callable[[Callable[[], bytes]], Awaitable[bytes]]) -> tuple[Fetch, Fetch]:
    """The async and the blocking form over one transport."""
    outbound = Outbound()
    return ThreadedFetch(outbound, in_thread), BlockingFetch(outbound)


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
