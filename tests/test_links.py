import asyncio
import copy
import json
import logging
import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from servers import ask, serving

from bartizan import Bartizan, Misuse, NotFound, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.encoding import unbase64url
from bartizan.core.events import OUTBOX
from bartizan.core.once import ONCE
from bartizan.core.principal import Presence, current_unit
from bartizan.core.ring import new_root
from bartizan.core.tables import AnyStep, Insert
from bartizan.errors import BartizanError, InvalidCode, MethodNotAllowed, Reason, Rejected, Unavailable
from bartizan.stores.memory import MemoryBackend
from bartizan.testing.clock import FakeClock
from bartizan.testing.kit import Kit, acting_as
from bartizan.types import Link

DAY = 86_400
INVITATION = {"org": "org_1", "subject": "anna"}


class Watched(MemoryBackend):
    """Counts, and refuses a change that carries no event."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.accesses = 0

    async def read(self, *refs: Any) -> Any:
        self.accesses += 1
        return await super().read(*refs)

    async def change(self, step: Any, /, *, also: Sequence[AnyStep] = ()) -> Any:
        self.accesses += 1
        assert any(isinstance(other, Insert) and other.table is OUTBOX for other in also), step
        return await super().change(step, also=also)


@pytest.fixture(params=["memory", "sqlite"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    made = Kit(url="memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/links.db")
    with made.security.blocking:
        yield made


def invited(kit: Kit, **more: Any) -> str:
    return kit.security.blocking.links.issue("invitation", **{**INVITATION, "seconds": DAY, **more})


def redeem(kit: Kit, text: Any, **more: Any) -> Link:
    return kit.security.blocking.links.redeem(text, **{"purpose": "invitation", "org": "org_1", **more})


def reason_of(kit: Kit, text: Any, **more: Any) -> Reason:
    with pytest.raises(InvalidCode) as caught:
        redeem(kit, text, **more)
    return caught.value.reason


def used(kit: Kit) -> int:
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    return len(asyncio.run(_found(backend)))


async def _found(backend: Any) -> Sequence[Any]:
    rows: Sequence[Any] = await backend.find(ONCE, ())
    return rows


def test_an_invitation_is_redeemed_once(kit: Kit) -> None:
    text = invited(kit)
    assert used(kit) == 0, "there is no table of links"
    link = redeem(kit, text)
    assert (link.purpose, link.org, link.subject, link.expires_at) == ("invitation", "org_1", "anna", kit.clock() + DAY)
    assert repr(link) == "<Link invitation of org_1>"
    for _ in range(2):
        assert reason_of(kit, text) is Reason.ALREADY_USED
    kit.clock.advance(DAY - 1)
    assert reason_of(kit, text) is Reason.ALREADY_USED
    assert redeem(kit, invited(kit)).subject == "anna"
    assert used(kit) == 2


def test_the_same_with_await(kit: Kit) -> None:
    async def scene() -> None:
        links = kit.security.links
        text = await links.issue("invitation", org="org_1", subject="anna", seconds=60)
        assert (await links.redeem(text, purpose="invitation", org="org_1")).subject == "anna"
        with pytest.raises(InvalidCode):
            await links.redeem(text, purpose="invitation", org="org_1")

    asyncio.run(scene())


def test_a_reusable_link_writes_nothing_and_goes_by_get(kit: Kit) -> None:
    text = invited(kit, once=False)
    token = current_unit.set(Presence((), "GET"))
    for _ in range(3):
        assert redeem(kit, text).subject == "anna"
    current_unit.reset(token)
    assert used(kit) == 0
    kit.clock.advance(DAY)
    assert reason_of(kit, text) is Reason.EXPIRED


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_scanner_that_follows_the_link_does_not_use_it_up(kit: Kit, method: str) -> None:
    text = invited(kit)
    token = current_unit.set(Presence((), method))
    for _ in range(2):
        with pytest.raises(MethodNotAllowed) as caught:
            redeem(kit, text)
        assert caught.value.reason is Reason.LINK_BY_GET
        assert caught.value.headers == (("Allow", "POST"),)
    assert reason_of(kit, text[:-1]) is Reason.MALFORMED, "what is no link says nothing of methods"
    current_unit.reset(token)
    assert redeem(kit, text).subject == "anna"


@pytest.mark.parametrize("method", ["POST", "PUT", "WEBSOCKET", None])
def test_other_methods_redeem(kit: Kit, method: str | None) -> None:
    token = current_unit.set(Presence((), method))
    assert redeem(kit, invited(kit)).subject == "anna"
    current_unit.reset(token)


def test_a_link_is_for_one_purpose_state_and_organization(kit: Kit) -> None:
    text = invited(kit, state="anna@old.example")
    right = {"state": "anna@old.example"}
    for wrong in (
        {"purpose": "download", **right}, {"purpose": "invitatio", "state": "nanna@old.example"}, {}, {"state": ""},
        {"state": "anna@new.example"}, {"state": "x" * 1001}, {"state": "\ud800"},
    ):  # fmt: skip
        assert reason_of(kit, text, **wrong) is Reason.FORGED
    for org in ("org_2", "", "org_1\0", "x" * 1_000_000, "\ud800"):
        assert reason_of(kit, text, org=org, **right) is Reason.WRONG_ORGANIZATION
    assert used(kit) == 0
    assert redeem(kit, text, **right).subject == "anna"
    assert b"example" not in (unbase64url(text[5:-44]) or b"")


def test_whatever_is_wrong_looks_the_same(kit: Kit) -> None:
    text = invited(kit)
    redeem(kit, text)
    problems = set()
    for wrong in (text, text[:-1], invited(kit)[:-3] + "AAA", "", "x" * 1_000_000):
        with pytest.raises(InvalidCode) as caught:
            redeem(kit, wrong)
        problems.add((json.dumps(caught.value.problem), str(caught.value), caught.value.headers))
    assert len(problems) == 1


def test_an_expired_link_is_over_at_its_second(kit: Kit) -> None:
    text = invited(kit, seconds=30 * DAY)
    kit.clock.advance(30 * DAY)
    assert reason_of(kit, text) is Reason.EXPIRED
    kit.clock.advance(-1)
    assert redeem(kit, text).subject == "anna"
    kit.clock.advance(1 + 3600)
    kit.security._shared.upkeep.flush()
    assert used(kit) == 0, "its marker is kept till then"


def test_what_is_not_ours_costs_no_store_access() -> None:
    clock = FakeClock()
    backend = Watched(clock)
    kit = Kit(url=backend, clock=clock)
    stranger, live = Kit(clock=clock), Kit(clock=clock, environment="live")
    expired = invited(kit, seconds=1)
    clock.advance(1)
    ours = invited(kit)
    carried = ""
    with kit.security.job("x", org="org_1"):
        carried = kit.security.carry(name="x")
    for text in (expired, invited(stranger), invited(live), carried, ours[:-1], "link_" + carried[6:], "", None, b"x"):
        assert reason_of(kit, text) in {Reason.EXPIRED, Reason.FORGED, Reason.MALFORMED}
    reason_of(kit, ours, org="org_2")
    reason_of(kit, ours, purpose="download")
    assert backend.accesses == 0
    redeem(kit, ours)
    assert backend.accesses == 1


def test_one_change_that_carries_its_event() -> None:
    clock = FakeClock()
    backend = Watched(clock)
    kit = Kit(url=backend, clock=clock)
    text = invited(kit)
    with kit.security.job("mailer", org="org_1"):
        redeem(kit, text)
    reason_of(kit, text)
    assert [(e.name, e.org, e.actor, e.target, e.data) for e in kit.events] == [
        ("link.issued", "org_1", "system", "anna", '{"purpose":"invitation"}'),
        ("link.redeemed", "org_1", "job:mailer", "anna", '{"purpose":"invitation"}'),
    ]


def test_racing_redemptions_have_one_winner(kit: Kit) -> None:
    text = invited(kit)
    won: list[Link] = []
    lost: list[Reason] = []
    start = threading.Barrier(64)

    def race() -> None:
        start.wait()
        try:
            won.append(redeem(kit, text))
        except InvalidCode as error:
            lost.append(error.reason)

    threads = [threading.Thread(target=race) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost), set(lost)) == (1, 63, {Reason.ALREADY_USED})
    assert [event.name for event in kit.events].count("link.redeemed") == 1


def test_used_in_one_process_is_used_in_all(tmp_path: Path) -> None:
    clock, root = FakeClock(), new_root()
    url = f"sqlite:///{tmp_path}/links.db"
    here, there = (Bartizan(url, environment="test", secrets=[root], clock=clock).blocking for _ in range(2))
    with here, there:
        text = here.links.issue("invitation", org="org_1", subject="anna", seconds=60)
        there.links.redeem(text, purpose="invitation", org="org_1")
        with pytest.raises(InvalidCode):
            here.links.redeem(text, purpose="invitation", org="org_1")


def test_a_cancelled_redemption_is_whole_or_absent(tmp_path: Path) -> None:
    async def cancelled_after(steps: int) -> tuple[int, int]:
        kit = Kit(url=f"sqlite:///{tmp_path}/{steps}.db")
        async with kit.security as security:
            text = await security.links.issue("invitation", org="org_1", subject="anna", seconds=60)
            task = asyncio.ensure_future(security.links.redeem(text, purpose="invitation", org="org_1"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            backend = security._shared.side.backend
            assert backend is not None
            rows = len(await backend.find(ONCE, ()))
            return rows, [event.name for event in kit.events].count("link.redeemed")

    assert {asyncio.run(cancelled_after(steps)) for steps in range(8)} <= {(0, 0), (1, 1)}


def test_a_store_that_fails_admits_nobody() -> None:
    class Failing(MemoryBackend):
        async def change(self, *_: Any, **__: Any) -> Any:
            raise Unavailable

    kit = Kit(url=Failing())
    with pytest.raises(Unavailable):
        redeem(kit, invited(kit))


def test_while_a_principal_is_current_it_is_its_organization(kit: Kit) -> None:
    text = invited(kit)
    theirs = kit.security.blocking.keys.authenticate(kit.key(org="org_2").key)
    with acting_as(theirs):
        for call in (lambda: invited(kit), lambda: redeem(kit, text)):
            with pytest.raises(NotFound) as caught:
                call()
            assert caught.value.reason is Reason.WRONG_ORGANIZATION
    with kit.security.job("sweep"):
        redeem(kit, text)
    assert [(e.name, e.org) for e in kit.events[-2:]] == [("organization.named", "org_1"), ("link.redeemed", "org_1")]


def test_an_older_root_reads_and_a_dropped_one_no_longer() -> None:
    clock, backend, (old, new) = FakeClock(), MemoryBackend(FakeClock()), (new_root(), new_root())
    one, both, after = (Kit(url=backend, clock=clock, secrets=s) for s in ([old], [new, old], [new]))
    text, second = invited(one), invited(one)
    assert redeem(both, text).subject == "anna"
    assert reason_of(after, second) is Reason.FORGED
    assert redeem(after, invited(both)).subject == "anna"


def test_misuse(kit: Kit) -> None:
    for wrong in (
        {"seconds": 0}, {"seconds": 30 * DAY + 1}, {"seconds": True}, {"seconds": None}, {"subject": ""},
        {"subject": "x" * 129}, {"subject": None}, {"subject": "a\nb"}, {"org": ""}, {"org": "x" * 129},
        {"state": "x" * 1001},
    ):  # fmt: skip
        with pytest.raises(Misuse):
            invited(kit, **wrong)
    for purpose in ("", "x" * 101, "a\0", None):
        with pytest.raises(Misuse):
            kit.security.blocking.links.issue(purpose, org="o", subject="s", seconds=1)  # type: ignore[arg-type]
    for state in (None, b"x"):
        with pytest.raises(Misuse):
            redeem(kit, invited(kit), state=state)
    for lacking in ({"url": "memory://"}, {"secrets": [new_root()]}):
        with pytest.raises(Misuse, match="url= and secrets="):
            _ = Bartizan(environment="test", **lacking).links


def test_the_longest_ids_fit(kit: Kit) -> None:
    longest = {"org": "🏰" * 128, "subject": '"' * 128, "state": "🏰" * 1000}
    text = kit.security.blocking.links.issue("🏰" * 100, seconds=1, **longest)  # type: ignore[arg-type]
    more = {"org": longest["org"], "state": longest["state"]}
    assert redeem(kit, text, purpose="🏰" * 100, **more).subject == longest["subject"]


def test_only_redeeming_makes_a_link(kit: Kit) -> None:
    link = redeem(kit, invited(kit))
    for act in (copy.copy, pickle.dumps, lambda x: setattr(x, "org", "org_2"), Link):
        with pytest.raises(Misuse):
            act(link)
    app = FastAPI()

    def accept(link: Link) -> None: ...

    with pytest.raises((Misuse, BartizanError)):
        app.post("/accept")(accept)


def test_a_link_is_told_to_nobody(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = invited(kit)
    link = redeem(kit, text)
    with pytest.raises(Rejected) as caught:
        redeem(kit, text)
    kit.security._shared.upkeep.flush()
    told = [
        repr(kit.events),
        repr(link),
        repr(caught.value),
        str(caught.value),
        caplog.text,
        repr(caught.value.__dict__),
    ]
    assert all(text not in place and text[-43:] not in place for place in told)


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_one_time_link_is_not_used_up_by_get(http: str) -> None:
    """Through the gate: a scanner follows the link of a mail before its reader does, and says so with GET or HEAD."""
    kit = Kit()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        text = scope["query_string"].decode()
        link = await kit.security.links.redeem(text, purpose="invitation", org=scope["path"].split("/")[2])
        headers = [(b"content-length", b"%d" % len(link.subject))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": link.subject.encode()})

    gate = kit.security.gate([Rule("GET|POST /orgs/*/accept", allow.public())])
    text = invited(kit)
    with serving(GateMiddleware(app, gate), http) as port:
        for method in ("GET", "HEAD", "GET"):
            answer = ask(port, f"/orgs/org_1/accept?{text}", method=method)
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert ask(port, f"/orgs/org_2/accept?{text}", method="POST").status == 401
        accepted = ask(port, f"/orgs/org_1/accept?{text}", method="POST")
        assert (accepted.status, accepted.body) == (200, b"anna")
        assert ask(port, f"/orgs/org_1/accept?{text}", method="POST").status == 401
        assert ask(port, f"/orgs/org_1/accept?{text}", method="GET").status == 405
        assert ask(port, f"/orgs/org_1/accept?{text[:-1]}", method="GET").status == 401
    reasons = [event.reason for event in kit.events if event.outcome == "refused"]
    assert reasons == [*["link_by_get"] * 3, "wrong_organization", "already_used", "link_by_get", "malformed"]


def test_whoever_calls_an_application_in_its_own_task_is_left_without_its_method() -> None:
    kit = Kit()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_unit.get().method == "GET"

    async def nothing(*_: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    asyncio.run(_called(GateMiddleware(app, kit.security.gate([Rule("/x", allow.public())])), scope, nothing))


async def _called(app: Any, scope: Any, nothing: Any) -> None:
    await app(scope, nothing, nothing)
    assert current_unit.get().method is None
