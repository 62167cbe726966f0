"""Whom an organization's webhooks are sent to, as a service: create, rotate, switch off, and deliver.

One row is one endpoint. Every change is a compare-and-swap over the row's `version`, with its event in the same
transaction; who lost against somebody else reads again. Nothing is queued here: a delivery is one attempt, and its
answer says when the next one is due.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from re import compile as pattern
from typing import Any, Literal

from bartizan.core.box import Box
from bartizan.core.encoding import random62
from bartizan.core.events import Journal, entered
from bartizan.core.ports import Clock, Entropy, Post, Waits, fresh
from bartizan.core.principal import Environment, checked_org
from bartizan.core.ring import SecretRing
from bartizan.core.roots import Roots
from bartizan.core.tables import Backend
from bartizan.errors import Conflict, InvalidRequest, Misuse, NotFound, Reason, Unavailable
from bartizan.webhooks.delivery import (
    Health,
    WebhookPolicy,
    checked_headers,
    checked_value,
    outcome_of,
    request_headers,
    retry_after_of,
)
from bartizan.webhooks.endpoint_changes import EndpointChanges
from bartizan.webhooks.endpoint_rows import (
    Contents,
    Delivery,
    EndpointRecord,
    EndpointRow,
    IssuedEndpoint,
    faring,
    health,
    record,
)
from bartizan.webhooks.keys import (
    GRACE,
    LONGEST_GRACE,
    NamedSecret,
    WebhookSecrets,
    fingerprint,
    for_receivers,
    new_key_pair,
    new_secret,
)
from bartizan.webhooks.signer import WebhookSigner

_ID = pattern(r"whe_[0-9A-Za-z]{16}")


class WebhookEndpoints:
    """The endpoints of all organizations.

    Every method takes `org=`: while a principal is current, another organization's is `NotFound`. What an owner of an
    endpoint writes (URL, headers) is `InvalidRequest` where it may not be. Any method raises `Unavailable` where the
    store fails.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        ring: SecretRing,
        roots: Roots,
        environment: Environment,
        clock: Clock,
        journal: Journal,
        post: Post,
        policy: WebhookPolicy,
        wake: Callable[[], object] = lambda: None,
        entropy: Entropy = fresh,
    ) -> None:
        self._waits = waits
        self._environment = environment
        self._clock = clock
        self._journal = journal
        self._post = post
        self._policy = policy
        self._wake = wake
        self._entropy = entropy
        self._rows = EndpointChanges(
            backend=backend, box=Box(ring, environment, entropy), ring=ring, roots=roots, environment=environment,
            clock=clock, journal=journal,
        )  # fmt: skip

    # --- management ---

    async def create(
        self,
        *,
        org: str,
        url: str,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        kind: Literal["v1", "v1a"] = "v1",
        secret: str | None = None,
    ) -> IssuedEndpoint:
        """A new endpoint; what its receiver verifies with is shown this once.

        `headers` are sent with each message, never in the place of ours. `kind` is that of its secret, HMAC or Ed25519,
        unless a `secret` is given that its receiver has already.
        """
        self._enter(org)
        if kind not in {"v1", "v1a"} or (kind == "v1a" and self._policy.provider.key_form != "standard"):
            raise Misuse('kind is "v1", or "v1a" where messages are sent as Standard Webhooks')
        text = self._fresh(ed25519=kind == "v1a") if secret is None else secret
        contents = Contents(self._signing([NamedSecret(text, name=fingerprint(text))]), self._headers(headers or {}))
        row = EndpointRow(
            id=f"whe_{random62(16, self._entropy)}", org=org, environment=self._environment, url=self._url(url),
            name=_named(name), root="", sealed=b"", created_at=self._clock.seconds(), failures=0, failing_since=None,
            disabled_at=None, why="", version=1,
        )  # fmt: skip
        row = self._rows.sealed(row, contents)
        await self._waits.finish(self._rows.create(row, host=self._host(url)))
        return IssuedEndpoint(self._theirs(text), record(row, contents))

    async def get(self, endpoint_id: str, *, org: str) -> EndpointRecord:
        """One endpoint of this organization."""
        self._enter(org, endpoint_id)
        row = await self._rows.own(endpoint_id, org)
        return record(row, self._rows.opened(row))

    async def list(self, *, org: str, after: str | None = None, limit: int = 100) -> Sequence[EndpointRecord]:
        """The organization's endpoints in the order of their ids, from the one behind `after`.

        A row that was edited in the store is left out, and an event tells of it.
        """
        self._enter(org)
        if not 1 <= limit <= 1000:
            raise Misuse("limit is 1 to 1000")
        if after is not None and not _is_id(after):
            raise InvalidRequest
        found: list[EndpointRecord] = []
        start = after or ""
        while wanted := limit - len(found):  # a page is short only where there are no more
            rows = await self._rows.page(org, start, wanted)
            for row in rows:
                with suppress(NotFound):
                    found.append(record(row, self._rows.opened(row)))
            if len(rows) < wanted:
                break
            start = rows[-1].id
        return found

    async def update(
        self,
        endpoint_id: str,
        *,
        org: str,
        url: str | None = None,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> EndpointRecord:
        """What is given is changed; `headers` replace all that were there."""
        self._enter(org, endpoint_id)
        to = None if url is None else self._url(url)
        own = None if headers is None else self._headers(headers)
        named = None if name is None else _named(name)
        given = {"url": url, "name": name, "headers": headers}
        told: dict[str, Any] = {"changed": [what for what, value in given.items() if value is not None]}
        if to is not None:
            told["host"] = self._host(to)

        def changed(row: EndpointRow) -> EndpointRow:
            contents = self._rows.opened(row)
            new = replace(row, url=row.url if to is None else to, name=row.name if named is None else named)
            return self._rows.sealed(new, Contents(contents.secrets, contents.headers if own is None else own))

        return await self._edit(endpoint_id, org, "webhook_endpoint.updated", changed, **told)

    async def rotate(
        self, endpoint_id: str, *, org: str, grace: int = GRACE, secret: str | None = None
    ) -> IssuedEndpoint:
        """A new secret, shown this once; messages are signed with the old ones too, for `grace` more seconds.

        0 ends them now. `Conflict` where ten old secrets still live.
        """
        self._enter(org, endpoint_id)
        if isinstance(grace, bool) or not 0 <= grace <= LONGEST_GRACE:
            raise Misuse(f"grace is 0 to {LONGEST_GRACE} seconds")
        made: list[str] = []

        def changed(row: EndpointRow) -> EndpointRow:
            contents = self._rows.opened(row)
            newest = next(iter(contents.secrets)).secret
            text = self._fresh(ed25519=newest != self._theirs(newest)) if secret is None else secret
            made.append(text)
            new = self._signing([NamedSecret(text, name=fingerprint(text))])
            try:
                ring = contents.secrets.rotate(next(iter(new)), now=self._clock.seconds(), grace=grace)
            except Misuse:  # ten of them, or one that is there already: the owner's doing, and not the program's
                raise Conflict from None
            return self._rows.sealed(row, Contents(ring, contents.headers))

        shown = await self._edit(endpoint_id, org, "webhook_endpoint.rotated", changed, grace=grace)
        return IssuedEndpoint(self._theirs(made[-1]), shown)

    async def disable(self, endpoint_id: str, *, org: str) -> EndpointRecord:
        """Nothing is sent to it until it is enabled. It stands when this returns; again is no change."""
        self._enter(org, endpoint_id)

        def changed(row: EndpointRow) -> EndpointRow | None:
            off = replace(health(row), disabled_at=self._clock.seconds(), why="asked")
            return None if row.disabled_at is not None else faring(row, off)

        return await self._edit(endpoint_id, org, "webhook_endpoint.disabled", changed, why="asked")

    async def enable(self, endpoint_id: str, *, org: str) -> EndpointRecord:
        """A disabled endpoint is sent to again, its failures forgotten. Again is no change."""
        self._enter(org, endpoint_id)

        def changed(row: EndpointRow) -> EndpointRow | None:
            self._rows.opened(row)  # an edited one is stopped like any other, but never started again
            return None if row.disabled_at is None else faring(row, Health())

        return await self._edit(endpoint_id, org, "webhook_endpoint.enabled", changed)

    async def delete(self, endpoint_id: str, *, org: str) -> None:
        """The endpoint is gone, and its secrets with it."""
        self._enter(org, endpoint_id)
        await self._waits.finish(self._rows.delete(endpoint_id, org))

    # --- delivery ---

    async def deliver(
        self,
        endpoint_id: str,
        body: bytes,
        *,
        org: str,
        id: str,  # noqa: A002 - the standard's word
        type: str = "",  # noqa: A002
        attempt: int = 1,
    ) -> Delivery:
        """One attempt, signed now with every live secret: what came of it, and when the next one is due.

        `id` is the message's, the same in every attempt; `attempt` counts from 1. `Conflict` where the endpoint is
        disabled: nothing is sent. What the endpoint does is never an error.
        """
        self._enter(org, endpoint_id)
        if isinstance(attempt, bool) or attempt < 1:
            raise Misuse("attempt counts from 1")
        row = await self._rows.own(endpoint_id, org, serving=True)
        if row.disabled_at is not None:
            raise Conflict
        told = {"delivery": id, "endpoint": row.id, "retries": str(attempt - 1)}
        headers = self._signed(self._rows.opened(row), body, id, type, told)
        status, retry_after, reason = None, None, Reason.ENDPOINT_FAILED
        try:
            status, retry_after = await self._post(row.url, body, headers, self._policy.endpoint)
        except Unavailable as error:
            reason = error.reason
        outcome = outcome_of(status)
        disabled = await self._waits.finish(self._rows.judge(row, outcome, self._policy.patience))
        retry_in = None
        if not disabled and outcome in {"retry", "throttle"}:
            chance = int.from_bytes(self._entropy(4)) / 2**32
            retry_in = self._policy.retries.delay(attempt, chance=chance, retry_after=retry_after_of(retry_after))
        if outcome != "ok" and (retry_in is None or reason is Reason.ENDPOINT_NOT_ALLOWED):
            event = self._rows.event("webhook.undelivered", row, id=id, status=status, attempt=attempt)
            event.outcome, event.reason = "refused", reason
            self._journal.note(event)
        return Delivery(outcome=outcome, status=status, retry_in=retry_in, disabled=disabled)

    async def upkeep(self) -> None:
        """Seal again what is under an older root, so that the root may leave."""
        await self._rows.renew()

    def _signed(
        self, contents: Contents, body: bytes, message: str, kind: str, told: Mapping[str, str]
    ) -> dict[str, str]:
        """The headers of an attempt: the endpoint's own, and over them ours."""
        policy = self._policy
        signer = WebhookSigner(contents.secrets.secrets, provider=policy.provider)
        ours = {header: told[fact] for fact, header in policy.told.items()}
        if kind and policy.provider.type_header is not None:
            ours[policy.provider.type_header] = checked_value(kind)
        ours |= signer.sign(body, id=message, now=self._clock.seconds())
        return request_headers(ours, contents.headers, agent=policy.agent)

    async def _edit(
        self,
        endpoint_id: str,
        org: str,
        event: str,
        changed: Callable[[EndpointRow], EndpointRow | None],
        /,
        **data: Any,
    ) -> EndpointRecord:
        row = await self._waits.finish(self._rows.edit(endpoint_id, org, event, changed, data))
        try:
            return record(row, self._rows.opened(row))
        except NotFound:
            return record(row, None)

    # --- what callers give ---

    def _enter(self, org: str, *ids: object) -> None:
        entered(org, self._journal)  # first: whatever a caller says another organization is, it is not found
        checked_org(org)
        if not all(map(_is_id, ids)):
            raise NotFound(Reason.NO_RECORD)
        self._wake()

    def _url(self, url: object) -> str:
        if not isinstance(url, str):
            raise InvalidRequest(Reason.ENDPOINT_NOT_ALLOWED)
        self._host(url)
        return url

    def _host(self, url: str) -> str:
        """What an event tells of a URL, the rest of which may be a secret; `InvalidRequest` for one that may not be."""
        return self._policy.endpoint.check(url).host  # as far as it tells by itself: it is looked up for each attempt

    def _headers(self, headers: Mapping[Any, Any]) -> Mapping[str, str]:
        if not all(isinstance(text, str) for item in headers.items() for text in item):
            raise InvalidRequest
        try:
            return checked_headers(headers, reserved=self._policy.ours)
        except Misuse:
            raise InvalidRequest from None

    def _fresh(self, *, ed25519: bool) -> str:
        return new_key_pair(self._entropy)[0] if ed25519 else new_secret(self._entropy)

    def _theirs(self, secret: str) -> str:
        """What the receiver is given; where a secret is a text, `whsk_` at its beginning says nothing."""
        return for_receivers(secret) if self._policy.provider.key_form == "standard" else secret

    def _signing(self, secrets: Sequence[NamedSecret]) -> WebhookSecrets:
        """The secrets, tried out: what cannot sign as the policy wants is a mistake now, and not at the first event."""
        WebhookSigner(secrets, provider=self._policy.provider).sign(b"", id="msg", now=0)
        return WebhookSecrets(secrets)


def _named(name: str) -> str:
    if len(name) > 200 or not name.isprintable():
        raise Misuse("an endpoint's name is at most 200 printable characters")
    return name


def _is_id(text: object) -> bool:
    """Whether it could be an endpoint's id: it comes out of paths, and a store takes no text but a clean one."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None
