"""Servers on loopback that speak TLS and answer each request with whatever bytes a test wants."""

import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server, socket
from typing import Any


class Peer:
    """One server: what it was asked, under which names, and a bell that rings when the test is over."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        self.names: list[str | None] = []
        self.requests: list[bytes] = []
        self.over = threading.Event()


Behave = Callable[[ssl.SSLSocket, bytes, Peer], None]


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answering(data: bytes) -> Behave:
    return lambda connection, _, __: connection.sendall(data)


@contextmanager
def tls_serving(certificate: Path, behave: Behave, address: str = "127.0.0.1", *, whole: bool = True) -> Iterator[Peer]:
    """A server that hands each request, head and body, to `behave`, then closes; without `whole` the head alone."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with create_server((address, 0)) as listening:
        peer = Peer(listening.getsockname()[1])
        context.sni_callback = lambda _, name, __: peer.names.append(name)
        threads: list[threading.Thread] = []

        def serve(raw: socket) -> None:
            with raw, contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    chunk = connection.recv(65536)
                    if not chunk:
                        return
                    head += chunk
                length = re.search(rb"\r\nContent-Length: ([0-9]+)\r\n", head)
                size = head.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
                while whole and len(head) < size:
                    head += connection.recv(65536)
                peer.requests.append(head)
                behave(connection, head, peer)

        def accept() -> None:
            while True:
                raw: Any
                raw, _ = listening.accept()
                if peer.over.is_set():
                    raw.close()
                    return
                peer.connections += 1
                threads.append(threading.Thread(target=serve, args=(raw,)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield peer
        finally:
            peer.over.set()
            with socket(listening.family) as last:
                last.connect(listening.getsockname())
            accepting.join(30)
            for thread in threads:
                thread.join(30)
