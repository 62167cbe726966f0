"""Whom webhooks are sent to, at rest: the row of an endpoint, the box in it with its secrets and headers. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn, cast

from bartizan.core.box import Box
from bartizan.core.encoding import canonical, joined
from bartizan.core.principal import Environment
from bartizan.core.ring import Purpose
from bartizan.core.roots import Dependants
from bartizan.core.tables import Table
from bartizan.errors import Misuse, Reason, Unavailable
from bartizan.webhooks.delivery import Health, Outcome
from bartizan.webhooks.keys import NamedSecret, WebhookSecrets

Why = Literal["", "gone", "failing", "asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRow:
    """An endpoint as it is stored. `sealed` is a box with its secrets and its own headers, bound to id, organization,
    environment and URL, so that none of these is edited and no box moved: it would not open.

    Times are UTC seconds; `root` is the id of the root secret under which the box was made; `failures` in a row since
    `failing_since`; `why` it was switched off at `disabled_at`.
    """

    id: str
    org: str
    environment: str
    url: str
    name: str
    root: str
    sealed: bytes
    created_at: int
    failures: int
    failing_since: int | None
    disabled_at: int | None
    why: str
    version: int


WEBHOOK_ENDPOINTS = Table(
    name="bartizan_webhook_endpoints", record=EndpointRow, key="id", indexes=(("org", "id"), ("root", "id"))
)
SEALED = Dependants(
    name="webhook endpoints", purpose=Purpose.KEK, table=WEBHOOK_ENDPOINTS, column="root", made_at=None, living=()
)


class Contents:
    """What is in the box: the secrets, newest first, and the headers that the endpoint's owner added."""

    __slots__ = ("headers", "secrets")

    def __init__(self, secrets: WebhookSecrets, headers: Mapping[str, str]) -> None:
        self.secrets: WebhookSecrets = secrets
        self.headers: Mapping[str, str] = headers

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a secret is not copied or pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSecret:
    """The name of a secret, and when it ends (UTC seconds), or None for the newest."""

    name: str
    until: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRecord:
    """What an organization may know of its endpoint: of its headers the names, of its secrets names and ends.

    `why` a disabled one is off: `gone` (it answered 410), `failing` (too often, for too long), or `asked`.
    """

    id: str
    org: str
    environment: Environment
    url: str
    name: str
    status: Literal["active", "disabled"]
    why: Why
    created_at: int
    disabled_at: int | None
    failures: int
    failing_since: int | None
    headers: frozenset[str]
    secrets: tuple[EndpointSecret, ...]


class IssuedEndpoint:
    """`secret` is what the receiver verifies with, shown this once, and `record` what stays."""

    __slots__ = ("record", "secret")

    def __init__(self, secret: str, record: EndpointRecord) -> None:
        self.secret: str = secret
        self.record: EndpointRecord = record

    def __repr__(self) -> str:
        return f"<IssuedEndpoint {self.record.id}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a secret is not copied or pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one attempt. `status` is that of the answer, None where none came.

    `retry_in` is how many seconds from now the next attempt is due; None where it was the last, or none is needed.
    `disabled` tells that the endpoint is switched off.
    """

    outcome: Outcome
    status: int | None
    retry_in: int | None
    disabled: bool


def sealed(box: Box, root: str, row: EndpointRow, contents: Contents) -> EndpointRow:
    """The row with these contents in its box, under the newest root, whose id is `root`."""
    text = canonical({
        "headers": dict(contents.headers),
        "secrets": [[item.name, item.secret, item.until] for item in contents.secrets],
    })  # fmt: skip
    return replace(row, sealed=box.seal(text.encode(), context=context(row)), root=root)


def opened(box: Box, row: EndpointRow) -> Contents:
    """What is in the row's box; `Unavailable` where it does not open in this row."""
    if type(row.sealed) is not bytes:
        raise Unavailable(Reason.SEAL_BROKEN)  # a store of somebody else's may hold anything
    found = json.loads(box.open(row.sealed, context=context(row)))
    secrets = [NamedSecret(secret, name=name, until=until) for name, secret, until in found["secrets"]]
    return Contents(WebhookSecrets(secrets), found["headers"])


def context(row: EndpointRow) -> bytes:
    """What the box is bound to."""
    parts = (row.environment, row.org, row.id, row.url)
    return joined(b"webhook-endpoint/v1", *(str(part).encode("utf-8", "surrogatepass") for part in parts))


def health(row: EndpointRow) -> Health:
    """How the endpoint has been doing."""
    return Health(
        failures=row.failures, failing_since=row.failing_since, disabled_at=row.disabled_at, why=cast("Why", row.why)
    )


def faring(row: EndpointRow, now: Health) -> EndpointRow:
    """The row of an endpoint that is doing so."""
    return replace(
        row, failures=now.failures, failing_since=now.failing_since, disabled_at=now.disabled_at, why=now.why
    )


def record(row: EndpointRow, contents: Contents | None) -> EndpointRecord:
    """The row as its organization may see it; without contents where its box does not open."""
    return EndpointRecord(
        id=row.id,
        org=row.org,
        environment=cast("Environment", row.environment),
        url=row.url,
        name=row.name,
        status="active" if row.disabled_at is None else "disabled",
        why=cast("Why", row.why),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        failures=row.failures,
        failing_since=row.failing_since,
        headers=frozenset() if contents is None else frozenset(contents.headers),
        secrets=()
        if contents is None
        else tuple(EndpointSecret(name=item.name, until=item.until) for item in contents.secrets),
    )
