"""A last look at answers, for whatever framework sends them: see `Outgoing`."""

from bartizan.access.outgoing import Outgoing

__all__ = ["Outgoing"]
