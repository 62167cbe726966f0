"""One table of requests through five frameworks, with one verdict; and what a rule guards is what the router routes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from frameworks import ASGI, FRAMEWORKS, WSGI, asked, django_site, same, urls
from hypothesis import given, settings, strategies as st
from servers import answered, ask, exchange, serving, wsgi_serving
from test_install import Rewriter

from bartizan import Rule, allow
from bartizan.errors import CrossOrigin, MissingScope, Unavailable
from bartizan.testing import Kit

RULES = [Rule("/admin/**", allow.secret_key()), Rule("/**", allow.publishable_key())]
PATHS = ["/", "/admin/x", "/shop/{id}", "/raise/scope", "/raise/store", "/raise/origin"]
RAISED = {"/raise/scope": MissingScope, "/raise/store": Unavailable, "/raise/origin": CrossOrigin}

every_framework = pytest.mark.parametrize("framework", FRAMEWORKS)

TABLE: list[tuple[str, str, str, tuple[tuple[str, str], ...], int]] = [
    # method, target, who, further headers, status
    ("GET", "/admin/x", "nobody", (), 401),
    ("GET", "/admin/x", "page", (), 403),
    ("GET", "/admin/x", "secret", (), 200),
    ("GET", "/admin/x", "forged", (), 401),
    ("GET", "/shop/1", "nobody", (), 401),
    ("GET", "/shop/1", "page", (), 200),
    ("GET", "/shop/1", "secret", (), 403),
    ("GET", "/shop/1", "both", (), 403),
    ("GET", "/admin/x", "both", (), 200),
    ("GET", "/", "page", (), 200),
    ("GET", "//admin/x", "page", (), 404),
    ("GET", "/shop//1", "page", (), 404),
    ("GET", "/./admin/x", "page", (), 404),
    ("GET", "/shop/../admin/x", "page", (), 404),
    ("GET", "/shop/%2e%2e/admin/x", "page", (), 404),
    ("GET", "/admin%2Fx", "page", (), 404),
    ("GET", "/admin%2fx", "secret", (), 404),
    ("GET", "/admin%5Cx", "page", (), 404),
    ("GET", "/shop/a%5cb", "page", (), 404),
    ("GET", "/%61dmin/x", "page", (), 403),
    ("GET", "/%61dmin/x", "secret", (), 200),
    ("GET", "/admin/x/", "page", (), 403),
    ("GET", "/admin", "page", (), 403),
    ("GET", "/admin/%FF", "page", (), 404),
    ("GET", "/shop/%00", "page", (), 404),
    ("GET", "/shop/%0a", "page", (), 404),
    ("GET", "/shop/a%2520b", "page", (), 200),
    ("GET", "/shop/%25FF", "page", (), 200),
    ("GET", "/shop/%C3%A9", "page", (), 200),
    ("GET", "http://shop.example/admin/x", "secret", (), 404),
    ("GET", "/nowhere", "page", (), 404),
    ("GET", "/nowhere", "nobody", (), 401),
    ("HEAD", "/admin/x", "page", (), 403),
    ("POST", "/admin/x", "page", (), 403),
    ("POST", "/admin/x", "secret", (), 405),
    ("post", "/admin/x", "secret", (), 405),
    ("DELETE", "/shop/1", "nobody", (), 401),
    ("OPTIONS", "/admin/x", "secret", (("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")), 403),
    ("POST", "/shop/1", "page", (("X-HTTP-Method-Override", "DELETE"),), 400),
    ("GET", "/admin/x?api_key=1", "secret", (), 400),
    ("GET", "/raise/scope", "page", (), 403),
    ("GET", "/raise/store", "page", (), 503),
    ("GET", "/raise/origin", "page", (), 403),
]


def act(path: str) -> str:
    if path in RAISED:
        raise RAISED[path]
    return path


def credentials(kit: Kit) -> dict[str, dict[str, str]]:
    secret, page = kit.as_key(org="o"), kit.as_key(org="o", kind="publishable")
    forged = {"Authorization": secret["Authorization"][:-7] + "A" * 7}
    return {"nobody": {}, "secret": secret, "page": page, "forged": forged, "both": secret | page}


@contextmanager
def served(framework: str, app: Any) -> Iterator[int]:
    with serving(app) if framework in ASGI else wsgi_serving(app, raw=True) as port:
        yield port


@every_framework
def test_one_table_one_verdict(framework: str) -> None:
    kit = Kit()
    who = credentials(kit)
    with FRAMEWORKS[framework](PATHS, kit.security.gate(RULES), act) as app, served(framework, app) as port:
        for method, target, whose, headers, status in TABLE:
            before = len(kit.events)
            answer = ask(port, target, *who[whose].items(), *headers, method=method)
            assert answer.status == status, (method, target, whose, answer)
            refused = [event.name for event in kit.events[before:]]
            if answer.headers.get("content-type") == "application/problem+json":
                assert refused == ["request.refused"], (method, target, whose)
                assert method == "HEAD" or json.loads(answer.body)["status"] == status
            else:
                assert refused == []
                assert status in {200, 404, 405}, (method, target, whose, answer)


@every_framework
def test_a_body_over_the_limit(framework: str) -> None:
    """Declared, and counted where nothing is declared; Django under ASGI has read it all before it asks anybody."""
    kit = Kit()
    who = credentials(kit)["page"]
    gate = kit.security.gate([Rule("/**", allow.publishable_key(), body_limit=10)])
    with FRAMEWORKS[framework](PATHS, gate, act) as app, served(framework, app) as port:
        assert ask(port, "/shop/1", *who.items(), method="POST", body=b"x" * 11).status == 413
        assert ask(port, "/shop/1", *who.items(), method="POST", body=b"x" * 10).status == 405
        if framework == "django-asgi":
            lines = "".join(f"{name}: {value}\r\n" for name, value in who.items())
            head = f"POST /shop/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{lines}\r\n"
            raw = exchange(port, head.encode() + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n")
            assert answered(raw).status == 413
            assert kit.events[-1].name == "request.refused"


@pytest.mark.parametrize("framework", WSGI)
def test_what_wsgi_cannot_tell(framework: str) -> None:
    """Without the target as it came, `%2F` has become a slash for the gate and for the application; bytes that are no
    UTF-8 are refused, and under Django, which writes them as `%FF`, so is whatever looks like that.
    """
    kit = Kit()
    who = credentials(kit)
    escaped = 404 if framework == "django-wsgi" else 200
    rows = [("/admin%2Fx", "page", 403), ("/admin%2Fx", "secret", 200), ("/shop/%FF", "page", 404)]
    rows += [("/shop/a%2520b", "page", escaped), ("/admin/%2541", "page", 404 if escaped == 404 else 403)]
    with FRAMEWORKS[framework](PATHS, kit.security.gate(RULES), act) as app, wsgi_serving(app) as port:
        for target, whose, status in rows:
            assert ask(port, target, *who[whose].items()).status == status, (target, whose)


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar"])
def test_a_path_that_is_changed_outside_the_gate(framework: str) -> None:
    """`rewriter_added_before_install`: whatever changes the path around an application is outside its gate."""
    kit = Kit()
    who = credentials(kit)
    with ASGI[framework](PATHS, kit.security.gate(RULES), act) as app, serving(Rewriter(app)) as port:
        for target in ("/v1/admin/x", "/admin/x", "/admin/v1/x"):
            assert ask(port, target, *who["page"].items()).status == 403, target
        assert ask(port, "/v1/admin/x", *who["secret"].items()).body.find(b"/admin/x") >= 0


@pytest.mark.parametrize("framework", WSGI)
def test_a_path_that_is_changed_or_shortened_outside_wsgi(framework: str) -> None:
    """`rewriter_added_before_install` and `root_path_set_inside`, as WSGI has them."""
    kit = Kit()
    who = credentials(kit)
    with FRAMEWORKS[framework](PATHS, kit.security.gate(RULES), act) as app:

        def rewriter(environ: Any, start_response: Any) -> Any:
            path = environ["PATH_INFO"].replace("/v1", "", 1)
            return app({**environ, "PATH_INFO": path, "RAW_URI": path}, start_response)

        def mounted(environ: Any, start_response: Any) -> Any:
            path = environ["PATH_INFO"]
            if path.startswith("/api"):
                environ = {**environ, "SCRIPT_NAME": "/api", "PATH_INFO": path[4:]}
            return app(environ, start_response)

        with wsgi_serving(rewriter) as port:
            for target in ("/v1/admin/x", "/admin/x", "/admin/v1/x"):
                assert ask(port, target, *who["page"].items()).status == 403, target
            assert ask(port, "/v1/admin/x", *who["secret"].items()).body == b"/admin/x"
        with wsgi_serving(mounted, raw=True) as port:
            assert ask(port, "/api/admin/x", *who["secret"].items()).status == 200
            for target in ("/api/admin/x", "/admin/x", "/%61pi/admin/x", "/api/%61dmin/x"):
                assert ask(port, target, *who["page"].items()).status == 403, target
            for target in ("/api//admin/x", "/api/../admin/x", "/api%2Fadmin/x"):
                assert ask(port, target, *who["page"].items()).status == 404, target


def rewrites(get_response: Any) -> Any:
    def rewrite(request: Any) -> Any:
        request.path_info = request.path_info.replace("/v1", "", 1)
        return get_response(request)

    return rewrite


def test_a_path_that_a_middleware_of_django_changes() -> None:
    """`rewriter_added_before_install`: the gate reads what the router reads, wherever it comes from."""
    kit = Kit()
    who = credentials(kit)
    with django_site(urls(PATHS, act), kit.security.gate(RULES), middleware=["test_frameworks.rewrites"]):
        with wsgi_serving(WSGIHandler()) as port:  # which tells no raw path that could disagree
            for target in ("/v1/admin/x", "/admin/x", "/admin/v1/x"):
                assert ask(port, target, *who["page"].items()).status == 403, target
            assert ask(port, "/v1/admin/x", *who["secret"].items()).body == b"/admin/x"
        with wsgi_serving(WSGIHandler(), raw=True) as port:
            assert ask(port, "/v1/admin/x", *who["secret"].items()).status == 404


@pytest.mark.parametrize("framework", ASGI)
def test_root_path_set_outside(framework: str) -> None:
    """`root_path_set_inside`, by the server: rules are written without it, and no path is read in two ways."""
    kit = Kit()
    who = credentials(kit)
    with ASGI[framework](PATHS, kit.security.gate(RULES), act) as app:

        def under(root: str) -> Any:
            async def mounted(scope: Any, receive: Any, send: Any) -> None:
                await app({**scope, "root_path": root}, receive, send)

            return mounted

        with serving(under("/api")) as port:
            assert ask(port, "/api/admin/x", *who["secret"].items()).status == 200
            for target in ("/api/admin/x", "/admin/x", "/%61pi/admin/x", "/api/%61dmin/x"):
                assert ask(port, target, *who["page"].items()).status == 403, target
            for target in ("/api//admin/x", "/api", "/shop/1/api/admin/x", "/apiadmin/x"):
                assert ask(port, target, *who["page"].items()).status == 404, target


# --- what a rule guards is what the router routes there ---

piece = st.sampled_from(["a", "b", "{x}"])
route = st.builds(lambda parts: "/" + "/".join(parts), st.lists(piece, max_size=3))
target = st.builds(
    lambda parts, slash: "/" + "/".join(parts) + slash,
    st.lists(
        st.sampled_from(
            ["a", "b", "c", "%61", "%62", "A", ".", "..", "", "a%2Fb", "%2e", "%C3%A9", "a%20b", "*", "%FF", "%2561"]
        ),
        max_size=4,
    ),
    st.sampled_from(["", "/"]),
)


def renamed(path: str) -> str:
    """Names of their own for each place."""
    return "/".join(f"{{x{n}}}" if part == "{x}" else part for n, part in enumerate(path.split("/")))


def distinct(routes: list[str]) -> list[str]:
    """One of each shape, the more literal first: some routers take the first that fits."""
    named = {r.replace("{x}", "*"): renamed(r) for r in routes}
    return sorted(named.values(), key=lambda p: [part.startswith("{") for part in p.split("/")])


@settings(max_examples=60)
@given(
    st.lists(route, min_size=1, max_size=5).map(distinct),
    st.lists(target, min_size=1, max_size=8),
    st.sets(st.integers(0, 4)),
    st.sampled_from(["secret", "page"]),
)
def test_one_verdict_and_what_runs_is_what_its_rule_guards(
    routes: list[str], targets: list[str], guarded: set[int], whose: str
) -> None:
    kit = Kit()
    headers = credentials(kit)[whose]
    kinds = {path: "secret" if at in guarded else "page" for at, path in enumerate(routes)}
    asks = {"secret": allow.secret_key(), "page": allow.publishable_key()}
    rules = [*(Rule(path, asks[kind]) for path, kind in kinds.items()), Rule("/**", asks["secret"])]
    verdicts: dict[str, dict[str, int]] = {text: {} for text in targets}
    for framework, build in FRAMEWORKS.items():
        with build(routes, kit.security.gate(rules), same) as app:
            for text in targets:
                answer = asked(app, text, headers)
                refused = answer.headers.get("content-type") == "application/problem+json"
                verdicts[text][framework] = answer.status if refused else 0
                if answer.status == 200:
                    assert kinds[answer.body.decode()] == whose, (framework, text)
    assert all(len(set(verdict.values())) == 1 for verdict in verdicts.values()), verdicts
