"""Work in other threads, tasks and processes: the caller goes along where it is meant to, and nowhere else.

`bound` is for threads, executors and tasks of the same request; `contained` for async generators; the rest is for
queues: `celery_task`, `arq_function` and `rq_job`. What is not carried runs for nobody, whoever ran there before.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, TypeVar

from bartizan.core.context import current_context as current_context, living_unit  # noqa: PLC0414 - its public path
from bartizan.core.principal import NOWHERE, current_unit
from bartizan.errors import Misuse
from bartizan.wiring import Bartizan

P = ParamSpec("P")
T = TypeVar("T")

CARRIED = "bartizan_carried"  # the header, keyword or item under which a queue keeps the text
_OVER = "the request or job that this function was bound to is over: carry its authority with security.carry"


def bound(function: Callable[P, T]) -> Callable[P, T]:
    """`function` for a thread, an executor or a task: it runs as the caller for whom it was bound, while that lasts.

    Each call has a context of its own, so that nothing of it is left behind in the thread. Once the request or job is
    over it refuses to begin. An async function is awaited in that context too.
    """
    unit, origin = living_unit(), copy_context()

    if iscoroutinefunction(function):
        steps: Callable[..., Any] = function

        @wraps(function)
        async def later(*args: Any, **kwargs: Any) -> Any:
            if unit.over:
                raise Misuse(_OVER)
            context = origin.copy()
            return await _Within(context, context.run(steps, *args, **kwargs))

        made: Any = later
        return made  # type: ignore[no-any-return]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if unit.over:
            raise Misuse(_OVER)
        return origin.copy().run(function, *args, **kwargs)

    return call


def contained(function: Callable[P, AsyncIterator[T]]) -> Callable[P, AsyncIterator[T]]:
    """An async generator function whose job or caller does not leak into whoever steps through it.

    Every step, and its end, runs in a context of the generator's own, whichever task it is that steps.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        context = copy_context()
        return _Steps(context, context.run(function, *args, **kwargs))

    return call


class _Steps(AsyncIterator[T]):
    def __init__(self, context: Context, steps: Any) -> None:
        self._context = context
        self._steps = steps

    def __anext__(self) -> Awaitable[T]:
        return _Within(self._context, self._steps.__anext__())

    async def aclose(self) -> None:
        """As the generator's."""
        await _Within(self._context, self._steps.aclose())


class _Within(Awaitable[T]):
    """An awaitable of which every step runs in one context."""

    def __init__(self, context: Context, work: Any) -> None:
        self._context = context
        self._work = work

    def __await__(self) -> Generator[Any, Any, T]:
        run = self._context.run
        steps: Any = run(self._work.__await__)
        act: Callable[..., Any] = steps.__next__
        value: tuple[Any, ...] = ()
        while True:
            try:
                waits = run(act, *value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                sent = yield waits
                act, value = (steps.__next__, ()) if sent is None else (steps.send, (sent,))
            except BaseException as error:  # noqa: BLE001 - a cancellation is passed on like any other
                act, value = steps.throw, (error,)


def _nobody() -> None:
    current_unit.set(NOWHERE)


def _alone(work: Callable[[], T]) -> T:
    """Run it for nobody, whoever was current in this thread; and leave nobody behind."""
    context = copy_context()
    context.run(_nobody)
    return context.run(work)


def _resumed(security: Bartizan, carried: object, name: str, work: Callable[[], T]) -> T:
    """Run it with what was carried, if anything was, and if the credential behind it still lives."""

    def resumed() -> T:
        if carried is None:
            return work()
        with security.resume(str(carried), name=name) as job:
            security.blocking.recheck(job)
            return work()

    return _alone(resumed)


def _carried(security: Bartizan, name: str, seconds: int) -> dict[str, str]:
    return {CARRIED: security.carry(name=name, seconds=seconds)} if current_unit.get().callers else {}


def celery_task(base: type[Any], security: Bartizan, *, seconds: int = 3600) -> type[Any]:
    """A task class for Celery, to be made `app.Task` before the tasks are declared.

    `apply_async` and `delay` carry the caller in a header, for this task alone and `seconds`; the worker runs the task
    as a job with it.
    """

    def apply_async(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        headers = {**(options.pop("headers", None) or {}), **_carried(security, self.name, seconds)}
        return base.apply_async(self, args, kwargs, headers=headers, **options)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        text = request.get(CARRIED) or (request.headers or {}).get(CARRIED)
        return _resumed(security, text, self.name, lambda: base.__call__(self, *args, **kwargs))

    members = {"abstract": True, "apply_async": apply_async, "__call__": call, "__doc__": base.__doc__}
    return type("CarriedTask", (base,), members)


def arq_function(
    function: Callable[..., Coroutine[Any, Any, T]], security: Bartizan
) -> Callable[..., Coroutine[Any, Any, T]]:
    """A function for `functions=` of an arq worker, which runs as a job with what `arq_enqueue` carried."""
    name = function.__name__

    @wraps(function)
    async def call(ctx: Any, *args: Any, **kwargs: Any) -> T:
        text = kwargs.pop(CARRIED, None)
        context = copy_context()
        context.run(_nobody)

        async def work() -> T:
            if text is None:
                return await function(ctx, *args, **kwargs)
            with security.resume(text, name=name) as job:
                await security.recheck(job)
                return await function(ctx, *args, **kwargs)

        return await _Within(context, context.run(work))

    return call


async def arq_enqueue(pool: Any, security: Bartizan, name: str, *args: Any, seconds: int = 3600, **kwargs: Any) -> Any:
    """What the pool gives for its new job; the caller goes along, for the function `name` alone."""
    return await pool.enqueue_job(name, *args, **kwargs, **_carried(security, name, seconds))


def rq_job(base: type[Any], security: Bartizan, *, seconds: int = 3600) -> type[Any]:
    """A job class for RQ, of both ends: `Queue(job_class=…)` and `Worker(job_class=…)`."""

    def create(cls: Any, *args: Any, **kwargs: Any) -> Any:
        job = base.create.__func__(cls, *args, **kwargs)
        job.meta.update(_carried(security, job.func_name, seconds))
        return job

    def perform(self: Any) -> Any:
        return _resumed(security, self.meta.get(CARRIED), self.func_name, lambda: base.perform(self))

    return type("CarriedJob", (base,), {"create": classmethod(create), "perform": perform, "__doc__": base.__doc__})
