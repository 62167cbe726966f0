"""Litestar: the gate directly before its router, whatever it puts around that."""

import logging
from pathlib import Path
from typing import Any

import pytest
from frameworks import asked
from litestar import Litestar, MediaType, Request, Response, WebSocket, asgi, get, websocket
from litestar.config.cors import CORSConfig
from litestar.static_files import create_static_files_router
from litestar.types import Receive, Scope, Send
from servers import ask, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from bartizan import Misuse, Rule, allow, current_principal
from bartizan.errors import MissingScope
from bartizan.integrations.litestar import install
from bartizan.testing import Kit
from bartizan.testing.kit import headers_of

RULES = [
    Rule("/admin/**", allow.secret_key()),
    Rule("/open/**", allow.public()),
    Rule("/away/**", allow.untouched()),
    Rule("/**", allow.publishable_key()),
]


def mounted(path: str) -> Any:
    @asgi(path, is_mount=True, copy_scope=True)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("mounted " + scope["path"], media_type=MediaType.TEXT).to_asgi_response(None, Request(scope))(
            scope, receive, send
        )

    return mount


def app_of(kit: Kit, *handlers: Any, **more: Any) -> Litestar:
    app = Litestar(list(handlers), openapi_config=None, logging_config=None, **more)
    install(app, kit.security.gate(RULES))
    return app


def test_a_handler_knows_the_caller() -> None:
    @get(["/who", "/open/who", "/away/who"], media_type=MediaType.TEXT)
    async def who(request: Request[Any, Any, Any]) -> str:
        user = request.scope.get("user")
        return f"{user and user.actor} {getattr(request.scope.get('auth'), 'rule', None)}"

    kit = Kit()
    page = kit.key(org="o", kind="publishable")
    app = app_of(kit, who)
    assert asked(app, "/who", headers_of(page)).body.decode() == f"pk_test_{page.record.id} Rule('/**')"
    assert asked(app, "/open/who").body == b"None Rule('/open/**')"
    assert asked(app, "/away/who").body == b"None None"


@pytest.mark.parametrize("target", ["/adminx/y", "/admin.php", "/adminadmin/x", "/admin;/x", "/admin%20x"])
def test_a_mount_that_takes_more_than_its_path(target: str) -> None:
    """`mount_by_prefix`: Litestar routes `/adminx/y` to what is mounted at `/admin`; the rule of `/admin/**` does not."""
    kit = Kit()
    secret, page = kit.as_key(org="o"), kit.as_key(org="o", kind="publishable")
    bare = Litestar([mounted("/admin")], openapi_config=None, logging_config=None)
    assert asked(bare, target).body.startswith(b"mounted")  # as it is without us
    app = app_of(kit, mounted("/admin"))
    assert asked(app, target, page).status == 404
    assert kit.events[-1].reason == "malformed_target"
    assert asked(app, "/admin/x", page).status == 403
    assert asked(app, "/admin", page).status == 403
    assert asked(app, "/admin/x", secret).body.startswith(b"mounted")


def test_a_mount_registered_after_the_start_is_as_guarded() -> None:
    kit = Kit()
    page = kit.as_key(org="o", kind="publishable")
    app = app_of(kit, mounted("/other"))
    assert asked(app, "/other/x", page).status == 200
    app.register(mounted("/admin"))
    assert asked(app, "/adminx/y", page).status == 404
    assert asked(app, "/admin/x", page).status == 403


def test_a_route_beside_a_mount_is_its_own() -> None:
    @get("/admins", media_type=MediaType.TEXT, sync_to_thread=False)
    def admins() -> str:
        return "beside"

    kit = Kit()
    app = app_of(kit, mounted("/admin"), admins)
    assert asked(app, "/admins", kit.as_key(org="o", kind="publishable")).body == b"beside"


def test_a_mount_at_the_root() -> None:
    kit = Kit()
    app = app_of(kit, mounted("/"))
    assert asked(app, "/admin/x", kit.as_key(org="o", kind="publishable")).status == 403
    assert asked(app, "/admin/x", kit.as_key(org="o")).body.startswith(b"mounted")


def test_static_files(tmp_path: Path) -> None:
    (tmp_path / "plans.txt").write_text("secret plans", "utf-8")
    kit = Kit()
    app = app_of(
        kit,
        create_static_files_router(path="/admin", directories=[tmp_path]),
        create_static_files_router(path="/open", directories=[tmp_path], name="open"),
    )
    secret, page = kit.as_key(org="o"), kit.as_key(org="o", kind="publishable")
    with serving(app) as port:
        assert ask(port, "/admin/plans.txt", *secret.items()).body.find(b"secret plans") >= 0
        assert ask(port, "/open/plans.txt").body.find(b"secret plans") >= 0
        for target in ("/admin/plans.txt", "/%61dmin/plans.txt", "/admin", "/admin/"):
            assert ask(port, target, *page.items()).status == 403, target
        for target in (
            "/open/../admin/plans.txt", "/open/%2e%2e/admin/plans.txt", "/open/..%2fadmin%2fplans.txt", "//admin/plans.txt",
            "/adminplans.txt", "/admin%2fplans.txt",
        ):  # fmt: skip
            answer = ask(port, target, *page.items())
            assert answer.status == 404, target
            assert b"plans" not in answer.body


def test_websockets() -> None:
    @websocket("/live")
    async def live(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(current_principal().org or "")
        await socket.close()

    @websocket("/raise")
    async def raising(socket: WebSocket[Any, Any, Any]) -> None:
        raise MissingScope

    kit = Kit()
    page = kit.as_key(org="org_1", kind="publishable")
    with serving(app_of(kit, live, raising)) as port:
        with connect(f"ws://127.0.0.1:{port}/live", additional_headers=page) as socket:
            assert socket.recv() == "org_1"
        for path, headers, status in (("/live", {}, 401), ("/admin/live", page, 403), ("/raise", page, 403)):
            with pytest.raises((InvalidStatus, ConnectionClosed)) as refused:
                connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers)
            assert isinstance(refused.value, InvalidStatus)
            assert refused.value.response.status_code == status
            assert kit.events[-1].name == "request.refused"


def test_an_error_of_ours_passes_handlers_of_the_application() -> None:
    """Whatever it answers other exceptions with, and though the error is raised below several of its layers."""

    def catch(_: Any, __: Exception) -> Any:
        raise AssertionError

    class Layer:
        def __init__(self, app: Any, **_: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    @get("/raise", exception_handlers={Exception: catch}, middleware=[Layer, Layer])
    async def raising() -> None:
        raise MissingScope

    kit = Kit()
    app = app_of(kit, raising, exception_handlers={500: catch})
    answer = asked(app, "/raise", kit.as_key(org="o", kind="publishable"))
    assert (answer.status, answer.headers["content-type"]) == (403, "application/problem+json")
    assert [event.name for event in kit.events[-1:]] == ["request.refused"]


def test_install_is_misuse_twice_and_tells_what_stands_outside(caplog: pytest.LogCaptureFixture) -> None:
    kit = Kit()
    with caplog.at_level(logging.INFO, "bartizan.integrations"):
        app = app_of(kit, cors_config=CORSConfig(allow_origins=["https://shop.example"]))
    assert "CORSMiddleware" in caplog.text
    with pytest.raises(Misuse, match="already"):
        install(app, kit.security.gate(RULES))
    assert asked(app, "/admin/x").status == 401
