"""What a rule asks for: requirements, how they are joined, and what is told where one is not met. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from re import ASCII, compile as regex
from types import MappingProxyType
from typing import Literal, NamedTuple, NoReturn

from bartizan.core.ports import Clock
from bartizan.core.principal import Principal
from bartizan.core.request import Request
from bartizan.core.scopes import whole
from bartizan.errors import Misuse

Kinds = frozenset[str]
Held = Mapping[str, Principal]


class Condition(NamedTuple):
    """What the application itself has to say `True` to, of the caller whom one alternative lets in."""

    name: str
    check: Callable[[Principal, Request], bool | Awaitable[bool]]


class Way:
    """One alternative of a requirement that holds, as it was written: the kinds of credential that met it.

    It lets nobody in before each of its conditions was asked.
    """

    __slots__ = ("conditions", "kinds")

    def __init__(self, kinds: Kinds, conditions: tuple[Condition, ...] = ()) -> None:
        self.kinds: Kinds = kinds
        self.conditions: tuple[Condition, ...] = conditions


class Shortfall:
    """What was lacking: a credential, or of one that was there scopes (`scopes` names them), or that its holder proves
    anew who they are: `again` then says how, in the words of RFC 9470 section 3.
    """

    __slots__ = ("again", "scopes")

    def __init__(self, scopes: Kinds = frozenset(), again: str | None = None) -> None:
        self.scopes: Kinds = scopes
        self.again: str | None = again

    @property
    def nobody(self) -> bool:
        """Whether there was no credential at all that would do."""
        return not self.scopes and self.again is None


class Requirement(ABC):
    """What a rule asks for. `&` needs both, `|` either; alternatives never add up."""

    look: Literal["away", "nothing", "caller"] = "caller"
    ways: frozenset[Kinds]
    alone: bool = False  # stands in no `&` and no `|`
    alternative: bool = True  # may stand under `|`
    rest: bool = False  # may open what no other rule names
    conditional: bool = False  # a condition, and no credential yet whose caller it could be asked of
    lone: Mapping[str, Kinds] = MappingProxyType({})  # kinds that meet it alone, each with the scopes that it takes
    conditions: "tuple[Condition, ...]" = ()  # what each of those is asked about besides
    spare: Kinds = frozenset()  # kinds that are as good as absent where they have ended

    @abstractmethod
    def met_by(self, held: Held, clock: Clock, /) -> Sequence[Way] | Shortfall:
        """Every way that holds for these verified callers, in the order written, or what is lacking."""

    def __and__(self, other: "Requirement") -> "Requirement":
        return All(self, other)

    def __or__(self, other: "Requirement") -> "Requirement":
        return Either(self, other)

    def __bool__(self) -> NoReturn:
        raise Misuse("requirements are joined with & and |, not with `and`, `or` or `not`")


class All(Requirement):
    """Both sides, by credentials that were presented together."""

    def __init__(self, a: Requirement, b: Requirement) -> None:
        if checked_requirement(a).alone or checked_requirement(b).alone:
            raise Misuse("public() and untouched() stand alone")
        self.sides: tuple[Requirement, Requirement] = (a, b)
        self.ways: frozenset[Kinds] = frozenset(x | y for x in a.ways for y in b.ways)
        self.alternative: bool = a.alternative and b.alternative
        either = frozenset().union(*a.ways), frozenset().union(*b.ways)
        self.spare: Kinds = (a.spare & b.spare) | (a.spare - either[1]) | (b.spare - either[0])
        self.conditional: bool = a.conditional and b.conditional
        if a.conditional or b.conditional:
            if not self.conditional and frozenset() in self.ways:
                raise Misuse("when() is asked of a caller: optional() may have none")
            self.lone: Mapping[str, Kinds] = a.lone or b.lone
            self.conditions: tuple[Condition, ...] = a.conditions + b.conditions

    def met_by(self, held: Held, clock: Clock, /) -> Sequence[Way] | Shortfall:
        """The pairs of ways that hold."""
        a, b = self.sides[0].met_by(held, clock), self.sides[1].met_by(held, clock)
        if isinstance(a, Shortfall):
            # A missing credential is told before a missing scope: signing in comes first.
            return b if isinstance(b, Shortfall) and b.nobody else a
        if isinstance(b, Shortfall):
            return b
        return [Way(x.kinds | y.kinds, x.conditions + y.conditions) for x in a for y in b]

    def __repr__(self) -> str:
        return " & ".join([f"({side!r})" if isinstance(side, Either) else repr(side) for side in self.sides])


class Either(Requirement):
    """Any side that holds by itself."""

    def __init__(self, a: Requirement, b: Requirement) -> None:
        if checked_requirement(a).alone or checked_requirement(b).alone:
            raise Misuse("public() and untouched() stand alone")
        if not (a.alternative and b.alternative):
            raise Misuse("optional() stands alone or under &: write optional(a | b)")
        if a.conditional or b.conditional:
            raise Misuse("when() stands under & with a credential")
        self.sides: tuple[Requirement, Requirement] = (a, b)
        self.ways: frozenset[Kinds] = a.ways | b.ways
        if a.conditions or b.conditions:
            return  # of one side: `met_by` knows which
        both = a.lone.keys() & b.lone.keys()
        self.lone: Mapping[str, Kinds] = {kind: took for kind, took in {**a.lone, **b.lone}.items() if kind not in both}

    def met_by(self, held: Held, clock: Clock, /) -> Sequence[Way] | Shortfall:
        """The ways of both sides."""
        a, b = self.sides[0].met_by(held, clock), self.sides[1].met_by(held, clock)
        if isinstance(a, Shortfall):
            # Where nothing holds, a caller who only lacks a scope hears of the scope.
            return a if isinstance(b, Shortfall) and not a.nobody else b
        return a if isinstance(b, Shortfall) else [*a, *b]

    def __repr__(self) -> str:
        return " | ".join([repr(side) for side in self.sides])


def checked_requirement(value: object) -> Requirement:
    """The requirement; anything else, such as a function of `allow` that was not called, is `Misuse`."""
    if not isinstance(value, Requirement):
        raise Misuse("a requirement is made by bartizan.allow")
    return value


_NAME = regex(r"[a-z][a-z0-9_-]{0,63}", ASCII)


def checked_name(name: str) -> str:
    """The name of a condition or of an authenticator: it stands in events."""
    if _NAME.fullmatch(name) is None:
        raise Misuse("a name is 1 to 64 lower-case letters, digits, _ and -, and begins with a letter")
    return name


def checked_scopes(scopes: Collection[str], what: str = "scopes") -> Kinds:
    """Scopes as a set; each is an RFC 6749 section 3.3 scope-token, `resource:action` by convention."""
    if isinstance(scopes, str):
        raise Misuse(f"{what} is a collection of scopes, not one text")
    given: Collection[object] = scopes
    for scope in given:
        if not isinstance(scope, str) or not 1 <= len(scope) <= 100 or not scope.isascii() or not scope.isprintable():
            raise Misuse(f"{what}: a scope is 1 to 100 printable ASCII characters")
        if {" ", '"', "\\"} & set(scope):
            raise Misuse(f"{what}: a scope has no space, quote or backslash")
        if not whole(scope):
            raise Misuse(f"{what}: a wildcard is a whole segment, as in orders:* or *:read")
    return frozenset(scopes)
