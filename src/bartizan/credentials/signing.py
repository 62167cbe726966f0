"""The keys that sign our tokens: published before they sign, kept until what they signed is over.

A row is one key; its number is its place in the order. The one without `activated_at` is next, the one after it without
`retired_at` active, those with it retiring until `ends_at`. A row that was revoked holds no key any more, a retiring
one only the public half, so that no edit of its times makes it sign again.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from typing import Any

from bartizan.core.box import Box
from bartizan.core.cache import Cache
from bartizan.core.encoding import canonical, joined
from bartizan.core.events import AuditEvent, Journal, current_actor
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import Environment
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.roots import Dependants, Roots
from bartizan.core.tables import NEVER, AnyStep, Backend, Insert, Is, Now, Table, Update
from bartizan.credentials.jws import (
    ALGORITHMS,
    KeySet,
    SigningKey,
    VerificationKey,
    new_signing_key,
    signing_key,
    verification_key,
)
from bartizan.errors import Conflict, Misuse, NotFound, Reason, Unavailable

MAX_AGE = 300  # seconds for which others may keep our JWKS
MARGIN = 60  # seconds more that a retired key is kept, for clocks that differ
EARLY = 3600  # seconds by which our clock may be behind the store's before a key is activated late
TRIES = 20
PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyRow:
    """A signing key at rest. `scope` is environment and issuer, `sealed` a box with its JWK, bound to the row's id.

    Times are the store's, in UTC seconds; `root` is the id of the root secret under which the box was made.
    """

    id: str
    scope: str
    environment: str
    kid: str
    algorithm: str
    root: str
    sealed: bytes
    published_at: int
    activated_at: int | None
    retired_at: int | None
    revoked_at: int | None
    ends_at: int


SIGNING_KEYS = Table(
    name="bartizan_signing_keys", record=SigningKeyRow, key="id", expires="ends_at", indexes=(("scope", "id"),)
)
WRAPPED = Dependants(
    name="signing keys", purpose=Purpose.KEK, table=SIGNING_KEYS, column="root", made_at=None,
    living=(Is("revoked_at", "=", None),),
)  # fmt: skip

_UNUSED = (Is("activated_at", "=", None), Is("revoked_at", "=", None))
_SIGNING = (Is("retired_at", "=", None), Is("revoked_at", "=", None))


class Keyring:
    """The keys as one read of the store shows them: the one that signs, all that verify, and what is published."""

    __slots__ = ("active", "etag", "jwks", "keys", "next", "rows", "signs", "verify")

    def __init__(self, rows: Sequence[SigningKeyRow], keys: dict[str, SigningKey | VerificationKey]) -> None:
        self.rows: Sequence[SigningKeyRow] = rows
        self.keys: dict[str, SigningKey | VerificationKey] = keys
        living = [row for row in rows if row.revoked_at is None]
        self.next: SigningKeyRow | None = next((row for row in living if row.activated_at is None), None)
        self.active: SigningKeyRow | None = next(
            (row for row in living if row.activated_at is not None and row.retired_at is None), None
        )
        self.signs: SigningKey | None = None
        verify = []
        for row in living:
            key = keys.get(row.id)
            if isinstance(key, SigningKey):
                if row is self.active:
                    self.signs = key
                key = key.verification
            if key is not None:
                verify.append(key)
        self.verify: KeySet = KeySet({key.kid: key for key in verify}.values())
        self.jwks: bytes = canonical({"keys": [key.public for key in self.verify if key.public is not None]}).encode()
        self.etag: str = f'"{sha256(self.jwks).hexdigest()[:32]}"'


class SigningKeys:
    """The signing keys of one issuer in one environment. They rotate themselves; `rotate` does it now.

    Any method raises `Unavailable` where the store fails.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        ring: SecretRing,
        roots: Roots,
        environment: Environment,
        issuer: str,
        algorithm: str,
        days: int,
        longest: int,
        staleness: float,
        clock: Clock,
        cache: Cache[Keyring],
        journal: Journal,
        wake: Callable[[], object] = lambda: None,
        max_age: int = MAX_AGE,
        entropy: Entropy = fresh,
    ) -> None:
        self._backend = backend
        self._waits = waits
        self._box = Box(ring, environment, entropy)
        self._newest = ring.newest
        self._used_roots = roots
        self._environment = environment
        self._issuer = issuer
        self._scope = f"{environment} {issuer}"
        self._algorithm = algorithm
        self._due = Now(-days * 86_400)
        self.max_age: int = max_age
        self._lead = Now(-(2 * max_age + ceil(staleness)))  # every copy of the JWKS has the next key by then
        self._hold = Now(longest + ceil(staleness) + MARGIN)  # nothing that it signed lives longer
        self._clock = clock
        self._cache = cache
        self._journal = journal
        self._entropy = entropy
        self._wake = wake
        self._opened: dict[tuple[str, bytes], SigningKey | VerificationKey] = {}
        self._warned = False

    # --- for those who sign and verify ---

    async def current(self) -> Keyring:
        """The keys, at most as old as the staleness bound; the first ones are made where there are none."""
        found = self._cache.get(self._scope)
        if found is not None:
            return found
        mark = self._cache.begin()
        return await self._waits.shared(f"{mark.drops} {self._scope}", self._load)

    async def signing(self) -> SigningKey:
        """The active key."""
        signs = (await self.current()).signs
        if signs is None:
            raise Unavailable(Reason.SEAL_BROKEN)
        return signs

    async def jwks(self) -> dict[str, Any]:
        """The public keys as a JWKS (RFC 7517): what signs, what will, and what did. A secret key is never in it."""
        found: dict[str, Any] = json.loads((await self.current()).jwks)
        return found

    # --- management ---

    async def rotate(self) -> str:
        """The `kid` that signs from now on: the next key, and another is published in its place.

        `Conflict` where the next key was not published for long enough that all who verify have it: `revoke` is for
        emergencies. Who loses against somebody else's rotation is given what that one made.
        """
        return await self._waits.finish(self._rotate())

    async def revoke(self, kid: str) -> None:
        """End a key now: what it signed is refused everywhere within the staleness bound, ours, or JWKS max-age.

        If it was the active one, the next one signs at once, however short it has been published. After a leak of the
        store revoke the next one first and the active one then.
        """
        await self._waits.finish(self._revoke(kid))

    async def upkeep(self) -> None:
        """Activate the next key where the active one has had its days, and seal again what is under an older root."""
        await self._used_roots.serving()
        await self._backend.purge(SIGNING_KEYS)
        ring = await self._read()
        if ring.active is None or ring.next is None:
            return
        # The store's clock decides; ours only spares it a new key and a change that would come hours too early.
        if self._clock.seconds() + EARLY >= (ring.active.activated_at or 0) - self._due.plus:
            await self._swap(ring, ring.next, due=True)
        for row in (ring.active, ring.next):
            if row.root != self._newest and await self._used_roots.renews(Purpose.KEK, row.environment, row.root):
                sealed = self._box.rewrap(row.sealed, context=self._context(row))
                where = (Is("sealed", "=", row.sealed),)
                step = Update(SIGNING_KEYS, row.id, where, (("sealed", sealed), ("root", self._newest)))
                await self._used_roots.change(Purpose.KEK, row.environment, step)

    async def _rotate(self) -> str:
        for _ in range(2):  # the second where somebody else was the first to use this root
            ring = await self._fresh()
            if ring.next is None:
                break
            if await self._swap(ring, ring.next):
                return ring.next.kid
            now = (await self._fresh()).active
            if now is not None and (ring.active is None or now.kid != ring.active.kid):
                return now.kid
        raise Conflict

    async def _swap(self, ring: Keyring, following: SigningKeyRow, *, due: bool = False) -> bool:
        """One change: the next key signs, the active one retires, a new one is next. By the store's clock."""
        where = (*_UNUSED, Is("published_at", "<=", self._lead))
        step = Update(SIGNING_KEYS, following.id, where, (("activated_at", Now()),))
        also: list[AnyStep] = [self._following(following)]
        row = ring.active
        if row is not None:
            condition = (*_SIGNING, Is("activated_at", "<=", self._due)) if due else _SIGNING
            key = ring.keys.get(row.id)
            left = self._sealed(row, key.verification) if isinstance(key, SigningKey) else row
            retired = (("retired_at", Now()), ("ends_at", self._hold), ("sealed", left.sealed), ("root", left.root))
            also.append(Update(SIGNING_KEYS, row.id, condition, retired))
        also += self._journal.within(self._event("signing_key.rotated", following.kid))
        return await self._changed(step, also)

    async def _revoke(self, kid: str) -> None:
        for _ in range(TRIES):
            ring = await self._fresh()
            row = next((row for row in ring.rows if row.kid == kid), None)
            if row is None:
                raise NotFound(Reason.NO_RECORD)
            if row.revoked_at is not None:
                return
            also: list[AnyStep] = list(self._journal.within(self._event("signing_key.revoked", kid)))
            where: tuple[Is, ...] = (Is("revoked_at", "=", None),)
            if row is ring.next:
                where = _UNUSED
                also.append(self._following(row))
            elif row is ring.active and ring.next is not None:
                where = _SIGNING
                also.append(Update(SIGNING_KEYS, ring.next.id, _UNUSED, (("activated_at", Now()),)))
                also.append(self._following(ring.next))
            ended = (("revoked_at", Now()), ("ends_at", Now()), ("sealed", b""))
            if await self._changed(Update(SIGNING_KEYS, row.id, where, ended), also):
                return
        raise Unavailable(Reason.STORE_BUSY)

    async def _fresh(self) -> Keyring:
        return await self._load(anew=True)

    async def _load(self, *, anew: bool = False) -> Keyring:
        await self._used_roots.serving()
        self._wake()
        for _ in range(TRIES):
            mark = self._cache.begin()
            ring = await self._read()
            if ring.active is not None or ring.next is not None:
                if not anew:
                    self._cache.put(self._scope, ring, mark)
                return ring
            first = self._new(1)
            step = Insert(SIGNING_KEYS, first, set=(("published_at", Now()), ("activated_at", Now())))
            event = self._event("signing_key.created", first.kid)
            await self._changed(step, [self._following(first), *self._journal.within(event)])
        raise Unavailable(Reason.STORE_BUSY)

    async def _read(self) -> Keyring:
        rows: list[SigningKeyRow] = []
        scope = (Is("scope", "=", self._scope),)
        while len(page := await self._backend.find(SIGNING_KEYS, scope, after=rows[-1].id if rows else "")) == PAGE:
            rows += page
        rows += page
        now = self._clock.seconds()
        keys = {}
        for row in rows:
            if row.revoked_at is None and now < row.ends_at:
                key = self._opened.get((row.id, row.sealed)) or self._open(row)
                if key is not None:
                    keys[row.id] = key
        self._opened = {(row.id, row.sealed): keys[row.id] for row in rows if row.id in keys}
        ring = Keyring(rows, keys)
        signs = ring.signs
        if signs is not None and signs.verification.algorithm != self._algorithm and not self._warned:
            self._warned = True
            warnings.warn("algorithm= is not the active signing key's: rotate() twice, a lead apart", stacklevel=2)
        return ring

    async def _changed(self, step: Insert[Any] | Update[Any], also: Sequence[AnyStep]) -> bool:
        try:
            return await self._used_roots.change(Purpose.KEK, self._environment, step, also=also) is not None
        finally:
            self._cache.drop(self._scope)

    def _following(self, row: SigningKeyRow) -> Insert[SigningKeyRow]:
        """A new key right behind this one: two who make it at once collide, and one of them has made it."""
        return Insert(SIGNING_KEYS, self._new(int(row.id[-8:]) + 1), set=(("published_at", Now()),))

    def _new(self, number: int) -> SigningKeyRow:
        key = new_signing_key(self._algorithm, self._entropy)
        row = SigningKeyRow(
            id=f"{self._scope} {number:08}", scope=self._scope, environment=self._environment,
            kid=key.verification.kid, algorithm=self._algorithm, root="", sealed=b"",
            published_at=0, activated_at=None, retired_at=None, revoked_at=None, ends_at=NEVER,
        )  # fmt: skip
        return self._sealed(row, key)

    def _sealed(self, row: SigningKeyRow, key: SigningKey | VerificationKey) -> SigningKeyRow:
        jwk = key.private_jwk() if isinstance(key, SigningKey) else key.public
        if jwk is None:
            return row  # a secret key has no public half: it stays as it is until it ends
        sealed = self._box.seal(canonical(jwk).encode(), context=self._context(row))
        return replace(row, sealed=sealed, root=self._newest)

    def _open(self, row: SigningKeyRow) -> SigningKey | VerificationKey | None:
        try:
            jwk = json.loads(self._box.open(row.sealed, context=self._context(row)))
            if row.algorithm not in ALGORITHMS:
                raise Unavailable(Reason.SEAL_BROKEN)
            allowed = {row.algorithm}
            return signing_key(jwk, allowed) if jwk.keys() & {"d", "k"} else verification_key(jwk, allowed)
        except Unavailable as error:
            # One row that does not open takes no other with it; that a root is missing was found before.
            event = self._event("signing_key.row_edited", row.kid)
            event.outcome, event.reason = "refused", error.reason
            self._journal.note(event)
            return None

    def _context(self, row: SigningKeyRow) -> bytes:
        return joined(b"signing-key/v1", *(text.encode() for text in (self._scope, row.id, row.kid, row.algorithm)))

    @staticmethod
    def _event(name: str, kid: str) -> AuditEvent:
        return AuditEvent(name=name, org=None, actor=current_actor(), target=kid)


def checked_issuer(issuer: object) -> str:
    """An issuer's name: a StringOrURI of RFC 7519, 1 to 255 printable characters without spaces."""
    if not isinstance(issuer, str) or not 1 <= len(issuer) <= 255 or not issuer.isprintable() or " " in issuer:
        raise Misuse("issuer is the name in the tokens: 1 to 255 printable characters without spaces")
    return issuer
