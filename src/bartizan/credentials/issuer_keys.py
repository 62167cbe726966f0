"""The keys of outside issuers: fetched when they are needed, kept while they cannot be, and asked for at most so often.

A request waits for a fetch only where nothing that is held can answer it: before the first, and for a key that nobody
has seen. What is older than `FRESH` still answers and is fetched again by the upkeep thread.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from re import compile as pattern
from threading import Lock
from typing import Any

from bartizan.core.cache import Cache
from bartizan.core.encoding import loose_base64url, parsed
from bartizan.core.events import AuditEvent, Journal
from bartizan.core.ports import Clock, Fetch, Waits
from bartizan.core.principal import Environment, MemberPrincipal
from bartizan.credentials.issuers import DISCOVERY, Issuer
from bartizan.credentials.jwks import published_key_set
from bartizan.credentials.jws import KeySet
from bartizan.credentials.tokens import MOST_BYTES, Remembering, VerifiedToken, read_only
from bartizan.errors import InvalidToken, Misuse, Reason, Unavailable

FRESH = 300  # seconds that keys are used without looking again
STALEST = 86400  # seconds after which keys that could not be fetched again are none
COOLDOWN = 10  # seconds from one fetch to the next, whoever asks for whatever
LONGEST_FETCH = 180  # seconds; one that has not ended by then never will: its process was forked
ABSENT = 60  # seconds in which a header whose key was looked for, and not found, causes no further fetch
MANY_ABSENT = 1000
MANY_ROUTES = 10_000
TAIL = 64  # characters of a signature, by which a token that verified is known again
MENTIONS = 8  # of an `iss` in a payload that are looked at
FEW = 100  # braces, brackets and commas of a payload that is read before its signature has been checked

NEVER = -(2**62)
_NOBODY: "tuple[bytes, IssuerKeys | None]" = b"", None
_MENTION = pattern(rb'"iss"[ \t\r\n]{0,9}:[ \t\r\n]{0,9}"([^"]*)"')


class IssuerKeys:
    """One issuer's keys, of both forms: the lock guards these few fields, and nothing waits while it is held."""

    __slots__ = (
        "_asks", "_clock", "_environment", "_fixed", "_held", "_lock", "_reader", "_tried", "_wake", "absent", "busy",
        "issuer", "wanted",
    )  # fmt: skip

    def __init__(self, issuer: Issuer, *, environment: Environment, clock: Clock, wake: Callable[[], object]) -> None:
        self.issuer: Issuer = issuer
        self._environment = environment
        self._clock = clock
        # A function of the application's is asked each time; what a table says of a token stays as it is.
        self._asks = callable(issuer.organizations)
        made = read_only if self._asks else self._stands_for
        self._reader: Remembering[VerifiedToken | MemberPrincipal] = Remembering(issuer.policy, made)
        self.absent: Cache[bool] = Cache(clock=clock, staleness=ABSENT, size=MANY_ABSENT)
        self.wanted: bool = False
        self.busy: bool = False
        self._fixed = issuer.fixed_keys()
        self._held: tuple[KeySet | None, int] = (None, NEVER)
        self._lock = Lock()
        self._tried = NEVER
        self._wake = wake

    def member(self, token: str, keys: KeySet, now: int) -> MemberPrincipal:
        """Whom `token` stands for, if one of `keys` signed it; else `InvalidToken`."""
        found = self._reader.verify(token, keys, now)
        return found if isinstance(found, MemberPrincipal) else self._whom(found, now)

    def _stands_for(self, subject: str, expires_at: int, claims: Mapping[str, Any]) -> MemberPrincipal:
        return self._whom(read_only(subject, expires_at, claims), self._clock.seconds())

    def _whom(self, token: VerifiedToken, now: int) -> MemberPrincipal:
        return self.issuer.member(token, environment=self._environment, now=now)

    def current(self, now: int) -> KeySet | None:
        """The keys that may be used at `now`; None where there are none, or none that are young enough."""
        if self._fixed is not None:
            return self._fixed
        keys, at = self._held
        age = now - at
        if keys is None or not 0 <= age < STALEST:  # a clock that steps back leaves nothing of a known age
            return None
        if age >= FRESH:
            self.wanted = True
            self._wake()
        return keys

    def askable(self, now: int) -> bool:
        """Whether it is of use to ask for a fetch at `now`, or to wait for the one that is under way."""
        if self._fixed is not None:
            return False
        return self.busy or not 0 <= now - self._tried < COOLDOWN

    def begin(self, now: int) -> bool:
        """Whether the caller is the one that fetches; it says `end` when it has."""
        with self._lock:
            since = now - self._tried
            if 0 <= since < COOLDOWN or (self.busy and 0 <= since < LONGEST_FETCH):
                return False
            self.busy, self._tried, self.wanted = True, now, False
            return True

    def end(self, keys: KeySet | None, began: int) -> None:
        """The fetch is over; without `keys` it failed, and what is held stays."""
        with self._lock:
            if keys is not None:
                self._held = (keys, began)
            self.busy = False

    def __repr__(self) -> str:
        return f"<IssuerKeys of {self.issuer.url}>"


class Outside:
    """The outside issuers of one `Bartizan`: what both forms share."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        environment: Environment,
        clock: Clock,
        journal: Journal,
        wake: Callable[[], object],
    ) -> None:
        if isinstance(issuers, (str, Issuer)) or not all(isinstance(each, Issuer) for each in issuers):
            raise Misuse("issuers is a sequence of Issuer values")
        self.environment: Environment = environment
        self.clock: Clock = clock
        self.journal: Journal = journal
        self.known: Mapping[str, IssuerKeys] = {
            i.url: IssuerKeys(i, environment=environment, clock=clock, wake=wake) for i in issuers
        }
        if len(self.known) != len(issuers):
            raise Misuse("two issuers have the same url")
        self.fetches: bool = any(not isinstance(each.jwks, Mapping) for each in issuers)

    def form(self, fetch: Fetch | None, waits: Waits) -> "Issuers":
        """The service of one form; without `fetch` it has the keys that are given or held, and no others."""
        return Issuers(self, fetch=fetch, waits=waits)


class Issuers:
    """Verifies members' tokens in one form."""

    def __init__(self, outside: Outside, *, fetch: Fetch | None, waits: Waits) -> None:
        self.environment: Environment = outside.environment
        self.clock: Clock = outside.clock
        self.known: Mapping[str, IssuerKeys] = outside.known
        self._journal = outside.journal
        self._fetch = fetch
        self._waits = waits
        self._by_url = {url.encode(): keys for url, keys in outside.known.items()}
        self._routes: dict[bytes, IssuerKeys] = {}
        self._last = _NOBODY
        self._only: IssuerKeys | None = next(iter(self.known.values())) if len(self.known) == 1 else None

    def named(self, presented: bytes) -> IssuerKeys | None:
        """The issuer that a token says it is from, if it is one of ours.

        That chooses where its key is looked up; nothing of it is believed before that key has verified it.
        """
        route = self._routes.get(presented[-TAIL:])
        if route is not None:
            return route
        last, found = self._last  # the gate asks whose it is, and then gives the very same bytes to be verified
        if last is not presented:
            found = named_in(presented, self._by_url)
            self._last = presented, found
        return found

    async def authenticate(self, presented: bytes) -> MemberPrincipal:
        """The member that a token stands for; `InvalidToken`, or `Unavailable` where its issuer's keys are."""
        if len(presented) > MOST_BYTES:
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        tail = presented[-TAIL:]
        route = self._only or self._routes.get(tail)
        keys = route or self._once_named(presented)
        token, now = presented.decode("latin-1"), self.clock.seconds()
        held = keys.current(now)
        member: MemberPrincipal | None = None
        try:
            if held is not None:
                member = keys.member(token, held, now)
        except InvalidToken as error:
            unknown = error.reason is Reason.UNKNOWN_SIGNING_KEY
            if not unknown or not keys.askable(now) or keys.absent.get(_kid_of(token)):
                raise
        if member is None:
            member = await self._asked(keys, token, held, now)
        if route is None:
            if len(self._routes) >= MANY_ROUTES:
                self._routes.clear()
            self._routes[tail] = keys
        return member

    def _once_named(self, presented: bytes) -> IssuerKeys:
        keys = self.named(presented)
        self._last = _NOBODY
        if keys is None:
            raise InvalidToken(Reason.WRONG_ISSUER)
        return keys

    async def _asked(self, keys: IssuerKeys, token: str, held: KeySet | None, now: int) -> MemberPrincipal:
        """The member, after a fetch: nothing that is held answers."""
        fetch = self._fetch
        if fetch is None or (held is None and not keys.askable(now)):
            raise Unavailable(Reason.ENDPOINT_FAILED)
        mark = keys.absent.begin()
        await self._waits.shared(f"issuer {keys.issuer.url}", lambda: self._refresh(keys, fetch))
        now = self.clock.seconds()
        newer = keys.current(now)
        if newer is None:
            raise Unavailable(Reason.ENDPOINT_FAILED)
        try:
            return keys.member(token, newer, now)
        except InvalidToken as error:
            if error.reason is Reason.UNKNOWN_SIGNING_KEY:
                if keys.busy:  # the other form is fetching, and whether its answer has the key nobody knows yet
                    raise Unavailable(Reason.ENDPOINT_FAILED) from None
                if newer is not held:
                    keys.absent.put(_kid_of(token), True, mark)
            raise

    async def revalidate(self) -> None:
        """Fetch again what was used after it had grown stale. For the upkeep thread."""
        for keys in self.known.values():
            if keys.wanted and self._fetch is not None:
                await self._refresh(keys, self._fetch)

    async def _refresh(self, keys: IssuerKeys, fetch: Fetch) -> None:
        began = self.clock.seconds()
        if not keys.begin(began):
            return
        found: KeySet | None = None
        try:
            found = await self._loaded(keys.issuer, fetch)
        except Misuse:
            raise
        except (Unavailable, ValueError) as error:  # no answer, or one that is no JSON and no JWKS
            reason = error.reason if isinstance(error, Unavailable) else Reason.ENDPOINT_FAILED
            self._journal.note(
                AuditEvent(
                    name="issuer.unreadable",
                    org=None,
                    actor="system",
                    target=keys.issuer.url,
                    outcome="refused",
                    reason=reason,
                )
            )
        finally:
            keys.end(found, began)

    async def _loaded(self, issuer: Issuer, fetch: Fetch) -> KeySet:
        jwks = issuer.jwks if isinstance(issuer.jwks, str) else await self._discovered(fetch, issuer)
        return published_key_set(await fetch(jwks, issuer.endpoint), issuer.algorithms)

    async def _discovered(self, fetch: Fetch, issuer: Issuer) -> str:
        """The `jwks_uri` of an issuer's metadata, whose `issuer` is exactly it (OpenID Connect Discovery 4.3)."""
        document = parsed(await fetch(issuer.url.removesuffix("/") + DISCOVERY, issuer.endpoint))
        jwks = document.get("jwks_uri") if isinstance(document, dict) else None
        if not isinstance(jwks, str) or document.get("issuer") != issuer.url:
            raise ValueError("no metadata of this issuer")
        return jwks


def _kid_of(token: str) -> str:
    """The header, which is the kid's place: it names the key, and is the same for all that it signed."""
    return token.partition(".")[0]


def named_in(presented: bytes, known: Mapping[bytes, IssuerKeys]) -> IssuerKeys | None:
    r"""Which of the known issuers the payload of a token names, which nobody has verified; None where it names none.

    This looks for an `iss` and reads no JSON, which would be long work on what a stranger sends. Where there are
    several, since `act` (RFC 8693) has one of its own, a short payload is read, and of a long one the `iss` outside all
    braces but the first counts. A name written with escapes, `\/` aside, is none.
    """
    parts: Sequence[bytes] = presented.split(b".", 3) if len(presented) <= MOST_BYTES else ()
    payload = loose_base64url(parts[1]) if len(parts) == 3 else b""
    mentions = [(it.start(), it[1].replace(b"\\/", b"/")) for it in islice(_MENTION.finditer(payload), MENTIONS)]
    found = [(at, known[url]) for at, url in mentions if url in known]
    if len({id(issuer) for _, issuer in found}) < 2:
        return found[0][1] if found else None
    if sum(payload.count(each) for each in (b"{", b"[", b",")) <= FEW:
        try:
            claims = parsed(payload)
        except ValueError:
            return None
        issuer = claims.get("iss") if isinstance(claims, dict) else None
        return known.get(issuer.encode()) if isinstance(issuer, str) else None
    depth = seen = 0
    for at, named in found:
        depth += payload.count(b"{", seen, at) - payload.count(b"}", seen, at)
        seen = at
        if depth == 1:
            return named
    return None
