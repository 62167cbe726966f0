import asyncio
import os
import subprocess
import sys
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from servers import ask, serving

from bartizan import Bartizan, JobPrincipal, Misuse, Rule, allow, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.core.principal import NOBODY, Presence, current_unit
from bartizan.core.ring import new_root
from bartizan.errors import BartizanError, InvalidCode, InvalidKey, Reason, Unauthenticated
from bartizan.testing.kit import Kit, acting_as, headers_of
from bartizan.types import IssuedKey

DAY = 86_400


def reason_of(call: Any, *args: Any, **more: Any) -> Reason:
    with pytest.raises(BartizanError) as caught:
        call(*args, **more)
    return caught.value.reason


@pytest.fixture
def kit() -> Kit:
    return Kit()


def carried_by(kit: Kit, issued: IssuedKey, *, name: str = "report", **more: Any) -> str:
    with acting_as(kit.security.blocking.keys.authenticate(issued.key, environments={"live", "test"})):
        return kit.security.carry(name=name, **more)


@pytest.mark.parametrize("kind", ["secret", "publishable"])
def test_a_job_takes_up_what_was_carried(kit: Kit, kind: Any) -> None:
    issued = kit.key(org="org_1", kind=kind, scopes={"a:read", "c:read"})
    text = carried_by(kit, issued)
    before = current_unit.get()
    assert issued.key not in text
    with kit.security.resume(text, name="report") as job:
        assert current_principal() is job
        assert isinstance(job, JobPrincipal)
        assert (job.org, job.environment, job.scopes) == ("org_1", "test", frozenset({"a:read", "c:read"}))
        assert (job.name, job.actor, job.expires_at) == ("report", "job:report", kit.clock() + 3600)
        assert job.origin == f"{'sk' if kind == 'secret' else 'pk'}_test_{issued.record.id}"
        kit.security.blocking.recheck(job)
    assert current_unit.get() is before
    with kit.security.blocking.resume(text, name="report") as again:
        assert again.org == "org_1", "queues deliver twice"
    assert [(e.name, e.org, e.actor, e.target) for e in kit.events[1:3]] == [
        ("context.carried", "org_1", job.origin, "job:report"),
        ("context.resumed", "org_1", "job:report", "job:report"),
    ]
    assert text not in repr(kit.events)


def test_another_name_is_refused(kit: Kit) -> None:
    text = carried_by(kit, kit.key(org="org_1"))
    for name in ("reports", "repor", "Report", "report ", "nightly"):
        assert reason_of(kit.security.resume, text, name=name) is Reason.FORGED
    with pytest.raises(InvalidCode):
        kit.security.blocking.resume(text, name="x")


def test_after_expiry_it_is_refused(kit: Kit) -> None:
    text = carried_by(kit, kit.key(org="org_1"), seconds=60)
    kit.clock.advance(59)
    with kit.security.resume(text, name="report") as job:
        kit.security.blocking.recheck(job)
    kit.clock.advance(1)
    assert reason_of(kit.security.resume, text, name="report") is Reason.EXPIRED
    assert reason_of(kit.security.blocking.recheck, job) is Reason.EXPIRED, "what was taken up in time ends too"


def test_recheck_asks_for_what_was_carried(kit: Kit) -> None:
    issued = kit.key(org="org_1")
    text = carried_by(kit, issued)
    keys = kit.security.blocking.keys
    with kit.security.resume(text, name="report") as job:
        kit.security.blocking.recheck(job)
        keys.disable(issued.record.id, org="org_1")
        assert reason_of(kit.security.blocking.recheck, job) is Reason.KEY_DISABLED
        keys.enable(issued.record.id, org="org_1")
        kit.security.blocking.recheck(job)
        keys.revoke(issued.record.id, org="org_1")
        assert reason_of(kit.security.blocking.recheck, job) is Reason.KEY_REVOKED

        async def scene() -> None:
            with pytest.raises(InvalidKey):
                await kit.security.recheck(job)

        asyncio.run(scene())
    with kit.security.resume(text, name="report") as job:  # the text itself knows nothing of it
        assert reason_of(kit.security.blocking.recheck, job) is Reason.KEY_REVOKED


@pytest.mark.parametrize("kind", ["secret", "publishable"])
def test_recheck_of_any_principal(kit: Kit, kind: Any) -> None:
    issued = kit.key(org="org_1", kind=kind, expires_at=kit.clock() + 100)
    principal = kit.security.blocking.keys.authenticate(issued.key)

    async def ask_again() -> None:
        await kit.security.recheck(principal)

    asyncio.run(ask_again())
    kit.security.blocking.recheck(principal)
    kit.clock.advance(100)
    assert reason_of(kit.security.blocking.recheck, principal) is Reason.KEY_EXPIRED
    with pytest.raises(InvalidKey):
        asyncio.run(ask_again())


def test_a_job_of_the_programs_own_lives_as_long_as_the_program() -> None:
    security = Bartizan(environment="test", secrets=[new_root()])
    with security.job("nightly", org="org_1") as job:
        security.blocking.recheck(job)
        text = security.carry(name="next")
    with security.resume(text, name="next") as following:
        security.blocking.recheck(following)
        assert (following.origin, following.org) == ("job:nightly", "org_1")


def test_carried_once_more_it_stays_what_it_was(kit: Kit) -> None:
    issued = kit.key(org="org_1", scopes={"a:b"})
    first = carried_by(kit, issued, name="one", seconds=100)
    kit.clock.advance(10)
    with kit.security.resume(first, name="one"):
        second = kit.security.carry(name="two", seconds=DAY)
    with kit.security.resume(second, name="two") as job:
        assert job.expires_at == kit.clock() + 90, "it never lives longer by it"
        assert (job.origin, job.scopes) == (f"sk_test_{issued.record.id}", frozenset({"a:b"}))
        kit.security.blocking.keys.revoke(issued.record.id, org="org_1")
        assert reason_of(kit.security.blocking.recheck, job) is Reason.KEY_REVOKED
        kit.clock.advance(90)
        assert reason_of(kit.security.carry, name="three") is Reason.EXPIRED


def test_it_ends_with_its_key(kit: Kit) -> None:
    text = carried_by(kit, kit.key(org="org_1", expires_at=kit.clock() + 50), seconds=DAY)
    with kit.security.resume(text, name="report") as job:
        assert job.expires_at == kit.clock() + 50


def test_nobody_and_a_job_without_organization_carry_nothing(kit: Kit) -> None:
    with pytest.raises(Misuse, match="no gate ran"):
        Context().run(kit.security.carry, name="report")
    token = current_unit.set(Presence(NOBODY))
    with pytest.raises(Unauthenticated):
        kit.security.carry(name="report")
    current_unit.reset(token)
    with kit.security.job("sweep"), pytest.raises(Misuse, match="organization"):
        kit.security.carry(name="report")


def test_while_a_principal_is_current_no_other_organization_comes_in(kit: Kit) -> None:
    text = carried_by(kit, kit.key(org="org_1"))
    other = kit.security.blocking.keys.authenticate(kit.key(org="org_2").key)
    mine = kit.security.blocking.keys.authenticate(kit.key(org="org_1").key)
    with acting_as(other):
        for block in (
            kit.security.resume(text, name="report"), kit.security.job("x", org="org_1"), kit.security.job("x"),
            kit.security.blocking.job("x"),
        ):  # fmt: skip
            with pytest.raises(Misuse), block:
                raise AssertionError("nobody comes here")
            assert current_principal() is other
    with acting_as(mine), kit.security.resume(text, name="report") as job:
        assert job.org == "org_1"
    with kit.security.job("sweep"), kit.security.resume(text, name="report") as job:
        assert job.org == "org_1"


def test_what_is_not_ours_is_refused(kit: Kit) -> None:
    root = new_root()
    live, test = (Kit(environment=e, secrets=[root]) for e in ("live", "test"))
    link = test.security.blocking.links.issue("x", org="org_1", subject="anna", seconds=60)
    of_live = carried_by(live, live.key(org="org_1"))
    for text in (of_live, link, "carry_" + link[5:], carried_by(kit, kit.key(org="org_1")), "", "x" * 1_000_000, None):
        assert reason_of(test.security.resume, text, name="report") in {Reason.FORGED, Reason.MALFORMED}
    with live.security.resume(of_live, name="report") as job:
        assert job.environment == "live"


def test_the_environment_is_the_callers(kit: Kit) -> None:
    """A gate may serve keys of both; what is carried stays what it was."""
    text = carried_by(kit, kit.key(org="org_1", environment="live"))
    with kit.security.resume(text, name="report") as job:
        assert job.environment == "live"
        kit.security.blocking.recheck(job)


def test_misuse(kit: Kit) -> None:
    issued = kit.key(org="org_1")
    for name in ("", "x" * 101, "a\nb", None):
        with pytest.raises(Misuse):
            carried_by(kit, issued, name=name)  # type: ignore[arg-type]
        with pytest.raises(Misuse):
            kit.security.resume("carry_x", name=name)  # type: ignore[arg-type]
    for seconds in (0, -1, DAY + 1, True, 1.5, None):
        with pytest.raises(Misuse):
            carried_by(kit, issued, seconds=seconds)
    many = kit.key(org="org_1", scopes={f"resource{i}:{'x' * 80}" for i in range(100)})
    with pytest.raises(Misuse, match="one text"):
        carried_by(kit, many)
    without = Bartizan("memory://", environment="test")
    with pytest.raises(Misuse, match="secrets="):
        without.carry(name="x")
    with pytest.raises(Misuse, match="secrets="):
        without.resume("carry_x", name="x")


WORKER = """
import os, sys
from bartizan import Bartizan, current_principal
from bartizan.errors import BartizanError
security = Bartizan.from_env().blocking
try:
    with security, security.resume(sys.argv[1], name=sys.argv[2]) as job:
        security.recheck(job)
        print(current_principal().org, *sorted(job.scopes), job.origin)
except BartizanError as error:
    print(error.code, error.reason)
"""


def test_resumed_in_another_process_by_the_named_job(tmp_path: Path) -> None:
    """Carried out of a request through the gate; and refused under another name, after expiry, after a revocation."""
    root, url = new_root(), f"sqlite:///{tmp_path}/carry.db"
    environ = {"BARTIZAN_URL": url, "BARTIZAN_SECRETS": root, "BARTIZAN_ENVIRONMENT": "test"}

    def worker(text: str, name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", WORKER, text, name],
            capture_output=True, text=True, check=False, env={**os.environ, **environ},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    security = Bartizan(url, environment="test", secrets=[root])
    past = Bartizan(url, environment="test", secrets=[root], clock=lambda: security._shared.clock.seconds() - 7200)
    keys = security.blocking.keys
    issued = keys.create(org="org_1", kind="secret", scopes={"orders:read"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        text = security.carry(name="report").encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})

    with serving(GateMiddleware(app, security.gate([Rule("POST /report", allow.secret_key())]))) as port:
        text = ask(port, "/report", *headers_of(issued).items(), method="POST").body.decode()
    with acting_as(keys.authenticate(issued.key)):
        stale = past.carry(name="report")
    assert worker(text, "report") == f"org_1 orders:read sk_test_{issued.record.id}"
    assert worker(text, "nightly") == "invalid_code forged"
    assert worker(stale, "report") == "invalid_code expired"
    assert worker(text[:-1], "report") == "invalid_code malformed"
    keys.revoke(issued.record.id, org="org_1")
    assert worker(text, "report") == "invalid_key key_revoked"
