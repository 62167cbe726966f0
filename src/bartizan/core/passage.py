"""What a feature needs to stand in the gate: rules, requirements, authenticators, and the two verdicts."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from re import ASCII, compile as regex
from types import MappingProxyType
from typing import Literal, NamedTuple, NoReturn, Protocol

from bartizan.core.cookies import Cookie
from bartizan.core.ports import Clock
from bartizan.core.principal import Noted, Principal, Unit
from bartizan.core.request import Request
from bartizan.core.scopes import whole
from bartizan.errors import BartizanError, Misuse, Reason, Rejected

Kinds = frozenset[str]
Held = Mapping[str, Principal]
HeaderPairs = list[tuple[bytes, bytes]]
_ADMITTED = Reason.ADMITTED.value


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
        if _requirement(a).alone or _requirement(b).alone:
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
        if _requirement(a).alone or _requirement(b).alone:
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


def _requirement(value: object) -> Requirement:
    if not isinstance(value, Requirement):
        raise Misuse("a requirement is made by bartizan.allow")
    return value


Option = object  # a value with a `place`; each room that has options brings their stage


class Rule:
    """One line of the gate's table: who may come by this path.

    `pattern` is `"GET|POST /orders/{id}/**"`, or several of them: methods are optional and upper case; a segment is
    literal, `*` or `{name}`; `**` or `{name:path}` stands last. `{org}` is compared with the caller's organization.
    `body_limit` is in bytes. `login` is the path of a page for signing in: where a browser navigates to the rule's and
    nobody is signed in, it is sent there. `unsafe_encoded_slash` lets `%2F` and `%5C` pass where this rule matches.
    """

    __slots__ = ("body_limit", "login", "options", "patterns", "requirement", "unsafe_encoded_slash")

    def __init__(
        self,
        pattern: str | Sequence[str],
        requirement: Requirement,
        *options: Option,
        login: str | None = None,
        body_limit: int = 1024 * 1024,
        unsafe_encoded_slash: bool = False,
    ) -> None:
        self.patterns: tuple[str, ...] = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        if not self.patterns:
            raise Misuse("a rule without a pattern matches nothing")
        if isinstance(body_limit, bool) or body_limit < 0:
            raise Misuse("body_limit is a number of bytes")
        self.requirement: Requirement = _requirement(requirement)
        if requirement.conditional:
            raise Misuse("when() stands under & with a credential")
        if login is not None and (login[:1] != "/" or login[1:2] == "/" or {"?", "#", "\\"} & set(login)):
            raise Misuse("login is the path of a page of this application")
        self.login: str | None = login
        self.options: tuple[Option, ...] = options
        self.body_limit: int = body_limit
        self.unsafe_encoded_slash: bool = unsafe_encoded_slash

    def __repr__(self) -> str:
        return f"Rule({', '.join(self.patterns)!r})"


class Authenticator(Protocol):
    """Turns what was presented in one slot into a caller: keys now; tokens and sessions are further ones."""

    slot: Literal["authorization", "x-publishable-key"]
    kinds: Kinds
    accompanies: bool  # whether it may stand beside any other credential, asked for or not

    def recognises(self, presented: bytes, /) -> object:
        """Truthy where this value is of our grammar, judged by its form alone, mangled ones included."""

    async def authenticate(self, presented: bytes, request: Request, /) -> Principal:
        """The verified caller; raises `Rejected` or `Unavailable`."""

    async def recheck(self, principal: Principal, /) -> None:
        """Return where the credential still lives; raise where it has ended."""


class Edits(NamedTuple):
    """What becomes of the head of an answer: headers that go, headers that come, and cookies."""

    drop: frozenset[bytes]
    put: HeaderPairs
    cookies: tuple[Cookie, ...] = ()

    def applied(self, headers: HeaderPairs) -> HeaderPairs:
        """The head as it leaves."""
        if not self.drop and not self.cookies:
            return [*headers, *self.put]
        cookies = [(b"set-cookie", cookie.header().encode("latin-1")) for cookie in self.cookies]
        kept = [pair for pair in headers if pair[0] not in self.drop] if self.drop else headers
        return [*kept, *self.put, *cookies]


class Head(Protocol):
    """What an admitted request's answer gets when its head is about to leave."""

    @property
    def pending(self) -> bool:
        """Whether `begin` has to be awaited; else `shaped` says it."""

    def shaped(self, headers: HeaderPairs, /) -> Edits:
        """The edits that need no waiting."""

    async def begin(self, headers: HeaderPairs, /) -> Edits:
        """The edits, and whatever is due at the start of the answer."""


class Ambient(Protocol):
    """A credential of ours that browsers send by themselves, in `Cookie`."""

    @property
    def kind(self) -> str:
        """Of which kind its callers are."""

    @property
    def head(self) -> Head:
        """What an answer gets to whoever came without."""

    async def authenticate(self, cookie: bytes, request: Request, /) -> tuple[Principal, Head] | None:
        """The verified caller and what their answer gets; None where nothing of ours came."""

    def check(self, request: Request, origin: bytes | None, site: bytes | None, /) -> None:
        """`CrossOrigin` where another origin's page may have sent it."""

    def dead(self, error: Rejected, /) -> bool:
        """Whether it is merely no credential any more."""


class Login(Protocol):
    """Where a browser is sent that has to sign in first."""

    def redirect(self, login: str, request: Request, /) -> HeaderPairs:
        """The headers of a 303 to the page `login`."""


class Admit(Unit):
    """The verdict that lets a request in, and its unit of work. `principal` is the most personal of `held`, or None."""

    __slots__ = ("ends", "head", "held", "params", "rule")

    def __init__(  # noqa: PLR0917 - keywords cost a dictionary, and one is made for every request
        self,
        rule: Rule,
        held: Held,
        callers: tuple[Principal, ...],
        params: Mapping[str, str],
        method: str,
        home: Noted,
        head: Head | None = None,
    ) -> None:
        self.rule: Rule = rule
        self.held: Held = held
        self.callers: tuple[Principal, ...] = callers
        self.params: Mapping[str, str] = params
        self.ends: list[Callable[[int], Awaitable[None]]] | None = None
        self.head: Head | None = head
        self.method: str | None = method
        self.home: Noted = home
        self.over: bool = False

    @property
    def label(self) -> str:
        """The rule that let it in."""
        return self.rule.patterns[0]

    @property
    def principal(self) -> Principal | None:
        """The caller, or None where the rule asks for nobody and nobody came."""
        return self.callers[0] if self.callers else None


class Refuse:
    """The verdict that answers in the application's place: status, headers and body are complete."""

    __slots__ = ("body", "error", "headers", "status")

    def __init__(self, error: BartizanError, status: int, headers: HeaderPairs, body: bytes) -> None:
        self.error: BartizanError = error
        self.status: int = status
        self.headers: HeaderPairs = headers
        self.body: bytes = body


class Decision:
    """What the gate decided, for `on_decision`: `status` is a refusal's, 0 for an admission.

    Where it is not `enforced`, the refusal is only reported, and the application answers.
    """

    __slots__ = ("_failure", "enforced", "nanoseconds", "principal", "rule")

    def __init__(
        self,
        rule: str | None,
        failure: BartizanError | None,
        enforced: bool,
        principal: Principal | None,
        nanoseconds: int,
    ) -> None:
        self.rule: str | None = rule
        self._failure = failure
        self.enforced: bool = enforced
        self.principal: Principal | None = principal
        self.nanoseconds: int = nanoseconds

    @property
    def admitted(self) -> bool:
        """Whether nothing was wrong."""
        return self._failure is None

    @property
    def status(self) -> int:
        """A refusal's status, 0 for an admission."""
        return 0 if self._failure is None else self._failure.status

    @property
    def reason(self) -> str:
        """Why: one of `bartizan.errors.Reason`; an admission's is `admitted`."""
        return _ADMITTED if self._failure is None else self._failure.reason.value


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
