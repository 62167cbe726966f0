"""When to ask for the caller of an answer again, for those who make it chunk by chunk and ask between two of them."""

from time import monotonic

from bartizan.errors import BartizanError, Rejected

AGE = 30.0  # seconds from which a response that is still being sent is a stream, whose caller is asked for again
ENDED = "the caller's credential has ended"


class Watch:
    """Every `every` seconds once the answer is `AGE` old. A store that fails ends it at the second time in a row."""

    __slots__ = ("_asked", "_every", "_failed")

    def __init__(self, every: float) -> None:
        self._every = every
        self._asked = monotonic() + AGE - every
        self._failed = False

    def due(self) -> bool:
        """Whether it is time to ask."""
        return monotonic() - self._asked >= self._every

    def asking(self) -> None:
        """It is being asked now."""
        self._asked = monotonic()

    def lives(self) -> None:
        """The answer was yes."""
        self._failed = False

    def failed(self, error: BartizanError) -> None:
        """It was no yes: `OSError`, upon which the server closes the connection and the client sees no end."""
        if self._failed or isinstance(error, Rejected):
            raise OSError(ENDED) from None
        self._failed = True
