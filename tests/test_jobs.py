"""The caller in other threads, tasks, generators and processes: there where it was meant to go, and gone afterwards."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from servers import ask, serving
from services import need_redis

from bartizan import Guard, JobPrincipal, Misuse, OrgAccess, Rule, allow, current_principal
from bartizan.core.context import current_context
from bartizan.core.principal import NOWHERE, current_unit
from bartizan.errors import InvalidCode, InvalidKey
from bartizan.integrations.fastapi import install
from bartizan.integrations.jobs import CARRIED, arq_enqueue, arq_function, bound, celery_task, contained, rq_job
from bartizan.testing import Kit, acting_as

READ = Guard("orders:read")


@pytest.fixture
def kit() -> Kit:
    return Kit()


def org() -> str:
    return READ.require().org


def job(kit: Kit, name: str = "org_1") -> Any:
    return kit.security.job("j", org=name, scopes={"orders:read"})


# --- threads and executors ---


def test_executor_loses_org(kit: Kit) -> None:
    """It is an error, not somebody else's organization; and `bound` is the way."""
    with job(kit), ThreadPoolExecutor(1) as pool:
        with pytest.raises(Misuse, match="no gate ran"):
            pool.submit(org).result()
        assert pool.submit(bound(org)).result() == "org_1"
        with pytest.raises(Misuse, match="no gate ran"):
            pool.submit(org).result()


def test_worker_thread_residue(kit: Kit) -> None:
    """What a job left behind in a pooled thread is refused there, and never taken for the next one's."""

    def careless() -> None:
        block = job(kit, "org_1")
        block.__enter__()
        copy_context().run(block.__exit__, None, None, None)  # it ends elsewhere

    with ThreadPoolExecutor(1) as pool:
        pool.submit(careless).result()
        for look in (org, current_principal, current_context, lambda: bool(current_unit.get().callers)):
            with pytest.raises(Misuse, match=r"left behind|over"):
                pool.submit(look).result()
        with job(kit, "org_2"):
            assert pool.submit(bound(org)).result() == "org_2"


def test_bound_to_what_is_over(kit: Kit) -> None:
    with job(kit):
        late, later = bound(org), bound(READ)
    with pytest.raises(Misuse, match="is over"):
        late()
    with pytest.raises(Misuse, match="is over"):
        asyncio.run(later())
    with pytest.raises(Misuse, match="no gate ran"):
        bound(org)


def test_bound_runs_for_whom_it_was_bound(kit: Kit) -> None:
    with job(kit, "org_1") as first, ThreadPoolExecutor(2) as pool:
        mine = bound(org)
        started, go = threading.Event(), threading.Event()

        def held() -> str:
            started.set()
            go.wait(10)
            return org()

        waiting = pool.submit(bound(held))
        started.wait(10)
        assert pool.submit(mine).result() == mine() == "org_1"
        go.set()
        assert waiting.result() == "org_1"
        assert current_principal() is first


def test_tasks_and_async_functions(kit: Kit) -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return org()

    async def failing() -> None:
        await asyncio.sleep(0)
        raise KeyError(org())

    async def main() -> None:
        with job(kit):
            there, wrong = bound(work), bound(failing)
            assert await asyncio.create_task(work()) == "org_1", "a task has a copy of the context by itself"
            assert await there() == "org_1"
            with pytest.raises(KeyError, match="org_1"):
                await wrong()
            assert await asyncio.to_thread(org) == "org_1"
            waiting = asyncio.create_task(there())
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            left = asyncio.create_task(work())
        with pytest.raises(Misuse, match="over"):
            await left

    asyncio.run(main())


# --- async generators ---


def test_async_generator_leaks_scope(kit: Kit) -> None:
    @contained
    async def rows() -> AsyncIterator[str]:
        with job(kit, "org_2"):
            yield org()
            await asyncio.sleep(0)
            yield org()

    async def main() -> list[str]:
        found = []
        async for row in rows():
            assert current_unit.get() is NOWHERE, "between the steps it is nobody's"
            found.append(row)
        with job(kit, "org_1"):
            return [*found, org()]

    assert asyncio.run(main()) == ["org_2", "org_2", "org_1"]


def test_aclose_from_other_task_reset_value_error(kit: Kit) -> None:
    ended = []

    async def plain() -> AsyncIterator[str]:
        with job(kit, "org_2"):
            try:
                yield org()
            finally:
                ended.append(current_principal().org if current_unit.get() is not NOWHERE else None)

    async def main() -> None:
        steps: Any = contained(plain)()
        assert await steps.__anext__() == "org_2"
        await asyncio.create_task(steps.aclose())
        assert ended == ["org_2"], "its end ran in its own context"
        assert current_unit.get() is NOWHERE
        bare: Any = plain()
        await bare.__anext__()
        await asyncio.create_task(bare.aclose())  # no ValueError
        with pytest.raises(Misuse, match="left behind"):
            current_principal()

    asyncio.run(main())


def test_an_error_and_a_cancellation_reach_a_contained_generator(kit: Kit) -> None:
    seen: list[str] = []

    @contained
    async def rows() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        steps = rows()
        assert await anext(steps) == 1

        async def step() -> int:
            return await anext(steps)

        task = asyncio.create_task(step())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["cancelled"]


# --- requests ---


def test_background_task_after_response(kit: Kit) -> None:
    """Starlette's own runs within the request; a task that outlives it has no organization left."""
    seen: list[Any] = []
    done = threading.Event()
    app = FastAPI()

    async def later() -> None:
        await asyncio.sleep(0.05)
        try:
            seen.append(org())
        except Misuse as error:
            seen.append(str(error))
        done.set()

    kept: set[Any] = set()

    @app.get("/orders")
    async def orders(tasks: BackgroundTasks, access: Annotated[OrgAccess, Depends(READ)]) -> str:
        tasks.add_task(lambda: seen.append(org()))
        kept.add(asyncio.create_task(later()))
        return access.org

    install(app, kit.security.gate([Rule("/orders", allow.secret_key("orders:read"))]))
    headers = kit.as_key(org="org_1", scopes={"orders:read"})
    with serving(app) as port:
        assert ask(port, "/orders", *headers.items()).status == 200
        assert done.wait(10)
    assert seen[0] == "org_1"
    assert "over" in seen[1]


def test_two_requests_at_once_do_not_mix(kit: Kit) -> None:
    app = FastAPI()

    @app.get("/orders")
    async def orders() -> str:
        first = org()
        for _ in range(20):
            await asyncio.sleep(0)
        assert first == org() == await asyncio.to_thread(org)
        return first

    install(app, kit.security.gate([Rule("/orders", allow.secret_key("orders:read"))]))
    keys = {name: kit.as_key(org=name, scopes={"orders:read"}) for name in ("org_1", "org_2", "org_3")}
    with serving(app) as port, ThreadPoolExecutor(6) as pool:
        asked = [(name, pool.submit(ask, port, "/orders", *keys[name].items())) for name in [*keys] * 10]
        assert all(answer.result().body.decode() == f'"{name}"' for name, answer in asked)


def test_cache_key_without_org(kit: Kit) -> None:
    with job(kit, "a"):
        first = current_context().key("b", "orders")
    with job(kit, "a:b"):
        assert current_context().key("orders") != first
        assert current_context().key("orders") == current_context().key("orders")
    assert len({first, "orders"}) == 2


# --- queues ---


@pytest.fixture
def app(kit: Kit) -> Iterator[Any]:
    from celery import Celery  # type: ignore[import-untyped]

    made = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.Task = celery_task(made.Task, kit.security)
    yield made
    made.close()


def celery_app(app: Any, seen: list[Any]) -> Any:
    @app.task(name="report", shared=False)  # type: ignore[untyped-decorator]
    def report(word: str) -> str:
        held = current_unit.get()
        seen.append(None if held is NOWHERE else (org(), current_principal(JobPrincipal).origin))
        return word

    return report


def test_celery_previous_tenant(kit: Kit, app: Any) -> None:
    """django-multitenant #213: a task that nobody carried ran as the one before it."""
    from celery.contrib.testing.worker import start_worker  # type: ignore[import-untyped]

    seen: list[Any] = []
    report = celery_app(app, seen)
    issued = [kit.key(org=name, scopes={"orders:read"}) for name in ("org_1", "org_2")]
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="error"):
        asked = []
        for key in issued:
            with acting_as(kit.security.blocking.keys.authenticate(key.key), of=kit):
                asked.append(report.delay("a"))
            asked.append(report.delay("b"))
        assert [each.get(timeout=20) for each in asked] == ["a", "b", "a", "b"]
    origins = [f"sk_test_{key.record.id}" for key in issued]
    assert seen == [("org_1", origins[0]), None, ("org_2", origins[1]), None]


def test_celery_task_under_a_forged_header(kit: Kit, app: Any) -> None:
    seen: list[Any] = []
    report = celery_app(app, seen)
    other = Kit()
    with acting_as(
        other.security.blocking.keys.authenticate(other.key(org="org_1", scopes={"orders:read"}).key), of=other
    ):
        forged = other.security.carry(name="report")
    with acting_as(kit.security.blocking.keys.authenticate(kit.key(org="org_1", scopes={"orders:read"}).key), of=kit):
        of_another_task = kit.security.carry(name="something_else")
    for text in (forged, of_another_task, "carry_AAAA", ""):
        done = report.apply(args=("a",), headers={CARRIED: text} if text else {CARRIED: "x"})
        assert isinstance(done.result, InvalidCode)
    assert seen == []


def test_celery_task_of_a_revoked_key(kit: Kit, app: Any) -> None:
    seen: list[Any] = []
    report = celery_app(app, seen)
    key = kit.key(org="org_1", scopes={"orders:read"})
    with acting_as(kit.security.blocking.keys.authenticate(key.key), of=kit):
        text = kit.security.carry(name="report")
    assert report.apply(args=("a",), headers={CARRIED: text}).result == "a"
    kit.security.blocking.keys.revoke(key.record.id, org="org_1")
    assert isinstance(report.apply(args=("a",), headers={CARRIED: text}).result, InvalidKey)
    assert len(seen) == 1


def test_arq_function(kit: Kit) -> None:
    async def report(_: Any, word: str) -> tuple[str, str | None]:
        await asyncio.sleep(0)
        return word, org() if current_unit.get() is not NOWHERE else None

    class Pool:
        async def enqueue_job(self, name: str, *args: Any, **kwargs: Any) -> Any:
            return name, args, kwargs

    async def main() -> None:
        wrapped = arq_function(report, kit.security)
        with job(kit, "org_1"):
            name, args, kwargs = await arq_enqueue(Pool(), kit.security, "report", "a")
        assert (name, args, set(kwargs)) == ("report", ("a",), {CARRIED})
        with job(kit, "org_2"):  # what a worker's context ought not to hold
            assert await wrapped({}, *args, **kwargs) == ("a", "org_1")
            assert await wrapped({}, "b") == ("b", None)
            with pytest.raises(InvalidCode):
                await arq_function(main, kit.security)({}, **kwargs)
            assert org() == "org_2"

    asyncio.run(main())


def report_by_rq(word: str) -> tuple[str, str | None]:
    return word, org() if current_unit.get() is not NOWHERE else None


def test_rq_job(kit: Kit) -> None:
    from redis import Redis
    from rq import Queue, SimpleWorker
    from rq.job import Job

    url = need_redis()
    connection = Redis.from_url(url)
    kind = rq_job(Job, kit.security)
    queue = Queue("bartizan_test", connection=connection, job_class=kind)
    queue.empty()  # type: ignore[no-untyped-call]
    with job(kit, "org_1"):
        carried = queue.enqueue(report_by_rq, "a")
    plain = queue.enqueue(report_by_rq, "b")
    try:
        SimpleWorker([queue], connection=connection, job_class=kind).work(burst=True, logging_level="ERROR")
        assert carried.return_value() == ("a", "org_1")
        assert plain.return_value() == ("b", None)
    finally:
        for each in (carried, plain):
            each.delete()
        connection.close()
