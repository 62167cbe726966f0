"""From a URL to a store with a backend for each form."""

import os
from typing import Protocol

from bartizan.core.ports import Clock
from bartizan.core.tables import Backend
from bartizan.errors import Misuse
from bartizan.stores.memory import MemoryBackend
from bartizan.stores.sqlite import SqliteFile


class Store(Protocol):
    """A store with a backend for each form."""

    @property
    def asynchronous(self) -> Backend:
        """For an event loop."""

    @property
    def blocking(self) -> Backend:
        """For threads."""

    def close(self) -> None:
        """Let go of what is open; the next use opens it again."""


class _Both:
    """A backend that never waits serves both forms."""

    def __init__(self, backend: Backend) -> None:
        self.asynchronous = self.blocking = backend

    def close(self) -> None:
        """Nothing is open."""


def opened(url: str | Backend, clock: Clock, workers: int = 1) -> Store:
    """The store that a URL names, for so many processes; nothing is touched before it is used."""
    if isinstance(workers, bool) or workers < 1:
        raise Misuse("workers is the number of processes that serve, from 1")
    if not isinstance(url, str):
        return _Both(url)
    if url == "memory://":
        declared = os.environ.get("WEB_CONCURRENCY", "")  # gunicorn and uvicorn take their number of workers from it
        if workers > 1 or (declared.isdecimal() and int(declared) > 1):
            raise Misuse("memory:// serves one process, and workers= or WEB_CONCURRENCY says more: use sqlite:///path")
        return _Both(MemoryBackend(clock))
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return SqliteFile(url.removeprefix("sqlite:///"), clock)
    raise Misuse("url is memory://, sqlite:///path (relative) or sqlite:////path (absolute)")
