"""Whom webhooks are sent to: rows, boxes and states, and deliveries over the wire. Attacks carry their names."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from authorities import Authority
from cancelling import ended
from tls_servers import Behave, Peer, answer, answering, tls_serving

from bartizan import Bartizan, InvalidWebhook, NotFound, Unavailable, WebhookPolicy, WebhookVerifier
from bartizan.core.drive import run
from bartizan.core.ports import Answered
from bartizan.core.ring import new_root
from bartizan.core.tables import ANYTHING, Update
from bartizan.errors import Conflict, InvalidRequest, Misuse, Reason
from bartizan.fanfare import webhook_policy
from bartizan.outbound import BlockingPost, EndpointPolicy, Outbound
from bartizan.testing import FakeClock, Kit, acting_as
from bartizan.testing.kit import a_secret_key
from bartizan.webhooks.endpoint_rows import WEBHOOK_ENDPOINTS, EndpointRow

BODY = b'{"type":"order.created","data":{"total":12}}'
URL = "https://hooks.example/in"
DAY = 86_400


class Sent:
    """A `Post` that answers what a test wants, and keeps what was sent."""

    def __init__(self, *statuses: int | None, retry_after: str | None = None) -> None:
        self.statuses = list(statuses)
        self.retry_after = retry_after
        self.seen: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.meanwhile: Callable[[], object] = lambda: None

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str], _: EndpointPolicy, /) -> Answered:
        self.seen.append((url, body, headers))
        self.meanwhile()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status is None:
            raise Unavailable(Reason.ENDPOINT_FAILED)
        return Answered(status, self.retry_after)


def kit_of(post: Any, **arguments: Any) -> Kit:
    kit = Kit(**arguments)
    for side in (kit.security._shared.side, kit.security._shared.blocking_side):
        side.endpoints._post = post
    return kit


def endpoints(kit: Kit) -> Any:
    return kit.security.blocking.webhook_endpoints


def backend(kit: Kit) -> Any:
    return kit.security._shared.blocking_side.backend


def row_of(kit: Kit, endpoint_id: str) -> EndpointRow:
    row: EndpointRow = run(backend(kit).get(WEBHOOK_ENDPOINTS, endpoint_id))
    return row


def edit(kit: Kit, endpoint_id: str, **columns: Any) -> None:
    assert (
        run(backend(kit).change(Update(WEBHOOK_ENDPOINTS, endpoint_id, ANYTHING, tuple(columns.items())))) is not None
    )


def names(kit: Kit) -> list[str]:
    return [event.name for event in kit.events]


def receiver(secret: str, clock: Callable[[], float]) -> WebhookVerifier:
    return WebhookVerifier(secret, clock=clock)


def verifies(secret: str, kit: Kit, sent: tuple[str, bytes, Mapping[str, str]]) -> bool:
    try:
        WebhookVerifier(secret, clock=kit.clock).verify(sent[1], dict(sent[2]))
    except InvalidWebhook:
        return False
    return True


# --- over the wire ---


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.certificate(tmp_path_factory.mktemp("certificates"), "127.0.0.1")


@pytest.fixture
def wired(authority: Authority, certificate: Path) -> Iterator[Callable[[Behave], tuple[Peer, Kit, str]]]:
    """A receiver that behaves like this, a kit that may send to it, and its URL."""
    open_servers: list[Any] = []

    def serve(behave: Behave, **fields: Any) -> tuple[Peer, Kit, str]:
        server = tls_serving(certificate, behave)
        peer = server.__enter__()
        open_servers.append(server)
        given = {"ports": {peer.port}, "unsafe_networks": ["127.0.0.1"], "authorities": authority.pem, **fields}
        kit = Kit(webhooks=WebhookPolicy(endpoint=EndpointPolicy(**given), jitter=0))
        return peer, kit, f"https://127.0.0.1:{peer.port}/in"

    yield serve
    for server in open_servers:
        server.__exit__(None, None, None)


Wire = Callable[..., tuple[Peer, Kit, str]]


def message(request: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """Body and headers, as a receiver's server would give them."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:]]
    return body, [(name, value) for name, _, value in lines]


def test_every_attempt_arrives_with_the_same_id_and_a_fresh_signature(wired: Wire) -> None:
    peer, kit, url = wired(answering(answer(b"no", status="500 Error")))
    issued = endpoints(kit).create(org="org_1", url=url, headers={"X-Tenant": "7"})
    signatures = set()
    for attempt, delay in enumerate((5, 300, 1800), start=1):
        told = endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1", attempt=attempt)
        assert (told.outcome, told.status, told.retry_in, told.disabled) == ("retry", 500, delay, False)
        body, headers = message(peer.requests[-1])
        event = receiver(issued.secret, kit.clock).verify(body, headers)
        assert (event.id, event.timestamp, event.body) == ("msg_1", kit.clock(), BODY)
        assert dict(headers)["X-Tenant"] == "7"
        signatures.add(dict(headers)["Webhook-Signature"])
        kit.clock.advance(delay)
    assert len(signatures) == 3


def test_both_forms_deliver(wired: Wire) -> None:
    peer, kit, url = wired(answering(answer(b"ok")))

    async def send() -> tuple[str, str]:
        async with kit.security as security:
            issued = await security.webhook_endpoints.create(org="org_1", url=url)
            told = await security.webhook_endpoints.deliver(issued.record.id, BODY, org="org_1", id="msg_1")
            return issued.secret, told.outcome

    secret, outcome = asyncio.run(send())
    assert outcome == "ok"
    assert receiver(secret, kit.clock).verify(*message(peer.requests[0])).id == "msg_1"


def test_endless_redirect(wired: Wire) -> None:
    """A redirect is one failed attempt; where it points is never asked."""
    inside, _, _ = wired(answering(answer(b"secret")))

    def behave(connection: Any, _: bytes, __: Peer) -> None:
        connection.sendall(answer(b"", f"Location: https://127.0.0.1:{inside.port}/", status="307 Elsewhere"))

    peer, kit, url = wired(behave)
    issued = endpoints(kit).create(org="org_1", url=url)
    told = endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    assert (told.outcome, told.status) == ("retry", 307)
    assert (peer.connections, inside.connections) == (1, 0)


@pytest.mark.parametrize(
    ("asked", "given"),
    [("1000000000", 300), ("9" * 400, 300), ("599", 599), ("99999999", 600), ("-1", 300), ("1e3", 300)],
)
def test_retry_after_of_a_lifetime(wired: Wire, asked: str, given: int) -> None:
    """A receiver moves the next attempt by one more delay at most: it cannot park a message for thirty years."""
    _, kit, url = wired(answering(answer(b"", f"Retry-After: {asked}", status="429 Wait")))
    issued = endpoints(kit).create(org="org_1", url=url)
    told = endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1", attempt=2)
    assert (told.outcome, told.retry_in) == ("throttle", given)


def test_ssrf_rebinding_between_creation_and_attempt(authority: Authority, certificate: Path) -> None:
    """A name that was public yesterday is private today: it is looked up, and judged, for every attempt."""
    with tls_serving(certificate, answering(answer(b"inside"))) as peer:
        policy = EndpointPolicy(ports={peer.port}, authorities=authority.pem)
        outbound = Outbound(resolve=lambda *_: ["127.0.0.1"])
        kit = kit_of(BlockingPost(lambda: outbound), webhooks=WebhookPolicy(endpoint=policy))
        issued = endpoints(kit).create(org="org_1", url=f"https://rebound.example:{peer.port}/")
        told = endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
        assert (told.outcome, told.status) == ("retry", None)
        assert peer.connections == 0
    event = kit.events[-1]
    assert (event.name, event.reason, event.org) == ("webhook.undelivered", "endpoint_not_allowed", "org_1")


@pytest.mark.parametrize(
    "url",
    ["http://hooks.example/", "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/", "https://localhost/",
     "https://hooks.example:22/", "https://u:p@hooks.example/", "https://0x7f000001/", "file:///etc/passwd", "", 7, None],
)  # fmt: skip
def test_ssrf_url_of_an_endpoint(url: Any) -> None:
    kit = kit_of(Sent(200))
    with pytest.raises(InvalidRequest) as refused:
        endpoints(kit).create(org="org_1", url=url)
    assert refused.value.reason is Reason.ENDPOINT_NOT_ALLOWED
    issued = endpoints(kit).create(org="org_1", url=URL)
    if url is not None:
        with pytest.raises(InvalidRequest):
            endpoints(kit).update(issued.record.id, org="org_1", url=url)
    assert endpoints(kit).get(issued.record.id, org="org_1").url == URL


# --- headers ---


@pytest.mark.parametrize(
    "headers",
    [{"webhook-signature": "v1,x"}, {"Webhook-Id": "x"}, {"Host": "inside"}, {"Content-Length": "0"}, {"Transfer-Encoding": "chunked"},
     {"X-A": "a\r\nX-Injected: b"}, {"X-A\r\nX-B": "c"}, {"X A": "b"}, {"X-A": "\x00"}, {"X-A": "é"}, {"X-A": 7}, {"": "x"},
     {7: "x"}, {f"X-{n}": "1" for n in range(21)}, {"X-A": "1", "x-a": "2"}],
)  # fmt: skip
def test_custom_header_overrides_signature(headers: Any) -> None:
    """What an endpoint's owner adds is never one of ours, and never more than one header."""
    sent = Sent(200)
    kit = kit_of(sent)
    with pytest.raises(InvalidRequest):
        endpoints(kit).create(org="org_1", url=URL, headers=headers)
    issued = endpoints(kit).create(org="org_1", url=URL, headers={"Authorization": "Bearer theirs"})
    with pytest.raises(InvalidRequest):
        endpoints(kit).update(issued.record.id, org="org_1", headers=headers)
    endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    assert set(sent.seen[0][2]) == {
        "authorization", "content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature",
    }  # fmt: skip
    assert verifies(issued.secret, kit, sent.seen[0])


def test_the_headers_of_another_scheme_are_ours_too() -> None:
    kit = kit_of(Sent(200), webhooks=webhook_policy())
    for name in ("x-fanfare-signature", "X-Fanfare-Retry-Count", "X-Fanfare-Event-Type"):
        with pytest.raises(InvalidRequest):
            endpoints(kit).create(org="org_1", url=URL, headers={name: "x"})


def test_fanfare_sends_as_its_pages_say() -> None:
    sent = Sent(503)
    kit = kit_of(sent, webhooks=webhook_policy())
    issued = endpoints(kit).create(org="org_1", url=URL)
    told = endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="whk_1", type="order.created", attempt=3)
    assert told.retry_in is not None
    assert 1800 <= told.retry_in <= 2160
    headers = dict(sent.seen[0][2])
    assert WebhookVerifier.fanfare(issued.secret, clock=kit.clock).verify(BODY, headers).type == "order.created"
    assert headers == {
        "content-type": "application/json", "user-agent": "Fanfare-Webhooks/1.0", "x-fanfare-event-type": "order.created",
        "x-fanfare-delivery-id": "whk_1", "x-fanfare-webhook-id": issued.record.id, "x-fanfare-retry-count": "2",
        "x-fanfare-timestamp": str(kit.clock()), "x-fanfare-signature": headers["x-fanfare-signature"],
    }  # fmt: skip
    with pytest.raises(Misuse):
        endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="whk_1", type="a\r\nX-B: c")
    with pytest.raises(Misuse):
        endpoints(kit).create(org="org_1", url=URL, kind="v1a")
    text = "whsk_" + "a text of their own"
    assert endpoints(kit).create(org="org_1", url=URL, secret=text).secret == text
    assert endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="whk_1", attempt=8).retry_in is None


# --- organizations ---


def touches(service: Any, endpoint_id: str, org: str) -> Iterator[Callable[[], Any]]:
    yield lambda: service.get(endpoint_id, org=org)
    yield lambda: service.update(endpoint_id, org=org, url="https://evil.example/")
    yield lambda: service.rotate(endpoint_id, org=org)
    yield lambda: service.disable(endpoint_id, org=org)
    yield lambda: service.enable(endpoint_id, org=org)
    yield lambda: service.delete(endpoint_id, org=org)
    yield lambda: service.deliver(endpoint_id, BODY, org=org, id="msg_1")


def test_endpoint_of_another_organization() -> None:
    sent = Sent(200)
    kit = kit_of(sent)
    theirs = endpoints(kit).create(org="org_2", url=URL).record
    before = row_of(kit, theirs.id)
    for touch in touches(endpoints(kit), theirs.id, "org_1"):
        with pytest.raises(NotFound):
            touch()
    assert endpoints(kit).list(org="org_1") == []
    with acting_as(a_secret_key(org="org_1")):
        for touch in touches(endpoints(kit), theirs.id, "org_2"):  # what a caller says of itself does not count
            with pytest.raises(NotFound) as refused:
                touch()
            assert refused.value.reason is Reason.WRONG_ORGANIZATION
        with pytest.raises(NotFound):
            endpoints(kit).list(org="org_2")
        with pytest.raises(NotFound):
            endpoints(kit).create(org="org_2", url=URL)
    assert row_of(kit, theirs.id) == before
    assert sent.seen == []


def test_environments_do_not_share_endpoints(tmp_path: Path) -> None:
    url, root = f"sqlite:///{tmp_path}/a.db", new_root()
    live = kit_of(Sent(200), url=url, environment="live", secrets=[root])
    test = kit_of(Sent(200), url=url, environment="test", secrets=[root])
    issued = endpoints(live).create(org="org_1", url=URL)
    for touch in touches(endpoints(test), issued.record.id, "org_1"):
        with pytest.raises(NotFound):
            touch()
    assert endpoints(test).list(org="org_1") == []
    assert [record.id for record in endpoints(live).list(org="org_1")] == [issued.record.id]
    for kit in (live, test):
        kit.security._shared.close()


@pytest.mark.parametrize(
    "endpoint_id", ["", "whe_", "whe_" + "a" * 15, "whe_" + "é" * 16, "whe_" + "a" * 16 + "\n", "\ud800", 7, None]
)
def test_what_is_no_id_is_not_found(endpoint_id: Any) -> None:
    kit = kit_of(Sent(200))
    for touch in touches(endpoints(kit), endpoint_id, "org_1"):
        with pytest.raises(NotFound):
            touch()


# --- boxes ---


@pytest.mark.parametrize("org", ["org_1", "org_2"])
def test_sealed_secret_transplanted_between_rows(org: str) -> None:
    """A box opens in the row, the organization and for the URL that it was made for, and nowhere else."""
    sent = Sent(200)
    kit = kit_of(sent)
    mine = endpoints(kit).create(org="org_1", url=URL).record
    theirs = endpoints(kit).create(org=org, url=URL).record
    edit(kit, theirs.id, sealed=row_of(kit, mine.id).sealed)
    for touch in (endpoints(kit).get, endpoints(kit).rotate, endpoints(kit).enable, endpoints(kit).update):
        with pytest.raises(NotFound):
            touch(theirs.id, org=org)
    with pytest.raises(NotFound) as refused:
        endpoints(kit).deliver(theirs.id, BODY, org=org, id="msg_1")
    assert refused.value.reason is Reason.SEAL_BROKEN
    assert sent.seen == []
    assert [record.id for record in endpoints(kit).list(org=org)] == ([mine.id] if org == "org_1" else [])
    event = kit.events[-1]
    assert (event.name, event.target, event.outcome) == ("webhook_endpoint.row_edited", theirs.id, "refused")
    assert endpoints(kit).disable(theirs.id, org=org).secrets == ()  # it is stopped like any other
    endpoints(kit).delete(theirs.id, org=org)
    assert endpoints(kit).deliver(mine.id, BODY, org="org_1", id="msg_1").outcome == "ok"


@pytest.mark.parametrize(
    "columns",
    [{"url": "https://evil.example/"}, {"org": "org_2"}, {"environment": "live"}, {"sealed": b""}, {"sealed": b"\x01" * 200}],
)  # fmt: skip
def test_an_edited_row_sends_nothing(columns: dict[str, Any]) -> None:
    """Who can write to the store alone sends no signed message to a place of his own."""
    sent = Sent(200)
    kit = kit_of(sent)
    mine = endpoints(kit).create(org="org_1", url=URL).record
    edit(kit, mine.id, **columns)
    for org in ("org_1", "org_2"):
        with pytest.raises(NotFound):
            endpoints(kit).deliver(mine.id, BODY, org=org, id="msg_1")
    assert sent.seen == []


def test_secrets_rest_sealed_and_are_nowhere_to_be_seen(tmp_path: Path) -> None:
    canary = "whsec_" + "Q0FOQVJZ" * 5
    sent = Sent(410)
    kit = kit_of(sent, url=f"sqlite:///{tmp_path}/a.db")
    issued = endpoints(kit).create(
        org="org_1", url=URL, secret=canary, headers={"Authorization": "Bearer header-canary"}
    )
    assert issued.secret == canary
    endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    endpoints(kit).enable(issued.record.id, org="org_1")
    rotated = endpoints(kit).rotate(issued.record.id, org="org_1")
    texts = [repr(issued), repr(rotated), repr(issued.record), repr(row_of(kit, issued.record.id)), repr(kit.events)]
    kit.security._shared.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert issued.record.id.encode() in stored
    for text in (canary, canary[6:], "header-canary", rotated.secret, rotated.secret[6:]):
        assert text.encode() not in stored
        assert not any(text in seen for seen in texts)
    with pytest.raises(Misuse):
        issued.__reduce_ex__(4)


# --- rotation ---


def test_rotation_with_grace() -> None:
    sent = Sent(200)
    kit = kit_of(sent)
    first = endpoints(kit).create(org="org_1", url=URL)
    second = endpoints(kit).rotate(first.record.id, org="org_1", grace=3600)
    assert second.secret != first.secret
    assert [secret.until for secret in second.record.secrets] == [None, kit.clock() + 3600]
    for ahead, old in ((0, True), (3599, True), (1, False)):
        kit.clock.advance(ahead)
        endpoints(kit).deliver(first.record.id, BODY, org="org_1", id="msg_1")
        assert (verifies(first.secret, kit, sent.seen[-1]), verifies(second.secret, kit, sent.seen[-1])) == (old, True)
    third = endpoints(kit).rotate(first.record.id, org="org_1", grace=0)
    endpoints(kit).deliver(first.record.id, BODY, org="org_1", id="msg_1")
    assert [verifies(each.secret, kit, sent.seen[-1]) for each in (first, second, third)] == [False, False, True]
    assert names(kit) == ["webhook_endpoint.created", *["webhook_endpoint.rotated"] * 2]


def test_a_rotation_keeps_its_kind_and_its_headers() -> None:
    sent = Sent(200)
    kit = kit_of(sent)
    first = endpoints(kit).create(org="org_1", url=URL, kind="v1a", headers={"X-Tenant": "7"})
    second = endpoints(kit).rotate(first.record.id, org="org_1")
    assert (first.secret[:5], second.secret[:5]) == ("whpk_", "whpk_")
    endpoints(kit).deliver(first.record.id, BODY, org="org_1", id="msg_1")
    assert verifies(first.secret, kit, sent.seen[0])
    assert verifies(second.secret, kit, sent.seen[0])
    assert sent.seen[0][2]["x-tenant"] == "7"
    assert sent.seen[0][2]["webhook-signature"].count("v1a,") == 2


def test_ten_old_secrets_are_the_most() -> None:
    kit = kit_of(Sent(200))
    issued = endpoints(kit).create(org="org_1", url=URL)
    for _ in range(10):
        endpoints(kit).rotate(issued.record.id, org="org_1")
    with pytest.raises(Conflict):
        endpoints(kit).rotate(issued.record.id, org="org_1")
    newest = endpoints(kit).rotate(issued.record.id, org="org_1", grace=0)
    assert len(newest.record.secrets) == 1
    with pytest.raises(Conflict):
        endpoints(kit).rotate(issued.record.id, org="org_1", secret=newest.secret)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "whpk_" + "A" * 43 + "="])
def test_a_secret_that_cannot_sign_is_a_mistake_at_once(secret: str) -> None:
    kit = kit_of(Sent(200))
    with pytest.raises(Misuse):
        endpoints(kit).create(org="org_1", url=URL, secret=secret)
    issued = endpoints(kit).create(org="org_1", url=URL)
    with pytest.raises(Misuse):
        endpoints(kit).rotate(issued.record.id, org="org_1", secret=secret)


# --- on and off ---


def test_an_endpoint_that_is_gone_is_switched_off() -> None:
    sent = Sent(410)
    kit = kit_of(sent)
    issued = endpoints(kit).create(org="org_1", url=URL)
    told = endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    assert (told.outcome, told.retry_in, told.disabled) == ("gone", None, True)
    with pytest.raises(Conflict):
        endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_2")
    assert len(sent.seen) == 1
    record = endpoints(kit).get(issued.record.id, org="org_1")
    assert (record.status, record.why, record.disabled_at) == ("disabled", "gone", kit.clock())
    on = endpoints(kit).enable(issued.record.id, org="org_1")
    assert (on.status, on.why, on.failures) == ("active", "", 0)
    assert names(kit) == [
        "webhook_endpoint.created", "webhook_endpoint.disabled", "webhook.undelivered", "webhook_endpoint.enabled",
    ]  # fmt: skip


def test_an_endpoint_that_fails_for_days_is_switched_off() -> None:
    sent = Sent(500)
    kit = kit_of(sent, webhooks=WebhookPolicy(failures=5, failing_for=DAY))
    issued = endpoints(kit).create(org="org_1", url=URL)

    def deliver() -> Any:
        return endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")

    for _ in range(6):
        assert not deliver().disabled, "many failures, within a minute"
    assert endpoints(kit).get(issued.record.id, org="org_1").failures == 6
    sent.statuses = [200]
    deliver()
    assert endpoints(kit).get(issued.record.id, org="org_1").failures == 0, "a success forgives"
    sent.statuses = [500, None, 429, 301, 500]
    for _ in range(4):
        assert not deliver().disabled
    kit.clock.advance(DAY)
    assert deliver().disabled
    record = endpoints(kit).get(issued.record.id, org="org_1")
    assert (record.why, record.failures, record.failing_since) == ("failing", 5, kit.clock() - DAY)
    assert names(kit).count("webhook_endpoint.disabled") == 1


def test_disable_and_enable_by_hand() -> None:
    sent = Sent(200)
    kit = kit_of(sent)
    issued = endpoints(kit).create(org="org_1", url=URL)
    for _ in range(2):  # again is no change
        assert endpoints(kit).disable(issued.record.id, org="org_1").why == "asked"
    with pytest.raises(Conflict):
        endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    for _ in range(2):
        assert endpoints(kit).enable(issued.record.id, org="org_1").status == "active"
    endpoints(kit).delete(issued.record.id, org="org_1")
    with pytest.raises(NotFound):
        endpoints(kit).delete(issued.record.id, org="org_1")
    assert sent.seen == []
    assert names(kit) == [f"webhook_endpoint.{what}" for what in ("created", "disabled", "enabled", "deleted")]


def test_what_an_old_place_said_does_not_count_for_the_new_one() -> None:
    sent = Sent(410)
    kit = kit_of(sent)
    issued = endpoints(kit).create(org="org_1", url=URL)
    sent.meanwhile = lambda: endpoints(kit).update(issued.record.id, org="org_1", url="https://new.example/")
    told = endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    assert (told.outcome, told.disabled) == ("gone", False)
    record = endpoints(kit).get(issued.record.id, org="org_1")
    assert (record.url, record.status) == ("https://new.example/", "active")
    sent.meanwhile = lambda: endpoints(kit).delete(issued.record.id, org="org_1")
    assert endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1").disabled


def test_a_delivery_is_a_fact_though_the_store_fails_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(200)
    kit = kit_of(sent)
    issued = endpoints(kit).create(org="org_1", url=URL)
    sent.statuses = [500, 200]
    endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")

    async def fails(*_: Any, **__: Any) -> None:
        raise Unavailable

    sent.meanwhile = lambda: monkeypatch.setattr(backend(kit), "change", fails)
    assert endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1").outcome == "ok"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_32_racing_failures_are_counted_each_and_switch_off_once(store: str, tmp_path: Path) -> None:
    """The state is changed by compare-and-swap: no count is lost, and one of all says that it is off."""
    sent = Sent(500)
    place = {} if store == "memory" else {"url": f"sqlite:///{tmp_path}/a.db"}
    kit = kit_of(sent, webhooks=WebhookPolicy(failures=64, failing_for=0), **place)
    issued = endpoints(kit).create(org="org_1", url=URL)
    for expected in (32, 64):
        together = threading.Barrier(32)
        sent.meanwhile = together.wait
        told: list[Any] = []

        def deliver(told: list[Any] = told) -> None:
            told.append(endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1"))

        threads = [threading.Thread(target=deliver) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 32
        assert endpoints(kit).get(issued.record.id, org="org_1").failures == expected
        assert sum(each.disabled for each in told) == expected // 64
    assert names(kit).count("webhook_endpoint.disabled") == 1
    kit.security._shared.close()


def test_a_cancelled_attempt_counts_for_nothing() -> None:

    async def scenario() -> None:
        kit = Kit()
        service = kit.security.webhook_endpoints
        arrived = asyncio.Event()

        async def slow(*_: Any) -> Answered:
            arrived.set()
            await asyncio.sleep(30)
            raise AssertionError

        service._post = slow
        issued = await service.create(org="org_1", url=URL)
        task = asyncio.create_task(service.deliver(issued.record.id, BODY, org="org_1", id="msg_1"))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await service.get(issued.record.id, org="org_1")).failures == 0

    asyncio.run(scenario())


METHODS: dict[str, Callable[[Any, str], Any]] = {
    "create": lambda service, _: service.create(org="org_1", url="https://new.example/"),
    "update": lambda service, i: service.update(i, org="org_1", url="https://new.example/"),
    "rotate": lambda service, i: service.rotate(i, org="org_1"),
    "disable": lambda service, i: service.disable(i, org="org_1"),
    "delete": lambda service, i: service.delete(i, org="org_1"),
    "deliver": lambda service, i: service.deliver(i, BODY, org="org_1", id="msg_1"),
}
TELLS = {
    "create": "created", "update": "updated", "rotate": "rotated", "disable": "disabled", "delete": "deleted",
    "deliver": "disabled",
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_cancelled_after_every_await(method: str, tmp_path: Path) -> None:
    """Whoever hangs up, whenever: the change and its event are both there, or neither is."""
    came_to_its_end = False
    for moment in range(1, 40):
        kit = kit_of(Sent(410), url=f"sqlite:///{tmp_path}/{moment}.db")
        issued = endpoints(kit).create(org="org_1", url=URL)
        before = {row.id: row for row in run(backend(kit).find(WEBHOOK_ENDPOINTS, ()))}
        told = names(kit).count(f"webhook_endpoint.{TELLS[method]}")

        async def scenario(kit: Kit = kit, moment: int = moment, touched: str = issued.record.id) -> bool:
            async with kit.security as security:
                return await ended(moment, METHODS[method](security.webhook_endpoints, touched))

        came_to_its_end = asyncio.run(scenario())
        after = {row.id: row for row in run(backend(kit).find(WEBHOOK_ENDPOINTS, ()))}
        events = names(kit).count(f"webhook_endpoint.{TELLS[method]}") - told
        assert events == (after != before), moment
        kit.security._shared.close()
        if came_to_its_end:
            assert events == 1
            break
    assert came_to_its_end


def test_racing_rotations_lose_no_secret(tmp_path: Path) -> None:
    sent = Sent(200)
    kit = kit_of(sent, url=f"sqlite:///{tmp_path}/a.db")
    issued = endpoints(kit).create(org="org_1", url=URL)
    made: list[str] = [issued.secret]
    threads = [
        threading.Thread(target=lambda: made.append(endpoints(kit).rotate(issued.record.id, org="org_1").secret))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    assert len(set(made)) == 9
    assert all(verifies(secret, kit, sent.seen[0]) for secret in made)
    kit.security._shared.close()


# --- roots ---


def test_a_root_leaves_when_every_endpoint_went_over(tmp_path: Path) -> None:
    url, old, new = f"sqlite:///{tmp_path}/a.db", new_root(), new_root()
    first = kit_of(Sent(200), url=url, secrets=[old])
    issued = [endpoints(first).create(org="org_1", url=URL) for _ in range(3)]
    first.security._shared.close()
    sent = Sent(200)
    both = kit_of(sent, url=url, secrets=[new, old])
    use = {each.secret_id: dict(each.records) for each in both.security.blocking.secret_use()}
    assert use[old[4:12]] == {"webhook endpoints": 3}
    endpoints(both).rotate(issued[0].record.id, org="org_1")  # under the newest root, which is known from now on
    run(both.security._shared.blocking_side.endpoints.upkeep())
    use = {each.secret_id: dict(each.records) for each in both.security.blocking.secret_use()}
    assert use == {new[4:12]: {"webhook endpoints": 3}, old[4:12]: {}}
    both.security._shared.close()
    last = kit_of(sent, url=url, secrets=[new])
    for each in issued:
        endpoints(last).deliver(each.record.id, BODY, org="org_1", id="msg_1")
        assert verifies(each.secret, last, sent.seen[-1])
    last.security._shared.close()
    without = kit_of(sent, url=url, secrets=[old])
    with pytest.raises(Unavailable) as refused:
        endpoints(without).deliver(issued[0].record.id, BODY, org="org_1", id="msg_1")
    assert refused.value.reason is Reason.SECRET_MISSING
    with pytest.raises(Misuse):
        endpoints(without).get(issued[0].record.id, org="org_1")
    without.security._shared.close()


def test_upkeep_seals_again_what_the_other_form_made(tmp_path: Path) -> None:
    """A service that only awaits has its endpoints go over too; one that has none has its store left alone."""
    url, old, new = f"sqlite:///{tmp_path}/a.db", new_root(), new_root()
    first = kit_of(Sent(200), url=url, secrets=[old])
    issued = endpoints(first).create(org="org_1", url=URL)
    first.security._shared.close()
    both = kit_of(Sent(200), url=url, secrets=[new, old])
    shared = both.security._shared
    shared._reseal()
    assert row_of(both, issued.record.id).root == old[4:12], "nobody has touched an endpoint"

    async def send() -> None:
        await both.security.webhook_endpoints.deliver(issued.record.id, BODY, org="org_1", id="msg_1")

    asyncio.run(send())
    shared._reseal()
    assert row_of(both, issued.record.id).root == new[4:12]
    shared.close()


# --- the rest ---


def test_pages() -> None:
    kit = kit_of(Sent(200))
    made = sorted(endpoints(kit).create(org="org_1", url=URL, name=f"n{n}").record.id for n in range(5))
    edit(kit, made[1], sealed=b"x")
    seen: list[str] = []
    while page := endpoints(kit).list(org="org_1", after=seen[-1] if seen else None, limit=2):
        seen += [record.id for record in page]
    assert seen == [made[0], *made[2:]]
    with pytest.raises(InvalidRequest):
        endpoints(kit).list(org="org_1", after="x")
    with pytest.raises(Misuse):
        endpoints(kit).list(org="org_1", limit=0)


def test_update() -> None:
    sent = Sent(200)
    kit = kit_of(sent)
    issued = endpoints(kit).create(org="org_1", url=URL, headers={"X-A": "1"})
    changed = endpoints(kit).update(issued.record.id, org="org_1", url="https://new.example/", name="new")
    assert (changed.url, changed.name, changed.headers) == ("https://new.example/", "new", {"x-a"})
    assert changed == replace(issued.record, url="https://new.example/", name="new")
    assert [json.loads(event.data) for event in kit.events] == [
        {"host": "hooks.example"},
        {"host": "new.example", "changed": ["url", "name"]},
    ]
    assert endpoints(kit).update(issued.record.id, org="org_1", headers={}).headers == frozenset()
    endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")
    assert sent.seen[0][0] == "https://new.example/"
    assert verifies(issued.secret, kit, sent.seen[0])


@pytest.mark.parametrize(
    "make",
    [lambda s, i: s.create(org="", url=URL), lambda s, i: s.create(org="org_1", url=URL, name="\n"),
     lambda s, i: s.create(org="org_1", url=URL, kind="v2"), lambda s, i: s.rotate(i, org="org_1", grace=-1), lambda s, i: s.rotate(i, org="org_1", grace=8 * DAY),
     lambda s, i: s.rotate(i, org="org_1", grace=True), lambda s, i: s.deliver(i, "text", org="org_1", id="m"),
     lambda s, i: s.deliver(i, BODY, org="org_1", id="a.b"), lambda s, i: s.deliver(i, BODY, org="org_1", id="m", attempt=0),
     lambda s, i: WebhookPolicy(agent="a\nb"), lambda s, i: WebhookPolicy(schedule=()), lambda s, i: WebhookPolicy(failures=0),
     lambda s, i: Bartizan("memory://", environment="test").webhook_endpoints],
)  # fmt: skip
def test_what_makes_no_sense_is_a_mistake(make: Callable[[Any, str], Any]) -> None:
    sent = Sent(200)
    kit = kit_of(sent)
    issued = endpoints(kit).create(org="org_1", url=URL)
    with pytest.raises(Misuse):
        make(endpoints(kit), issued.record.id)
    assert sent.seen == []


def test_who_does_not_send_needs_no_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpcore", None)
    kit = Kit(clock=FakeClock())
    issued = endpoints(kit).create(org="org_1", url=URL)
    with pytest.raises(Misuse, match=r"bartizan\[send\]"):
        endpoints(kit).deliver(issued.record.id, BODY, org="org_1", id="msg_1")


def listed(kit: Kit) -> Sequence[Any]:
    found: Sequence[Any] = endpoints(kit).list(org="org_1")
    return found


def test_a_change_and_its_event_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the event cannot be written, nothing is changed."""
    kit = kit_of(Sent(200))
    issued = endpoints(kit).create(org="org_1", url=URL)
    before, outbox = row_of(kit, issued.record.id), len(kit.events)
    change = backend(kit).change

    async def halfway(step: Any, /, *, also: Any = ()) -> Any:
        assert any(each.table.name == "bartizan_outbox" for each in also)
        raise Unavailable

    monkeypatch.setattr(backend(kit), "change", halfway)
    for touch in (endpoints(kit).rotate, endpoints(kit).disable, endpoints(kit).delete, endpoints(kit).update):
        with pytest.raises(Unavailable):
            touch(issued.record.id, org="org_1")
    with pytest.raises(Unavailable):
        endpoints(kit).create(org="org_1", url=URL)
    monkeypatch.setattr(backend(kit), "change", change)
    assert row_of(kit, issued.record.id) == before
    assert len(kit.events) == outbox
    assert len(listed(kit)) == 1
