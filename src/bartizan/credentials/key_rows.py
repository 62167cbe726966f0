"""A key at rest: its row, the MAC that its secret must match, the MAC over the row itself, and its status. Pure."""

import json
from dataclasses import dataclass, fields, replace
from hmac import compare_digest
from typing import Any, Literal, NoReturn, cast

from bartizan.core.client import Networks
from bartizan.core.encoding import canonical, joined
from bartizan.core.principal import ENVIRONMENTS, Environment, PublishablePrincipal, SecretPrincipal, verified
from bartizan.core.ring import Begun, Purpose, SecretRing, Subkey
from bartizan.core.roots import Dependants
from bartizan.core.tables import NEVER, Added, Is, Table
from bartizan.credentials.key_text import KeyText, Kind, ParsedKey
from bartizan.errors import Forbidden, InvalidKey, Misuse, Reason, Unavailable

Status = Literal["active", "inactive", "expired", "revoked", "rotating"]
KeyPrincipal = SecretPrincipal | PublishablePrincipal


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """An API key as it is stored, looked up by `id`; there is no secret in it.

    `scopes`, `origins` and `networks` are canonical JSON; times are UTC seconds; `retires_at` is when a rotated key
    stops, `pepper` the id of the root secret under which both MACs were made. `mac` is None for a publishable key.
    `row_mac` covers every other column: an edit in SQL is as good as a wrong key. What has a default came later, and a
    row that was kept without it is the same row.
    """

    id: str
    org: str
    kind: str
    environment: str
    name: str
    scopes: str
    origins: str | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    disabled_at: int | None
    retires_at: int | None
    successor: str | None
    lineage: str
    version: int
    pepper: str
    mac: bytes | None
    row_mac: bytes
    networks: str | None = None
    native: int = 0


KEYS = Table(
    name="bartizan_keys", record=KeyRow, key="id", version=3, indexes=(("org", "id"), ("pepper", "id")),
    added={"networks": Added(3, None), "native": Added(3, 0)},
)  # fmt: skip
PEPPERED = Dependants(
    name="keys", purpose=Purpose.APIKEY_PEPPER, table=KEYS, column="pepper", made_at="created_at",
    living=(Is("revoked_at", "=", None),),  # what was revoked needs no secret to be refused
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What an organization may know of its key; `lineage` is the id of the first key of its rotations."""

    id: str
    org: str
    kind: Kind
    environment: Environment
    name: str
    scopes: frozenset[str]
    origins: frozenset[str] | None
    networks: frozenset[str] | None
    native: bool
    status: Status
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    lineage: str
    successor: str | None


class IssuedKey:
    """A new key: `key` is its text, shown this once, and `record` what stays."""

    __slots__ = ("key", "record")

    def __init__(self, key: str, record: KeyRecord) -> None:
        self.key: str = key
        self.record: KeyRecord = record

    def __repr__(self) -> str:
        return f"<IssuedKey {self.record.id}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a key is not copied or pickled")


def status(row: KeyRow, now: int) -> Status:
    """The row's status at `now`; what ends a key for good comes first. At `expires_at` itself it has expired."""
    if row.revoked_at is not None:
        return "revoked"
    if now >= ends_at(row):
        return "expired"
    if row.disabled_at is not None:
        return "inactive"
    return "active" if row.successor is None else "rotating"


def ends_at(row: KeyRow) -> int:
    """When the key stops by itself: the earlier of expiry and retirement, or `NEVER`."""
    return min([NEVER, *(t for t in (row.expires_at, row.retires_at) if t is not None)])


def record(row: KeyRow, now: int, last_used_at: int | None = None) -> KeyRecord:
    """The row as its organization may see it."""
    return KeyRecord(
        id=row.id,
        org=row.org,
        kind=cast("Kind", row.kind),
        environment=cast("Environment", row.environment),
        name=row.name,
        scopes=frozenset(json.loads(row.scopes)),
        origins=_set(row.origins),
        networks=_set(row.networks),
        native=bool(row.native),
        status=status(row, now),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=last_used_at,
        lineage=row.lineage,
        successor=row.successor,
    )


def listed(values: Any) -> str:
    """A collection of texts as a column keeps it."""
    return canonical(sorted(values))


def _set(column: str | None) -> frozenset[str] | None:
    return None if column is None else frozenset(json.loads(column))


_SEALED = tuple(f.name for f in fields(KeyRow) if f.name != "row_mac")
_LATER: dict[str, object] = {name: added.value for name, added in KEYS.added.items()}
_MARKS = {type(None): b"n", int: b"i", str: b"s", bytes: b"b"}


def _row_mac(key: Subkey, row: KeyRow) -> bytes:
    # The type is part of it: SQLite keeps text in a column of numbers if somebody writes it there.
    parts = [b"apikey-row/v1"]
    for name in _SEALED:
        value = getattr(row, name)
        if name in _LATER and type(value) is type(_LATER[name]) and value == _LATER[name]:
            continue  # as in rows of before the column, whose MAC stays what it was; the names tell which are there
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        parts += [name.encode(), _MARKS.get(type(value), b"?") + data]
    return key.mac(joined(*parts))


def _begun(key: Subkey, row: KeyRow) -> Begun:
    """The MAC of label, organization, kind, environment, id and secret, each behind its length, up to the secret."""
    head = joined(b"apikey/v1", row.org.encode(), row.kind.encode(), row.environment.encode(), row.id.encode())
    return key.begin(head + (43).to_bytes(4))


def pepper(ring: SecretRing, root_id: str, environment: str) -> Subkey:
    """The key of a row's MACs; a root that the ring lacks is `Unavailable`: nothing can be said of the row."""
    key = ring.subkey(root_id, Purpose.APIKEY_PEPPER, cast("Environment", environment))
    if key is None:
        raise Unavailable(Reason.SECRET_MISSING)
    return key


def sealed(ring: SecretRing, row: KeyRow, **changes: Any) -> KeyRow:
    """The row with these changes, its next version, under a MAC of its own root."""
    changed = replace(row, **changes, version=row.version + 1)
    return replace(changed, row_mac=_row_mac(pepper(ring, row.pepper, row.environment), changed))


def minted(ring: SecretRing, row: KeyRow, parsed: ParsedKey) -> KeyRow:
    """The row with both MACs under the newest root: a new one, or one whose key was presented and verified."""
    row = replace(row, pepper=ring.newest)
    key = pepper(ring, row.pepper, row.environment)
    if parsed.kind == "secret":
        row = replace(row, mac=_begun(key, row).finish(parsed._secret))  # noqa: SLF001 - the one reader of a secret
    return replace(row, row_mac=_row_mac(key, row))


def intact(ring: SecretRing, row: KeyRow) -> bool:
    """Whether the row is as we wrote it, every column of it."""
    if row.pepper not in ring:
        return False  # `Roots.ready` has refused a ring that lacks a root which records need: this one is no record's
    environment = row.environment if row.environment in ENVIRONMENTS else "live"
    expected = _row_mac(pepper(ring, row.pepper, environment), row)
    found: object = row.row_mac  # a store of somebody else's may hold anything
    return isinstance(found, bytes) and compare_digest(expected, found)


def lost(ring: SecretRing, row: KeyRow) -> bool:
    """Whether the row was revoked and its root has left the ring: it is believed to be dead, and nothing else of it."""
    return row.revoked_at is not None and row.pepper not in ring


class Entry:
    """All that can be known of a key before it is presented, worked out once for each read of its row.

    `verify` is one path for every outcome: an unknown id has an entry too, whose MAC nothing matches.
    """

    __slots__ = (
        "_begun", "_end", "_ends", "_environment", "_id", "_kind", "_mac", "_missing", "_stopped",
        "native", "networks", "older", "origins", "principal", "seen", "used",
    )  # fmt: skip

    def __init__(self, ring: SecretRing, row: KeyRow | None, text: KeyText) -> None:
        self._missing: Reason | None = None
        if row is None:
            self._missing = Reason.UNKNOWN_KEY
            row = _nobody(ring)
            intact(ring, row)  # an unknown id costs the MAC that a known one costs
        elif lost(ring, row):
            self._missing = Reason.KEY_REVOKED
            row = _nobody(ring)
        elif row.pepper not in ring:
            raise Unavailable(Reason.SECRET_MISSING)  # nothing can be said of it
        elif not intact(ring, row):
            self._missing = Reason.KEY_ROW_EDITED
            row = _nobody(ring)
        self._begun = _begun(pepper(ring, row.pepper, row.environment), row)
        self._mac = row.mac if row.mac is not None else b""
        self._id, self._kind, self._environment = row.id, row.kind, row.environment
        self._ends = ends_at(row)
        self._end = Reason.KEY_EXPIRED if row.successor is None else Reason.KEY_ROTATED
        self._stopped: Reason | None = None
        if row.revoked_at is not None:
            self._stopped = Reason.KEY_REVOKED
        elif row.disabled_at is not None:
            self._stopped = Reason.KEY_DISABLED
        self.seen: int = 0  # when it last verified, and when that was last noted: the service's
        self.used: int = 0
        self.older: KeyRow | None = None if row.pepper == ring.newest else row  # the row, if under an older root
        self.origins: frozenset[str] | None = _set(row.origins)
        self.native: bool = bool(row.native)
        self.networks: Networks | None = None if row.networks is None else Networks(json.loads(row.networks))
        kind: type[SecretPrincipal | PublishablePrincipal]
        kind = SecretPrincipal if row.kind == "secret" else PublishablePrincipal
        self.principal: KeyPrincipal = verified(
            kind,
            org=row.org,
            environment=row.environment,
            scopes=frozenset(json.loads(row.scopes)),
            expires_at=None if self._ends == NEVER else self._ends,
            actor=text.named(row.kind, row.environment, row.id),
            key_id=row.id,
        )

    def verify(self, parsed: ParsedKey, now: int) -> KeyPrincipal:
        """The caller, if the presented key is this one and lives at `now`; else `InvalidKey`."""
        self.proven(parsed)
        if self._stopped is not None or now >= self._ends:
            self.living(now)
        return self.principal

    def proven(self, parsed: ParsedKey) -> None:
        """Return if the presented key is this one, dead or alive; else `InvalidKey`."""
        matches = compare_digest(self._begun.finish(parsed._secret), self._mac)  # noqa: SLF001 - the one reader
        if self._missing is not None:
            raise InvalidKey(self._missing)
        # A publishable key has no secret: its row's MAC, checked above, is what speaks for it.
        if (
            not (matches or self._kind == "publishable")
            or parsed.kind != self._kind
            or parsed.environment != self._environment
            or parsed.id != self._id
        ):
            raise InvalidKey(Reason.WRONG_SECRET)

    def located(self, client: str | None) -> None:
        """Return if the key may be used from this address; None is one that cannot be told."""
        if self.networks is not None:
            if client is None:
                raise Forbidden(Reason.ADDRESS_UNKNOWN)
            if client not in self.networks:
                raise Forbidden(Reason.NETWORK_NOT_ALLOWED)

    def living(self, now: int) -> None:
        """Return while the key lives: for `verify`, and for what was admitted earlier."""
        if self._missing is not None or self._stopped is not None:
            raise InvalidKey(self._missing or self._stopped)
        if now >= self._ends:
            raise InvalidKey(self._end)


def _nobody(ring: SecretRing) -> KeyRow:
    """A row like any other that no key matches."""
    return KeyRow(
        id="0" * 16, org="-", kind="secret", environment="live", name="", scopes="[]", origins=None, created_at=0,
        expires_at=None, revoked_at=None, disabled_at=None, retires_at=None, successor=None, lineage="0" * 16,
        version=1, pepper=ring.newest, mac=bytes(32), row_mac=bytes(32),
    )  # fmt: skip


def unbelieved(ring: SecretRing, row: KeyRow) -> KeyRow:
    """An edited row, with nothing left of it but whose it is said to be and that it was stopped."""
    return replace(_nobody(ring), id=row.id, org=row.org, revoked_at=row.revoked_at, disabled_at=row.disabled_at)


def believed(ring: SecretRing, row: KeyRow) -> KeyRow | None:
    """The row if it is as we wrote it, or what is believed of one that was revoked under a root that has left."""
    if lost(ring, row):
        return unbelieved(ring, row)
    return row if intact(ring, row) else None
