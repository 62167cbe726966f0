"""Django: the gate as its last middleware, REST framework's caller and answers, and checks of what is set.

`settings.BARTIZAN_GATE = "pkg.module.gate"` names the gate.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import AppConfig  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]
from django.core import checks  # type: ignore[import-untyped]
from django.http import HttpResponse  # type: ignore[import-untyped]
from django.urls import get_resolver  # type: ignore[import-untyped]
from django.utils.module_loading import import_string  # type: ignore[import-untyped]

from bartizan.access.django import OrgWall as OrgWall  # noqa: PLC0414 - its public path
from bartizan.core.passage import Admit, Refuse
from bartizan.errors import Misuse, Rejected, TooLarge, Unavailable
from bartizan.gate.gate import BlockingGate, Gate
from bartizan.integrations.coverage import coverage, tell
from bartizan.integrations.django_caller import GateAuthentication, User
from bartizan.integrations.django_request import edit, pairs_of, request_of, size_of
from bartizan.integrations.passages import async_steps, restored, steps
from bartizan.integrations.routes import Route, of_django

__all__ = [
    "BartizanConfig",
    "GateAuthentication",
    "GateMiddleware",
    "User",
    "check_settings",
    "exception_handler",
    "gate_of_settings",
    "routes_of_settings",
]


def gate_of_settings() -> Gate:
    """The gate that `settings.BARTIZAN_GATE` names."""
    named = getattr(settings, "BARTIZAN_GATE", None)
    gate = import_string(named) if isinstance(named, str) else None
    if not isinstance(gate, Gate):
        raise Misuse('settings.BARTIZAN_GATE is the place of a gate: "pkg.module.gate"')
    return gate


def routes_of_settings() -> Iterator[Route]:
    """Every route of the URLconf that `settings.ROOT_URLCONF` names."""
    return of_django(get_resolver().url_patterns, "/", "/")


class GateMiddleware:
    """The gate, directly before Django's router: the last entry of `MIDDLEWARE`, or it is `Misuse`.

    The verdict is `request.bartizan`, except under `untouched()`. It serves WSGI and ASGI.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response: Callable[[Any], Any] = get_response
        self.async_mode: bool = iscoroutinefunction(get_response)
        if self.async_mode:
            markcoroutinefunction(self)
        self.gate: Gate = gate_of_settings()
        if not stands_last():
            raise Misuse("GateMiddleware stands last in MIDDLEWARE: what stands after it could change the path")
        self._told = False

    def __call__(self, request: Any) -> Any:
        """Serve one request."""
        if self.async_mode:
            return self._serve(request)
        self._tell()
        with restored():
            asked = request_of(request)
            verdict = self.gate.blocking.check(asked)
            if isinstance(verdict, Refuse):
                return _answer(verdict)
            if verdict.rule.requirement.look == "away":
                return self.get_response(request)
            request.bartizan = verdict
            response = self.get_response(request)
            if verdict.head is not None:
                edit(response, self.gate.blocking.begin(verdict.head, pairs_of(response)))
            if not self._goes_on(verdict, request, response):
                _left(self.gate.blocking, verdict, response)
            return response

    async def _serve(self, request: Any) -> Any:
        self._tell()
        with restored():
            asked = request_of(request)
            verdict = await self.gate.check(asked)
            if isinstance(verdict, Refuse):
                return _answer(verdict)
            if verdict.rule.requirement.look == "away":
                return await self.get_response(request)
            request.bartizan = verdict
            if size_of(request) > verdict.rule.body_limit:
                return _answer(self.gate.refusal(TooLarge(), asked))
            status, goes_on = 0, False
            try:
                response = await self.get_response(request)
                if verdict.head is not None:
                    edit(response, await self.gate.begin(verdict.head, pairs_of(response)))
                status, goes_on = response.status_code, self._goes_on(verdict, request, response)
                return response
            finally:  # it is cancelled where the client goes away
                if not goes_on:
                    verdict.over = True
                    if verdict.ends is not None:
                        await self.gate.end(verdict, status)

    def process_exception(self, request: Any, error: Exception) -> Any:
        """Answer an error of ours that a view raised like a refusal."""
        if isinstance(error, (Rejected, Unavailable)) and getattr(request, "bartizan", None) is not None:
            return _answer(self.gate.refusal(error, request_of(request)))
        return None

    def _goes_on(self, admit: Admit, request: Any, response: Any) -> bool:
        """Whether the body is still to be made: then each piece of it is made within the passage."""
        if not response.streaming:
            return False
        chunks = response.streaming_content
        if response.is_async:
            response.streaming_content = async_steps(self.gate, admit, aiter(chunks), request.close)
        else:
            response.streaming_content = steps(self.gate.blocking, admit, iter(chunks))
        response._resource_closers.append(partial(_left, self.gate.blocking, admit, response))  # noqa: SLF001
        return True

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            tell(self.gate, routes_of_settings)


def _left(gate: BlockingGate, admit: Admit, response: Any) -> None:
    admit.over = True
    if admit.ends is not None:
        gate.end(admit, response.status_code)


def _answer(refuse: Refuse) -> HttpResponse:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in refuse.headers}
    return HttpResponse(refuse.body, status=refuse.status, headers=headers)


def exception_handler(error: Exception, context: dict[str, Any]) -> Any:
    """For REST framework's `EXCEPTION_HANDLER`: errors of ours are answered like refusals, others as it does."""
    from rest_framework.views import (  # type: ignore[import-untyped]  # noqa: PLC0415 - who has it
        exception_handler as its_own,
        set_rollback,
    )

    request = context["request"]._request  # noqa: SLF001 - Django's own, inside REST framework's
    if isinstance(error, (Rejected, Unavailable)) and getattr(request, "bartizan", None) is not None:
        set_rollback()
        return _answer(gate_of_settings().refusal(error, request_of(request)))
    return its_own(error, context)


def stands_last() -> bool:
    """Whether the gate is the last entry of `MIDDLEWARE`."""
    last = import_string(settings.MIDDLEWARE[-1]) if settings.MIDDLEWARE else None
    return isinstance(last, type) and issubclass(last, GateMiddleware)


def check_settings(*_: Any, **__: Any) -> list[Any]:
    """What `manage.py check` says of the gate: its place, and which routes and rules have no counterpart."""
    try:
        gate = gate_of_settings()
    except (ImportError, Misuse) as error:
        return [checks.Error(str(error), id="bartizan.E001")]
    found = [] if stands_last() else [checks.Error("GateMiddleware stands last in MIDDLEWARE", id="bartizan.E002")]
    table = coverage(gate, routes_of_settings())
    found += [checks.Warning(f"no rule names the route {text}", id="bartizan.W001") for text in table.unnamed]
    found += [checks.Warning(f"no route meets the rule of {text}", id="bartizan.W002") for text in table.unmet]
    anywhere = [one.text for one in routes_of_settings() if one.rest and not one.shape]
    hint = "Begin a re_path with ^ and end it with $, without (?i) and |, or no rule can name what it routes."
    return found + [checks.Warning(f"{text} matches anywhere", hint, id="bartizan.W003") for text in anywhere]


def _ready(_: Any) -> None:
    checks.register(check_settings)


# `INSTALLED_APPS += ["bartizan.integrations.django.BartizanConfig"]` lets `manage.py check` look at the gate. Made this
# way, since a class with a base that has no types has none.
BartizanConfig: Any = type(
    "BartizanConfig", (AppConfig,), {"name": "bartizan.integrations.django", "label": "bartizan", "ready": _ready}
)
