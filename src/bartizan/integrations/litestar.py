"""Litestar: the gate directly before its router, inside whatever else it puts around that; the caller as a user."""

import logging
from typing import Any

from litestar import Litestar

from bartizan.asgi import App, GateMiddleware, Scope
from bartizan.core.passage import Admit
from bartizan.errors import Misuse, Rejected, Unavailable
from bartizan.gate.gate import Gate
from bartizan.integrations.coverage import tell
from bartizan.integrations.routes import routes_of
from bartizan.stores.streams import Receive, Send

_log = logging.getLogger("bartizan.integrations")

_MALFORMED = "\ufffd"  # a path that the gate refuses


class InstalledGate(GateMiddleware):
    """`GateMiddleware` that knows how Litestar's router reads a path, and refuses what it would read otherwise."""

    def __init__(self, router: Any, gate: Gate, owner: Litestar) -> None:
        super().__init__(_named(router), gate)
        self._router = router
        self._owner = owner
        self._seen = -1
        self._mounts: tuple[str, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As `GateMiddleware`; the first time it tells which routes and rules have no counterpart."""
        if self._seen != len(self._owner.routes):
            self.look()
        if not self._plain(scope):
            scope = {**scope, "path": _MALFORMED}
        await super().__call__(scope, receive, send)

    def look(self) -> None:
        """Learn the routes: at the start, and whenever there are more of them."""
        first, self._seen = self._seen < 0, len(self._owner.routes)
        handlers = [(route.path, getattr(route, "route_handler", None)) for route in self._owner.routes]
        paths = [path.rstrip("/") for path, handler in handlers if getattr(handler, "is_mount", False)]
        self._mounts = tuple(path for path in paths if path)
        if first:
            tell(self.gate, lambda: routes_of(self._owner))

    def _plain(self, scope: Scope) -> bool:
        """Whether the router reads the path as every other would.

        It cuts at the first place where `root_path` stands, wherever that is, and it takes `/mounted-and-more` for
        what is mounted at `/mounted`.
        """
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and root in path:
            path = path.removeprefix(root)
            if not scope["path"].startswith(root) or path[:1] not in {"", "/"}:
                return False
        path = "/" + path.strip("/")
        near = [mount for mount in self._mounts if path.startswith(mount) and path[len(mount) :][:1] not in {"", "/"}]
        if not near:
            return True
        try:
            _, _, rest, _, _ = self._router.handle_routing(path=path, method=scope.get("method"))
        except Exception:  # noqa: BLE001 - no route, or none for the method: the router's own answer
            return True
        return bool(rest[:1] == "/")


def install(app: Litestar, gate: Gate) -> None:
    """Put the gate directly before the router: Litestar's middleware belongs to its routes, and comes after it.

    Errors of ours that a handler raises before its response are answered like refusals. The caller is `request.user`,
    or None, and the verdict `request.auth`. `Misuse` where a gate is installed already.
    """
    around: Any = app.asgi_handler
    outside = []
    while getattr(around, "app", None) is not app.asgi_router:
        outside.append(type(around).__name__)
        around = getattr(around, "app", None)
        if around is None or isinstance(around, GateMiddleware):
            raise Misuse("this application has a gate already, or its router is wrapped by something else")
    installed = InstalledGate(app.asgi_router, gate, app)
    around.app = installed
    app.on_startup.append(installed.look)
    app.after_exception.append(_pass_on)
    if outside:
        _log.info("outside the gate, and not behind it: %s", ", ".join(outside))


async def _pass_on(error: Exception, _: Any) -> None:
    """Let an error of ours through to the gate, before Litestar makes an answer of it."""
    if isinstance(error, (Rejected, Unavailable)):
        raise error


def _named(router: App) -> App:
    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        admit = scope.get("bartizan")
        if isinstance(admit, Admit):
            scope["user"], scope["auth"] = admit.principal, admit
        await router(scope, receive, send)

    return named
