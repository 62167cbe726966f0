"""What a feature needs to stand in the gate: rules, authenticators, and the two verdicts."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from bartizan.core.cookies import Cookie
from bartizan.core.principal import Noted, Principal, Unit
from bartizan.core.request import Request
from bartizan.core.requirement import Held, Kinds, Requirement, checked_requirement
from bartizan.errors import BartizanError, Misuse, Reason, Rejected

Carriage = frozenset[Literal["bearer", "dpop", "websocket"]]
PROTOCOL = "bartizan"  # the websocket subprotocol behind which a token or ticket stands
HeaderPairs = list[tuple[bytes, bytes]]
_ADMITTED = Reason.ADMITTED.value


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
        self.requirement: Requirement = checked_requirement(requirement)
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
    ways: Carriage  # how it may come in `authorization`, or instead of it
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


class Origins(Protocol):
    """What says whether a page of ours sent a request that is not safe."""

    def judge(self, origin: bytes | None, site: bytes | None, *, websocket: bool = False) -> None:
        """Return, or raise `CrossOrigin`, by what `Origin` and `Sec-Fetch-Site` say."""


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
