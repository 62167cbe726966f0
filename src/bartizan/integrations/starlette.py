"""Starlette: the gate as the innermost user middleware, and its verdict as `request.auth` and `request.user`."""

import logging
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, BaseUser, UnauthenticatedUser
from starlette.middleware import Middleware

from bartizan.asgi import App, GateMiddleware, Scope
from bartizan.core.passage import Admit
from bartizan.core.principal import Principal
from bartizan.errors import Misuse
from bartizan.gate.gate import Gate
from bartizan.integrations.coverage import tell
from bartizan.integrations.routes import routes_of
from bartizan.stores.streams import Receive, Send

_log = logging.getLogger("bartizan.integrations")


class User(BaseUser):
    """The caller as `request.user`; `principal` is what was verified."""

    def __init__(self, principal: Principal) -> None:
        self.principal: Principal = principal

    @property
    def is_authenticated(self) -> bool:
        """Always: there is one only for a verified caller."""
        return True

    @property
    def display_name(self) -> str:
        """The caller's name in the log."""
        return self.principal.actor

    @property
    def identity(self) -> str:
        """The caller's name in the log."""
        return self.principal.actor


class InstalledGate(GateMiddleware):
    """`GateMiddleware` that knows its place: directly before the router, inside every other user middleware."""

    def __init__(self, app: App, gate: Gate, owner: Starlette) -> None:
        super().__init__(app, gate)
        self.app: App = _named(app)
        self._owner = owner
        self._placed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As `GateMiddleware`; the first time it looks where it stands."""
        if not self._placed:
            try:
                self._look()
            except Misuse as error:
                _log.error("%s", error)  # servers pass over what a lifespan raises
                raise
        await super().__call__(scope, receive, send)

    def _look(self) -> None:
        outside: list[object] = [item.cls for item in self._owner.user_middleware]
        if outside.pop() is not type(self):
            raise Misuse("a middleware was appended behind the gate: it could change what the gate has decided on")
        check_routes(self._owner)
        self._placed = True
        if outside:
            names = ", ".join(getattr(cls, "__name__", "?") for cls in outside)
            _log.info("outside the gate, and not behind it: %s", names)
        tell(self.gate, lambda: routes_of(self._owner))


def install(app: Starlette, gate: Gate) -> None:
    """Put the gate directly before the router, whatever other middleware there is or will be added.

    Errors of ours that a handler raises before its response are answered like refusals. `Misuse` once the application
    has started, or where a gate is installed already.
    """
    if app.middleware_stack is not None:
        raise Misuse("install(app, gate) comes before the application has started")
    present: list[object] = [item.cls for item in app.user_middleware]
    if InstalledGate in present:
        raise Misuse("this application has a gate already")
    app.user_middleware.append(Middleware(InstalledGate, gate=gate, owner=app))


def check_routes(app: Any) -> None:
    """`Misuse` for routes that are not what they look like.

    Where the annotation of a parameter could not be read, its dependency never runs; where a mounted application has a
    `root_path`, it routes on another path than the gate saw.
    """
    for route in getattr(app, "routes", None) or ():
        dependant = getattr(route, "dependant", None)
        if dependant is not None and _unread(dependant):
            raise Misuse(
                "a route has a parameter whose annotation cannot be resolved, so its dependency would never run: "
                "define the dependency at module level, or leave out `from __future__ import annotations`"
            )
        if getattr(getattr(route, "app", None), "root_path", None):
            raise Misuse("a mounted application has a root_path of its own, which changes the path behind the gate")
        check_routes(route)  # a mounted application has routes of its own
        check_routes(getattr(route, "original_router", None))  # and so has a router that FastAPI included


def _unread(dependant: Any) -> bool:
    places = ("path_params", "query_params", "header_params", "cookie_params", "body_params")
    fields = [field for place in places for field in getattr(dependant, place, ())]
    return any(type(field.field_info.annotation).__name__ == "ForwardRef" for field in fields) or any(
        _unread(inner) for inner in dependant.dependencies
    )


def _named(app: App) -> App:
    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        admit = scope.get("bartizan")
        if isinstance(admit, Admit):
            caller = admit.principal
            scope["auth"] = AuthCredentials(["authenticated", *sorted(caller.scopes)] if caller is not None else [])
            scope["user"] = UnauthenticatedUser() if caller is None else User(caller)
        await app(scope, receive, send)

    return named
