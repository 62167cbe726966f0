"""API keys without a store: what a key looks like, how one is made, and how one is verified against its row."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from re import compile as regex

from bartizan.core.client import checked_networks, client_of
from bartizan.core.ports import Entropy, fresh
from bartizan.core.principal import ENVIRONMENTS, Environment, checked_org
from bartizan.core.requirement import checked_scopes
from bartizan.core.ring import SecretRing
from bartizan.core.tables import LARGEST
from bartizan.credentials.key_rows import (
    Entry,
    IssuedKey,
    KeyPrincipal,
    KeyRecord,
    KeyRow,
    believed,
    listed,
    minted,
    record,
    sealed,
    status,
)
from bartizan.credentials.key_text import KINDS, KeyText, Kind, ParsedKey
from bartizan.errors import Conflict, InvalidKey, Misuse, Reason, Unavailable

LONGEST_ORIGIN = 270  # a name has 253 characters at most (RFC 1035 section 2.3.4)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ORIGIN = regex(rf"https://(?:\*\.{_LABEL}(?:\.{_LABEL})+|{_LABEL}(?:\.{_LABEL})*(?::[1-9][0-9]{{0,4}})?)")


class KeyFormat:
    """The keys of one deployment and environment, for a service that keeps the rows in a table of its own.

    `issue` gives a key to show once and a row to keep; `verify` takes what was presented and the row found under
    `parse(text).id`, or None where there is none, which takes the same time. `secrets` are root secrets, newest first.
    """

    def __init__(self, secrets: Sequence[str], *, environment: Environment, key_prefix: str | None = None) -> None:
        self._begin(SecretRing(secrets), environment, key_prefix, fresh)

    @classmethod
    def over(
        cls, ring: SecretRing, *, environment: Environment, key_prefix: str | None, entropy: Entropy = fresh
    ) -> "KeyFormat":
        """The same over a ring that is there."""
        made = cls.__new__(cls)
        made._begin(ring, environment, key_prefix, entropy)  # noqa: SLF001 - a second constructor
        return made

    def _begin(self, ring: SecretRing, environment: Environment, key_prefix: str | None, entropy: Entropy) -> None:
        self._ring = ring
        self._environment = checked_environment(environment)
        self._entropy = entropy
        self.text: KeyText = KeyText(key_prefix)

    def parse(self, text: str) -> ParsedKey:
        """The parts of a key, without a look at any row: `kind`, `environment`, `id`; else `InvalidKey`."""
        return self.text.parse(text)

    def issue(
        self,
        *,
        org: str,
        kind: Kind,
        scopes: Collection[str] = (),
        name: str = "",
        expires_at: int | None = None,
        origins: Collection[str] | None = None,
        networks: Collection[str] | None = None,
        native: bool = False,
        environment: Environment | None = None,
        now: int,
    ) -> tuple[IssuedKey, KeyRow]:
        """A new key and its row. Times are UTC seconds; None is no restriction.

        `origins` restrict a publishable key to web pages, and with `native` to what is no browser too; `networks`
        restrict a key of either kind to addresses.
        """
        environment = self._environment if environment is None else checked_environment(environment)
        checked_org(org)
        if kind not in KINDS:
            raise Misuse("a key's kind is secret or publishable")
        if len(name) > 200 or not name.isprintable():
            raise Misuse("a key's name is at most 200 printable characters")
        if expires_at is not None and not now < checked_seconds(expires_at):
            raise Misuse("expires_at is in the past: UTC seconds, later than now")
        if origins is not None and kind != "publishable":
            raise Misuse("origins restrict publishable keys: a secret key never is in a browser")
        if native and origins is None:
            raise Misuse("native goes with origins: a key without them is good for an app already")
        allowed = None if origins is None else listed(checked_origins(origins))
        located = None if networks is None else listed(checked_networks(networks))
        text, parsed = self.text.new(kind, environment, self._entropy)
        row = KeyRow(
            id=parsed.id, org=org, kind=kind, environment=environment, name=name, scopes=listed(checked_scopes(scopes)),
            origins=allowed, created_at=checked_seconds(now), expires_at=expires_at, revoked_at=None, disabled_at=None,
            retires_at=None, successor=None, lineage=parsed.id, version=1, pepper="", mac=None, row_mac=b"",
            networks=located, native=int(bool(native)),
        )  # fmt: skip
        row = minted(self._ring, row, parsed)
        return IssuedKey(text, record(row, now)), row

    def succeed(self, row: KeyRow, *, now: int) -> tuple[IssuedKey, KeyRow]:
        """A successor: another id and secret, and everything else as the row has it, its expiry and lineage too."""
        kind: Kind = "secret" if row.kind == "secret" else "publishable"
        environment: Environment = "live" if row.environment == "live" else "test"
        text, parsed = self.text.new(kind, environment, self._entropy)
        new = minted(self._ring, replace(row, id=parsed.id, created_at=now, version=1), parsed)
        return IssuedKey(text, record(new, now)), new

    def entry(self, row: KeyRow | None) -> Entry:
        """A row made ready for many verifications."""
        return Entry(self._ring, row, self.text)

    def verify(self, text: str, row: KeyRow | None, *, now: int, address: str | None = None) -> KeyPrincipal:
        """The caller; `InvalidKey` for whatever is wrong, always the same to see; `Unavailable` for a lost pepper.

        `address` is the client's; a key with `networks` is `Forbidden` from any other, and without one.
        """
        parsed: ParsedKey = self.parse(text)
        entry = self.entry(row)
        principal = entry.verify(parsed, now)
        if principal.environment != self._environment:
            raise InvalidKey(Reason.WRONG_ENVIRONMENT)
        entry.located(None if address is None else client_of(address))
        return principal

    def record(self, row: KeyRow, *, now: int) -> KeyRecord:
        """What the key's organization may know of it, its `status` too; `InvalidKey` for an edited row."""
        return record(self._whole(row), now)

    def revoke(self, row: KeyRow, *, now: int) -> KeyRow:
        """The row to keep in this one's place: the key has ended for good. Again is no change."""
        return self._stopped(row, "revoked_at", now)

    def disable(self, row: KeyRow, *, now: int) -> KeyRow:
        """The row to keep in this one's place: the key is stopped until it is enabled. Again is no change."""
        return self._stopped(row, "disabled_at", now)

    def enable(self, row: KeyRow, *, now: int) -> KeyRow:
        """The row of a key that works again; `Conflict` for one that was revoked or has expired."""
        row = self._whole(row)
        if status(row, now) in {"revoked", "expired"}:
            raise Conflict
        return row if row.disabled_at is None else sealed(self._ring, row, disabled_at=None)

    def _stopped(self, row: KeyRow, column: str, now: int) -> KeyRow:
        row = self._whole(row)
        if row.revoked_at is not None or getattr(row, column) is not None:
            return row
        return sealed(self._ring, row, **{column: checked_seconds(now)})

    def _whole(self, row: KeyRow) -> KeyRow:
        whole = believed(self._ring, row)
        if whole is not None:
            return whole
        if row.pepper not in self._ring:
            raise Unavailable(Reason.SECRET_MISSING)  # nothing can be said of it
        raise InvalidKey(Reason.KEY_ROW_EDITED)


def checked_environment(environment: Environment) -> Environment:
    """`live` or `test`; anything else is `Misuse`."""
    if environment not in ENVIRONMENTS:
        raise Misuse('environment is "live" or "test"')
    return environment


def checked_seconds(seconds: object) -> int:
    """A time in UTC seconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds <= LARGEST:
        raise Misuse("times are whole UTC seconds")
    return seconds


def checked_origins(origins: Collection[str]) -> frozenset[str]:
    """`https://host[:port]` or `https://*.host`, in the form in which a browser sends them (RFC 6454 section 6.2)."""
    if isinstance(origins, str) or not origins:
        raise Misuse("origins is a collection of at least one origin; None is no restriction")
    for origin in origins:
        if not _ORIGIN.fullmatch(origin) or len(origin) > LONGEST_ORIGIN or origin.endswith(":443"):
            raise Misuse("an origin is https://host[:port] or https://*.host: lower case, ASCII, no path, no :443")
    return frozenset(origins)


def origin_allowed(allowed: frozenset[str], origin: str) -> bool:
    """Whether the value of an `Origin` header is one of `allowed`, or below the host of one that begins with `*.`."""
    if len(origin) > LONGEST_ORIGIN or "*" in origin or not _ORIGIN.fullmatch(origin):
        return False
    if origin in allowed:
        return True
    host = origin.removeprefix("https://")
    labels = host.split(".")
    return any("https://*." + ".".join(labels[i:]) in allowed for i in range(1, len(labels)))
