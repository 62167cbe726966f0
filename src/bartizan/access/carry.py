"""Work outside a request: jobs, and a caller's authority carried into one as a text."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from bartizan.core.encoding import Json, canonical
from bartizan.core.events import AuditEvent, Journal
from bartizan.core.ports import Clock, Entropy, fresh
from bartizan.core.principal import (
    ConsumerPrincipal,
    Environment,
    JobPrincipal,
    MemberPrincipal,
    Principal,
    PublishablePrincipal,
    SecretPrincipal,
    Unit,
    current_principal,
    current_unit,
    verified,
)
from bartizan.core.requirement import checked_scopes
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp
from bartizan.errors import InvalidCode, InvalidToken, Misuse, Reason, Unauthenticated

LONGEST_LIFE = 86_400
_LEFT = "a job that is over was left behind here: an async generator that works as one needs jobs.contained"
LONGEST_BODY = 8192  # bytes: an organization, an actor, and scopes

KeyPrincipal = SecretPrincipal | PublishablePrincipal
KEY_KINDS: dict[str, type[KeyPrincipal]] = {"secret": SecretPrincipal, "publishable": PublishablePrincipal}


class Home:
    """What a unit of work knows of the instance that it runs in."""

    __slots__ = ("_clock", "_journal", "environment", "writes")

    def __init__(self, environment: Environment, clock: Clock, journal: Journal, writes: Collection[str] = ()) -> None:
        self.environment: Environment = environment
        self.writes: frozenset[str] = checked_scopes(writes, "publishable_writes")
        self._clock = clock
        self._journal = journal

    def note(
        self,
        name: str,
        *,
        org: str | None,
        actor: str,
        target: str | None = None,
        data: Mapping[str, Json] | None = None,
    ) -> None:
        """An event that changes nothing."""
        self._journal.note(AuditEvent(name=name, org=org, actor=actor, target=target, data=data))

    def seconds(self) -> int:
        """The instance's clock."""
        return self._clock.seconds()


class _Left(tuple[Principal, ...]):
    """The callers of a job that is over: in a context where it was left behind, whoever looks for them is refused."""

    __slots__ = ()

    def __getitem__(self, _: Any) -> NoReturn:
        raise Misuse(_LEFT)

    def __iter__(self) -> NoReturn:
        raise Misuse(_LEFT)

    def __len__(self) -> NoReturn:
        raise Misuse(_LEFT)


class Job(Unit):
    """Work under a principal of its own, for as long as the block lasts: a unit of work."""

    __slots__ = ("_before", "_entered", "_principal")

    def __init__(self, principal: JobPrincipal, home: Home) -> None:
        super().__init__((principal,), None, home)
        self._principal = principal
        self._entered = False

    @property
    def label(self) -> str:
        """The job's name."""
        return self._principal.actor

    def __enter__(self) -> JobPrincipal:
        if self._entered:
            raise Misuse("a job is entered once: make one for each piece of work")
        self._entered = True
        ends = self._principal.expires_at
        if ends is not None and self.home.seconds() >= ends:
            raise Unauthenticated(Reason.EXPIRED)
        now = current_unit.get()
        held = now.callers
        if held and held[0].org is not None and held[0].org != self._principal.org:
            raise Misuse("a job of another organization, or of none, does not start while a principal is current")
        self.method: str | None = now.method
        self._before = current_unit.set(self)
        return self._principal

    def __exit__(self, *_: object) -> None:
        self.over: bool = True
        self.callers: tuple[Principal, ...] = _Left()
        # Where the block is left in another context than it was entered in (an async generator that somebody else
        # closes), there is nothing to reset here, and what stays behind there refuses.
        with suppress(ValueError):
            current_unit.reset(self._before)


def job(home: Home, name: str, org: str | None, scopes: Collection[str]) -> Job:
    """A job of the program's own, with these scopes; `org` was checked by the caller."""
    return Job(
        verified(
            JobPrincipal,
            org=org,
            environment=home.environment,
            scopes=checked_scopes(scopes),
            expires_at=None,
            actor=f"job:{checked_name(name)}",
            name=name,
            origin=None,
            _source=None,
        ),
        home,
    )


def checked_name(name: object) -> str:
    """A job's name."""
    if not isinstance(name, str) or not 1 <= len(name) <= 100 or not name.isprintable():
        raise Misuse("a job has a name of 1 to 100 printable characters")
    return name


class Carrier:
    """Writes the current principal down for a queue, and lets the job that is named take it up."""

    def __init__(
        self,
        *,
        ring: SecretRing,
        home: Home,
        clock: Clock,
        journal: Journal,
        entropy: Entropy = fresh,
    ) -> None:
        self._stamp = Stamp(
            ring,
            Purpose.CARRY,
            home.environment,
            prefix="carry",
            longest=LONGEST_BODY,
            life=LONGEST_LIFE,
            error=InvalidCode,
            entropy=entropy,
        )
        self._clock = clock
        self._home = home
        self._journal = journal

    def carry(self, *, name: str, seconds: int = 3600) -> str:
        """The current principal's authority, for the job `name` alone, until `seconds` from now or its own end."""
        bind = checked_name(name).encode()
        principal = current_principal()
        if principal.org is None:
            raise Misuse("a job without an organization has nothing that could be carried: name one for it")
        now = self._clock.seconds()
        seconds = self._stamp.checked_life(seconds)
        if principal.expires_at is not None:
            seconds = min(seconds, principal.expires_at - now)
            if seconds < 1:
                raise Unauthenticated(Reason.EXPIRED)
        origin = principal.actor
        if isinstance(principal, JobPrincipal) and principal.origin is not None:
            origin = principal.origin  # carried once more, it still is the authority of whoever it came from
        source = _source(principal)
        kind, key_id = (None, None) if source is None else (source.kind, source.key_id)
        said = [principal.org, principal.environment, sorted(principal.scopes), origin, kind, key_id]
        text = self._stamp.make(canonical(said).encode(), now=now, seconds=seconds, bind=bind)
        self._note("context.carried", principal, name, origin)
        return text

    def resume(self, carried: str, *, name: str) -> Job:
        """A block in which the job `name` works with what was carried, no wider and no longer; else `InvalidCode`.

        The text says that the authority was there when it was carried: `recheck` asks whether it still is.
        """
        bind = checked_name(name).encode()
        stamped = self._stamp.read(carried, now=self._clock.seconds(), bind=bind)
        org, environment, scopes, origin, kind, key_id = json.loads(stamped.body)
        fields = {
            "org": org,
            "environment": environment,
            "scopes": frozenset(scopes),
            "expires_at": stamped.expires_at,
        }
        source = None if kind is None else verified(KEY_KINDS[kind], **fields, actor=origin, key_id=key_id)
        principal = verified(JobPrincipal, **fields, actor=f"job:{name}", name=name, origin=origin, _source=source)
        self._note("context.resumed", principal, name, origin)
        return Job(principal, self._home)

    def _note(self, event: str, principal: Principal, name: str, origin: str) -> None:
        self._journal.note(
            AuditEvent(
                name=event, org=principal.org, actor=principal.actor, target=f"job:{name}", data={"origin": origin}
            )
        )


def behind(principal: Principal, now: int) -> KeyPrincipal | None:
    """What has to live still for this principal: a key's is itself, of a resumed job what was carried, else nothing."""
    if isinstance(principal, JobPrincipal) and principal.expires_at is not None and now >= principal.expires_at:
        raise InvalidCode(Reason.EXPIRED)
    if isinstance(principal, (ConsumerPrincipal, MemberPrincipal)) and now >= principal.expires_at:
        raise InvalidToken(Reason.TOKEN_EXPIRED)
    return _source(principal)


def _source(principal: Principal) -> KeyPrincipal | None:
    if isinstance(principal, JobPrincipal):
        return principal._source  # noqa: SLF001 - made here
    return principal if isinstance(principal, (SecretPrincipal, PublishablePrincipal)) else None
