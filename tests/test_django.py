"""Django: the gate as its last middleware, what REST framework makes of it, and what `manage.py check` says."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.core import checks  # type: ignore[import-untyped]
from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.http import HttpResponse, StreamingHttpResponse  # type: ignore[import-untyped]
from django.test import override_settings  # type: ignore[import-untyped]
from django.urls import path, re_path  # type: ignore[import-untyped]
from frameworks import asked, django_site
from rest_framework.permissions import IsAuthenticated  # type: ignore[import-untyped]
from rest_framework.response import Response  # type: ignore[import-untyped]
from rest_framework.views import APIView  # type: ignore[import-untyped]
from servers import ask, exchange, serving, wsgi_serving

from bartizan import Guard, Misuse, Rule, allow, current_principal
from bartizan.errors import MissingScope, Unavailable
from bartizan.integrations.django import BartizanConfig, GateAuthentication, GateMiddleware, check_settings
from bartizan.stores import watches
from bartizan.testing import Kit

RULES = [
    Rule("/open/**", allow.public()),
    Rule("/away/**", allow.untouched()),
    Rule("/page/**", allow.optional(allow.publishable_key())),
    Rule("/**", allow.secret_key()),
]
HANDLERS = {"wsgi": (WSGIHandler, wsgi_serving), "asgi": (ASGIHandler, serving)}
both = pytest.mark.parametrize("kind", HANDLERS)
REST: dict[str, Any] = {"REST_FRAMEWORK": {"UNAUTHENTICATED_USER": None}}  # there is no `django.contrib.auth` here
seen: list[Any] = []


def who(request: Any) -> HttpResponse:
    return HttpResponse(f"{request.bartizan.principal.org} {current_principal().org}")


async def who_async(request: Any) -> HttpResponse:
    return HttpResponse(f"{request.bartizan.principal.org} {current_principal().org}")


def raising(request: Any, what: str) -> HttpResponse:
    raise {"scope": MissingScope, "store": Unavailable, "bug": ValueError}[what]


def away(request: Any) -> HttpResponse:
    return HttpResponse(str(hasattr(request, "bartizan")))


def pieces(request: Any) -> StreamingHttpResponse:
    access = Guard("a:b").require()

    def made() -> Iterator[str]:
        for n in range(3):
            seen.append(access)
            yield f"{access.org}{current_principal().org}{n} "

    return StreamingHttpResponse(made())


async def pieces_async(request: Any) -> StreamingHttpResponse:
    access = Guard("a:b").require()

    async def made() -> AsyncIterator[str]:
        for n in range(3):
            seen.append(access)
            yield f"{access.org}{current_principal().org}{n} "

    return StreamingHttpResponse(made())


def endless(request: Any) -> StreamingHttpResponse:
    def made() -> Iterator[bytes]:
        yield b"first "
        seen.append("revoked")
        revoke()
        for _ in range(1000):
            yield b"more "

    return StreamingHttpResponse(made())


async def endless_async(request: Any) -> StreamingHttpResponse:
    async def made() -> AsyncIterator[bytes]:
        yield b"first "
        seen.append("revoked")
        await asyncio.to_thread(revoke)
        for _ in range(1000):
            yield b"more "

    return StreamingHttpResponse(made())


def revoke() -> None:
    """What `test_a_stream_ends_with_its_key` sets."""


class Orders(APIView):  # type: ignore[misc]
    authentication_classes = (GateAuthentication,)
    permission_classes = (IsAuthenticated,)

    def get_exception_handler(self) -> Any:
        from bartizan.integrations.django import exception_handler

        return exception_handler

    def get(self, request: Any, what: str = "") -> Response:
        if what:
            raise {"scope": MissingScope, "store": Unavailable}[what]
        user = request.user
        return Response([str(user), user.pk, user.principal.org, request.auth.org, user.is_authenticated])


class PlainOrders(APIView):  # type: ignore[misc]
    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Any) -> Response:
        raise MissingScope


URLS = [
    path("who", who),
    path("who-async", who_async),
    path("raise/<what>", raising),
    path("away/x", away),
    path("away/raise/<what>", raising),
    path("pieces", pieces),
    path("pieces-async", pieces_async),
    path("endless", endless),
    path("endless-async", endless_async),
    path("rest/", Orders.as_view()),
    path("rest/<what>", Orders.as_view()),
    path("plain-rest", PlainOrders.as_view()),
    path("page/rest", Orders.as_view()),
    path("slash/", who),
]


@pytest.fixture
def kit() -> Kit:
    seen.clear()
    return Kit()


@both
def test_a_view_knows_the_caller(kit: Kit, kind: str) -> None:
    handler, serve = HANDLERS[kind]
    with django_site(URLS, kit.security.gate(RULES)), serve(handler()) as port:
        for target in ("/who", "/who-async"):
            answer = ask(port, target, *kit.as_key(org="org_1").items())
            assert answer.status == 200
            assert b"org_1 org_1" in answer.body
        assert b"False" in ask(port, "/away/x", *kit.as_key(org="org_1").items()).body


@both
def test_an_error_of_ours_is_answered_like_a_refusal(kit: Kit, kind: str) -> None:
    handler, serve = HANDLERS[kind]
    headers = kit.as_key(org="org_1").items()
    with django_site(URLS, kit.security.gate(RULES), **REST), serve(handler()) as port:
        for target, status in (
            ("/raise/scope", 403), ("/raise/store", 503), ("/rest/scope", 403), ("/rest/store", 503), ("/plain-rest", 403),
        ):  # fmt: skip
            before = len(kit.events)
            answer = ask(port, target, *headers)
            assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), target
            assert [(e.name, e.org) for e in kit.events[before:]] == [("request.refused", "org_1")]
        before = len(kit.events)
        assert ask(port, "/raise/bug", *headers).status == 500
        assert ask(port, "/away/raise/scope", *headers).status == 500  # not ours to look at
        assert kit.events[before:] == []


@both
def test_a_streamed_body_is_made_within_the_passage_and_nothing_is_left_of_it(kit: Kit, kind: str) -> None:
    handler, serve = HANDLERS[kind]
    headers = kit.as_key(org="o", scopes={"a:b"})
    targets = ["/pieces"] if kind == "wsgi" else ["/pieces-async"]
    with django_site(URLS, kit.security.gate(RULES)), serve(handler()) as port:
        for target in targets:
            assert b"oo0" in ask(port, target, *headers.items()).body.replace(b" ", b"")
            assert b"oo2" in ask(port, target, *headers.items()).body
    assert len(seen) == 6 * len(targets)
    for access in seen:
        with pytest.raises(Misuse):  # its unit of work is over
            _ = access.org
    assert nobody_is_left()


def test_nothing_is_left_in_the_thread_of_a_server(kit: Kit) -> None:
    with django_site(URLS, kit.security.gate(RULES)):
        app = WSGIHandler()
        for target in ("/who", "/pieces", "/raise/scope", "/raise/bug", "/nowhere"):
            asked(app, target, kit.as_key(org="o", scopes={"a:b"}))
            assert nobody_is_left()


@both
def test_a_stream_ends_with_its_key(kit: Kit, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with a complete body, so that a client can tell."""
    issued = kit.key(org="o")
    kit = kit
    handler, serve = HANDLERS[kind]
    monkeypatch.setattr(watches, "AGE", 0.0)
    monkeypatch.setattr(watches.Watch, "due", lambda _: True)  # one is made only where there are callers

    def revoking() -> None:
        kit.security.blocking.keys.revoke(issued.record.id, org="o")
        kit.clock.advance(60)

    monkeypatch.setitem(globals(), "revoke", revoking)
    target = b"/endless" if kind == "wsgi" else b"/endless-async"
    with django_site(URLS, kit.security.gate(RULES)), serve(handler()) as port:
        lines = b"Host: x\r\nConnection: close\r\nAuthorization: Bearer " + issued.key.encode()
        raw = exchange(port, b"GET " + target + b" HTTP/1.1\r\n" + lines + b"\r\n\r\n")
    assert seen == ["revoked"]
    assert b"first" in raw
    assert b"more" not in raw
    assert not raw.endswith(b"0\r\n\r\n")
    assert [e.name for e in kit.events][-1] == "stream.ended"


@both
def test_rest_framework_takes_the_caller_from_the_gate(kit: Kit, kind: str) -> None:
    handler, serve = HANDLERS[kind]
    issued = kit.key(org="org_1")
    headers = {"Authorization": f"Bearer {issued.key}"}
    name = f"sk_test_{issued.record.id}"
    with django_site(URLS, kit.security.gate(RULES), **REST), serve(handler()) as port:
        answer = ask(port, "/rest/", *headers.items())
        assert answer.status == 200
        assert f'["{name}","{name}","org_1","org_1",true]'.encode() in answer.body
        nobody = ask(port, "/page/rest")  # the rule lets nobody in, the view does not
        assert (nobody.status, nobody.headers["www-authenticate"]) == (401, "Bearer")


def test_rest_framework_without_a_gate_lets_nobody_in(kit: Kit) -> None:
    """`missing_middleware`: the view that trusts the gate finds that none ran."""
    with override_settings(ROOT_URLCONF=tuple(URLS), MIDDLEWARE=[]), wsgi_serving(WSGIHandler()) as port:
        for target in ("/rest/", "/who"):
            assert ask(port, target, *kit.as_key(org="o").items()).status == 500, target


def nobody_is_left() -> bool:
    with pytest.raises(Misuse, match="no gate ran"):
        current_principal()
    return True


def after(get_response: Any) -> Any:
    return get_response


@pytest.mark.parametrize(
    "settings",
    [
        {"MIDDLEWARE": ["bartizan.integrations.django.GateMiddleware", "test_django.after"]},
        {"BARTIZAN_GATE": "test_django.URLS"},
        {"BARTIZAN_GATE": None},
    ],
    ids=["not_last", "no_gate", "unset"],
)
def test_what_is_set_wrong_is_misuse_at_the_start(kit: Kit, settings: dict[str, Any]) -> None:
    with django_site(URLS, kit.security.gate(RULES)), override_settings(**settings):
        for handler in (WSGIHandler, ASGIHandler):
            with pytest.raises(Misuse):
                handler()
        (error,) = [found for found in check_settings() if found.level == checks.ERROR]
        assert error.id in {"bartizan.E001", "bartizan.E002"}


def test_the_checks_name_what_has_no_counterpart(kit: Kit) -> None:
    urls = [path("orders/<int:id>", who), path("forgotten/", who), re_path("admin/x", who)]
    gate = kit.security.gate([Rule("/orders/*", allow.secret_key()), Rule("GET /gone", allow.public())])
    with django_site(urls, gate):
        told = [(found.id, found.msg) for found in check_settings()]
    assert told == [
        ("bartizan.W001", "no rule names the route /forgotten/"),
        ("bartizan.W003", "/admin/x matches anywhere"),
    ]
    with django_site(urls[:2], gate):
        assert [found.id for found in check_settings()] == ["bartizan.W001", "bartizan.W002"]
    with django_site(URLS, gate), override_settings(BARTIZAN_GATE="nowhere.gate"):
        assert [found.id for found in check_settings()] == ["bartizan.E001"]


def test_the_application_registers_the_checks() -> None:
    import bartizan.integrations.django as module

    BartizanConfig("bartizan.integrations.django", module).ready()
    assert check_settings in checks.registry.registry.get_checks()


def test_append_slash_is_no_way_around_the_gate(kit: Kit) -> None:
    """`append_slash`: what Django answers for a path without its slash leads to the gate again."""
    rules = [Rule("/slash", allow.secret_key()), Rule("/who", allow.secret_key())]
    common = ["django.middleware.common.CommonMiddleware"]
    page, secret = kit.as_key(org="o", kind="publishable"), kit.as_key(org="o")
    urls = [*URLS, path("hidden/", who)]
    with django_site(urls, kit.security.gate(rules), middleware=common, APPEND_SLASH=True):
        with wsgi_serving(WSGIHandler()) as port:
            for target in ("/slash", "/slash/"):
                assert ask(port, target, *page.items()).status == 403
                assert ask(port, target).status == 401
            moved = ask(port, "/slash", *secret.items())
            assert (moved.status, moved.headers["location"]) == (301, "/slash/")
            assert ask(port, "/slash/", *secret.items()).status == 200
            # Here Django tells that there is a route; whoever follows is refused again.
            assert ask(port, "/hidden", *secret.items()).headers["location"] == "/hidden/"
            assert ask(port, "/hidden/", *secret.items()).status == 404


def test_a_prefix_that_a_setting_takes_off(kit: Kit) -> None:
    """`force_script_name`: Django takes it off without looking where a segment ends."""
    gate = kit.security.gate([Rule("/who", allow.secret_key()), Rule("/**", allow.publishable_key())])
    page, secret = kit.as_key(org="o", kind="publishable"), kit.as_key(org="o")
    with django_site(URLS, gate, FORCE_SCRIPT_NAME="/api"):
        app = ASGIHandler()
        assert asked(app, "/api/who", page).status == 403
        assert asked(app, "/api/who", secret).status == 200
        for target in ("/apiwho", "/api", "/api//who", "/api/api/who"):
            assert asked(app, target, page).status == 404, target


def test_an_expression_that_matches_anywhere(kit: Kit) -> None:
    """`unanchored_re_path`: no rule can name it, so the table says `/**` and the check says why."""
    urls = [re_path("admin/x", who)]
    gate = kit.security.gate([Rule("/admin/**", allow.secret_key()), Rule("/**", allow.publishable_key())])
    page = kit.as_key(org="o", kind="publishable")
    with django_site(urls, gate):
        app = WSGIHandler()
        assert asked(app, "/admin/x", page).status == 403
        assert asked(app, "/shop/admin/x", page).status == 200  # what the check warns of
        kit_table = [line for line in str(_table(app)).splitlines() if line.startswith("* ")]
        assert kit_table[0].startswith("* /admin/x -> publishable_key() by /**")
        assert "bartizan.W003" in [found.id for found in check_settings()]


def _table(app: Any) -> Any:
    from bartizan.integrations.application import table_of

    return table_of(app)


def test_a_method_that_something_outside_sets_is_what_the_gate_reads(kit: Kit) -> None:
    gate = kit.security.gate([Rule("GET /who", allow.publishable_key()), Rule("DELETE /who", allow.secret_key())])
    with django_site(URLS, gate, middleware=["test_django.deletes"]):
        app = WSGIHandler()
        assert asked(app, "/who", kit.as_key(org="o", kind="publishable")).status == 403
        assert asked(app, "/who", kit.as_key(org="o")).status == 200


def deletes(get_response: Any) -> Any:
    def delete(request: Any) -> Any:
        request.method = "DELETE"
        return get_response(request)

    return delete


def test_the_middleware_says_what_it_is() -> None:
    assert GateMiddleware.sync_capable
    assert GateMiddleware.async_capable


class Flaky:
    """A gate whose store answers as it is told."""

    every = 0.0

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def recheck(self, _: Any) -> None:
        if not self.answers.pop(0):
            raise Unavailable


class Passage:
    callers = ("somebody",)
    over = False


@pytest.mark.parametrize(
    ("answers", "left"),
    [((True, False, True, False, True), 5), ((True, False, False), 2), ((False, False), 1)],
    ids=["now and then", "twice", "from the start"],
)
def test_a_store_that_fails_once_ends_no_stream(
    answers: tuple[bool, ...], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bartizan.integrations.passages import async_steps, steps

    monkeypatch.setattr(watches, "AGE", 0.0)
    gate, admit = Flaky(*answers), Passage()
    got: list[int] = []
    try:
        for n in steps(gate, admit, iter(range(5))):  # type: ignore[arg-type]
            got.append(n)
    except OSError:
        pass
    assert got == list(range(left))

    class AsyncFlaky(Flaky):
        async def recheck(self, admit: Any) -> None:  # type: ignore[override]
            super().recheck(admit)

    async def chunks() -> AsyncIterator[int]:
        for n in range(5):
            yield n

    async def run() -> list[int]:
        got = []
        try:
            async for n in async_steps(AsyncFlaky(*answers), admit, chunks(), lambda: closed.append(1)):  # type: ignore[arg-type]
                got.append(n)
        except OSError:
            pass
        return got

    closed: list[int] = []
    assert asyncio.run(run()) == list(range(left))
    assert closed == [1]
    assert admit.over


@both
def test_untouched_is_untouched(kit: Kit, kind: str) -> None:
    handler, serve = HANDLERS[kind]
    with django_site(URLS, kit.security.gate(RULES)), serve(handler()) as port:
        assert b"False" in ask(port, "/away/x", ("Authorization", "Bearer nonsense")).body
        assert ask(port, "/away//x").status == 404


async def waiting(request: Any) -> HttpResponse:
    seen.append(request.bartizan)
    await asyncio.Event().wait()
    return HttpResponse()


def test_a_client_that_goes_away_ends_the_passage(kit: Kit) -> None:
    scope = {
        "type": "http", "method": "GET", "path": "/waiting", "raw_path": b"/waiting", "query_string": b"", "root_path": "",
        "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
        "headers": [(k.lower().encode(), v.encode()) for k, v in kit.as_key(org="o").items()],
    }  # fmt: skip

    async def run() -> None:
        body = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if body:
                return body.pop()
            while not seen:  # noqa: ASYNC110 - the view tells by a list
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            raise AssertionError

        await ASGIHandler()(scope, receive, send)

    with django_site([path("waiting", waiting)], kit.security.gate(RULES)):
        asyncio.run(run())
    assert [admit.over for admit in seen] == [True]
