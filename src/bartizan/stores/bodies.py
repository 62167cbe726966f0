"""What a WSGI application reads and answers with, counted and edited on the way (PEP 3333)."""

from collections.abc import Callable, Iterator
from typing import Any

from bartizan.core.passage import Edits, HeaderPairs
from bartizan.errors import TooLarge


def edited(headers: list[tuple[str, str]], edit: Callable[[HeaderPairs], Edits]) -> list[tuple[str, str]]:
    """A head after the edits that `edit` gives of it."""
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    pairs = edit(pairs).applied(pairs)
    return [(name.decode("latin-1").title(), value.decode("latin-1")) for name, value in pairs]


class Limited:
    """The request's body, at most `limit` bytes of it."""

    __slots__ = ("_input", "_left")

    def __init__(self, stream: Any, limit: int) -> None:
        self._input = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        """As `wsgi.input.read`."""
        return self._counted(self._input.read(self._most(size)))

    def readline(self, size: int = -1) -> bytes:
        """As `wsgi.input.readline`."""
        return self._counted(self._input.readline(self._most(size)))

    def readlines(self, _: int = -1) -> list[bytes]:
        """As `wsgi.input.readlines`."""
        return list(iter(self.readline, b""))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _most(self, size: int | None) -> int:
        # One byte more than may come tells a body that is too large from one that just fits.
        return self._left + 1 if size is None or size < 0 else min(size, self._left + 1)

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge
        return data
