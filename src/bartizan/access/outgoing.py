"""A last look at an answer before it leaves: nothing in it may name another organization.

It is for tests, and for services that would rather fail than tell: off until it is switched on.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from bartizan.core.context import current_context
from bartizan.errors import Misuse, Unavailable

T = TypeVar("T")

NAMES = ("organization_id", "organizationId", "org_id", "orgId")
DEEPEST = 20
MOST = 100_000  # values looked at: an answer that is larger is not one that was looked at


class Outgoing:
    """`check(answer)` gives the answer back, or raises `Unavailable` where it names a foreign organization.

    `names` are the members that name one. `on` is a switch for the whole program: `Outgoing(on=True)` in tests.
    """

    def __init__(self, *, names: Collection[str] = NAMES, on: bool = False) -> None:
        if isinstance(names, str) or not names:
            raise Misuse("names are the members of an answer that name an organization")
        self._names = frozenset(names)
        self.on: bool = on

    def check(self, answer: T) -> T:
        """A mapping, dataclass, pydantic model, named tuple or object of an ORM, or any list of them."""
        if not self.on:
            return answer
        context = current_context()
        left = [MOST]
        if self._foreign(answer, context.org, 0, left, set()):
            context.unit.home.note("isolation.held", org=context.org, actor=context.actor, target=context.unit.label)
            raise Unavailable
        return answer

    def _foreign(self, value: Any, org: str, depth: int, left: list[int], seen: set[int]) -> bool:
        if value is None or isinstance(value, (str, bytes, int, float)):
            return False
        left[0] -= 1
        if depth > DEEPEST or left[0] < 0:
            return True
        if id(value) in seen:
            return False
        seen.add(id(value))
        members = _members(value)
        if members is None:
            if not isinstance(value, Iterable) or hasattr(value, "__next__"):
                return False  # a stream is not read: whoever would read it is the client
            return any(self._foreign(item, org, depth + 1, left, seen) for item in value)
        for name, item in members:
            if name in self._names and item is not None and str(item) != org:
                return True
            if self._foreign(item, org, depth + 1, left, seen):
                return True
        return False


def _members(value: Any) -> list[tuple[Any, Any]] | None:
    """The named members of a value, those that are loaded; None where it has none."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, type):
        return []
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=False))
    if isinstance(value, Iterable) and not hasattr(type(value), "model_fields"):
        return None
    held: Mapping[str, Any] = getattr(value, "__dict__", {})
    extra: Mapping[str, Any] = getattr(value, "__pydantic_extra__", None) or {}
    return [(name, item) for name, item in [*held.items(), *extra.items()] if not name.startswith("_")]
