"""What a rule may ask for. `&` needs both, `|` either: `allow.secret_key("orders:read") | allow.publishable_key()`.

What no rule names is refused; `public()` and `untouched()` are said aloud.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from bartizan.core.ports import Clock
from bartizan.core.principal import ConsumerPrincipal, MemberPrincipal, Principal
from bartizan.core.request import Request
from bartizan.core.requirement import Condition, Held, Kinds, Requirement, Shortfall, Way, checked_name, checked_scopes
from bartizan.core.scopes import exact, lacking
from bartizan.errors import Misuse

LEEWAY = 5  # seconds by which an issuer's clock may be ahead
_NOBODY: Kinds = frozenset()
_NOBODY_WAY = (Way(_NOBODY),)


class _Open(Requirement):
    """Asks for nobody: no credential is read."""

    ways = frozenset({_NOBODY})
    alone = True

    def __init__(self, *, away: bool, rest: bool) -> None:
        self.look = "away" if away else "nothing"
        self.rest = rest

    def met_by(self, _: Held, __: Clock, /) -> Sequence[Way] | Shortfall:
        """Always."""
        return _NOBODY_WAY

    def __repr__(self) -> str:
        name = "untouched" if self.look == "away" else "public"
        return f"unsafe_{name}_rest()" if self.rest else f"{name}()"


class _Credential(Requirement):
    """One kind of credential with all of these scopes."""

    def __init__(self, kind: str, scopes: tuple[str, ...]) -> None:
        self.kind = kind
        self.scopes = exact(checked_scopes(scopes))
        kinds = frozenset({kind})
        self.ways = frozenset({kinds})
        self._met = (Way(kinds),)
        self.lone: Mapping[str, Kinds] = {kind: self.scopes}

    def met_by(self, held: Held, _: Clock, /) -> Sequence[Way] | Shortfall:
        """By a verified caller of this kind that was granted every scope."""
        caller = held.get(self.kind)
        if caller is None:
            return Shortfall()
        if self.scopes <= caller.scopes:
            return self._met
        missing = lacking(self.scopes, caller.scopes)
        return Shortfall(missing) if missing else self._met

    def __repr__(self) -> str:
        return _called(self.kind, self.scopes)


class _Person(_Credential):
    """A person with all of these scopes and roles, who has proved who they are in these ways, lately enough."""

    def __init__(
        self, kind: str, words: tuple[str, ...], *, guests: bool, factors: Collection[str], max_auth_age: int | None
    ) -> None:
        super().__init__(kind, words)
        self.lone = {}  # scopes are not all that it asks for
        self.roles = frozenset(word for word in self.scopes if kind == "member" and ":" not in word)
        self.scopes -= self.roles
        self.guests = guests
        self.factors = checked_scopes(factors, "factors")
        if max_auth_age is not None and (isinstance(max_auth_age, bool) or max_auth_age < 1):
            raise Misuse("max_auth_age is a number of seconds from 1")
        self.max_auth_age = max_auth_age
        asked = [f'acr_values="{" ".join(sorted(self.factors))}"'] if self.factors else []
        self.again = ", ".join([*asked, *([f'max_age="{max_auth_age}"'] if max_auth_age is not None else [])])

    def met_by(self, held: Held, clock: Clock, /) -> Sequence[Way] | Shortfall:
        """As a credential; and where factors are asked for, each of them has its own age, else the newest counts."""
        caller = held.get(self.kind)
        if not isinstance(caller, (ConsumerPrincipal, MemberPrincipal)):
            return Shortfall()
        missing = lacking(self.scopes, caller.scopes)
        if isinstance(caller, MemberPrincipal):
            missing |= self.roles - caller.roles
        if missing:
            return Shortfall(missing)
        if isinstance(caller, ConsumerPrincipal) and caller.guest and not self.guests:
            return Shortfall(again=self.again)
        if self.factors or self.max_auth_age is not None:
            now, proved = clock.seconds(), caller.factors
            times = [proved.get(name) for name in self.factors] or [max(proved.values(), default=None)]
            oldest = 0 if self.max_auth_age is None else now - self.max_auth_age
            # A time that is still to come proves nothing, however the clocks differ.
            if not all(time is not None and oldest <= time <= now + LEEWAY for time in times):
                return Shortfall(again=self.again)
        return self._met

    def __repr__(self) -> str:
        more = [] if self.guests else ["guests=False"]
        more += [f"factors={sorted(self.factors)}"] if self.factors else []
        more += [] if self.max_auth_age is None else [f"max_auth_age={self.max_auth_age}"]
        return _called(self.kind, self.scopes | self.roles, *more)


class _Optional(Requirement):
    """Nobody, or a caller who meets the requirement."""

    alternative = False

    def __init__(self, requirement: Requirement) -> None:
        if requirement.alone or not requirement.alternative or requirement.conditional:
            raise Misuse("optional() takes a requirement of credentials")
        self.requirement = requirement
        self.kinds = frozenset().union(*requirement.ways)
        self.ways = requirement.ways | {_NOBODY}
        self.spare = self.kinds

    def met_by(self, held: Held, clock: Clock, /) -> Sequence[Way] | Shortfall:
        """By nobody where none of its credentials came; what came has to meet it."""
        return self.requirement.met_by(held, clock) if not self.kinds.isdisjoint(held) else _NOBODY_WAY

    def __repr__(self) -> str:
        return f"optional({self.requirement!r})"


class _When(Requirement):
    """A question to the application about whoever the alternative lets in."""

    ways = frozenset({_NOBODY})
    conditional = True

    def __init__(self, condition: Condition) -> None:
        self._met = (Way(_NOBODY, (condition,)),)
        self.conditions = (condition,)

    def met_by(self, _: Held, __: Clock, /) -> Sequence[Way] | Shortfall:
        """If the application says so, which the gate asks."""
        return self._met

    def __repr__(self) -> str:
        return f"when({self._met[0].conditions[0].name!r})"


def _called(kind: str, words: Kinds, *more: str) -> str:
    """The call in this module that makes a requirement."""
    given = [*map(repr, sorted(words)), *more]
    name = {"secret": "secret_key", "publishable": "publishable_key", "consumer": kind, "member": kind}.get(kind)
    return f"{name}({', '.join(given)})" if name else f"credential({', '.join([repr(kind), *given])})"


def public() -> Requirement:
    """Everybody. Credentials are not read and there is no principal; the target and the headers are still checked."""
    return _Open(away=False, rest=False)


def untouched() -> Requirement:
    """Everybody, and nothing is changed or watched: the gate only refuses a malformed target."""
    return _Open(away=True, rest=False)


def unsafe_public_rest() -> Requirement:
    """`public()` for a pattern such as `/**`, which opens whatever no other rule names, now and later."""
    return _Open(away=False, rest=True)


def unsafe_untouched_rest() -> Requirement:
    """`untouched()` for a pattern such as `/**`, which opens whatever no other rule names, now and later."""
    return _Open(away=True, rest=True)


def optional(requirement: Requirement, /) -> Requirement:
    """Nobody, or a caller who meets `requirement`; a credential that is presented and does not is refused."""
    return _Optional(requirement)


def secret_key(*scopes: str) -> Requirement:
    """A secret API key with all of these scopes, in `Authorization: Bearer`."""
    return _Credential("secret", scopes)


def publishable_key(*scopes: str) -> Requirement:
    """A publishable API key with all of these scopes, in `X-Publishable-Key`."""
    return _Credential("publishable", scopes)


def consumer(
    *scopes: str, guests: bool = True, factors: Collection[str] = (), max_auth_age: int | None = None
) -> Requirement:
    """An organization's customer with all of these scopes, by an access token of ours in `Authorization: Bearer`.

    `factors` are the ways in which they must have proved who they are, `max_auth_age` how many seconds ago at most.
    Whoever has to prove it anew is told so (RFC 9470).
    """
    return _Person("consumer", scopes, guests=guests, factors=factors, max_auth_age=max_auth_age)


def member(*scopes_or_roles: str, factors: Collection[str] = (), max_auth_age: int | None = None) -> Requirement:
    """A person of an organization, by a token of an outside issuer; a word with `:` is a scope, a bare one a role.

    `factors` and `max_auth_age` are as for `consumer`.
    """
    return _Person("member", scopes_or_roles, guests=True, factors=factors, max_auth_age=max_auth_age)


def credential(name: str, *scopes: str) -> Requirement:
    """A caller with all of these scopes, by the gate's own authenticator of this name."""
    return _Credential(checked_name(name), scopes)


def when(name: str, check: Callable[[Principal, Request], bool | Awaitable[bool]], /) -> Requirement:
    """Only if `check(principal, request)` says `True` of the caller; `name` stands in the event of a refusal.

    It stands under `&` with a credential, and is asked of that credential's caller, after everything else held; plain
    or async, within five seconds. Whatever is neither `True` nor `False` is 503, and so is what it raises.
    """
    if not callable(check):
        raise Misuse("when() takes a name and a function of (principal, request)")
    return _When(Condition(checked_name(name), check))
