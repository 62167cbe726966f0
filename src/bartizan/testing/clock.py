"""A clock that moves only when told to."""


class FakeClock:
    """A `Clock` that stands at `now`, UTC in seconds; calling it gives the time too."""

    __slots__ = ("_nanoseconds",)

    def __init__(self, now: int = 1_800_000_000) -> None:
        self._nanoseconds = now * 1_000_000_000

    def __call__(self) -> int:
        """UTC in whole seconds."""
        return self._nanoseconds // 1_000_000_000

    seconds = __call__

    def nanoseconds(self) -> int:
        """UTC in nanoseconds."""
        return self._nanoseconds

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; by a negative number, step back."""
        self._nanoseconds += round(seconds * 1_000_000_000)
