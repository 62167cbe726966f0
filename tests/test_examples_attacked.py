"""Every example that protects something: as written, by strangers, and without one wiring line each time.

Strangers have no credential, a forged or revoked one, or a good one of another organization; for webhooks a message
that nobody signed, a changed one, or one that was captured.
"""

import io
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings  # type: ignore[import-untyped]
from django.test import RequestFactory  # type: ignore[import-untyped]
from strangers import (
    ROOT,
    Ask,
    Cut,
    Example,
    Reply,
    World,
    as_written,
    asgi,
    bearer,
    callers,
    each,
    each_cut,
    example,
    forged,
    key,
    running,
    strangers_without,
    websocket,
    wsgi,
)

from bartizan import Bartizan, Misuse, WebhookVerifier
from bartizan.core.ring import new_root
from bartizan.testing import Kit, ProofKey

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")

OWN = "/orgs/org_1/orders"
OLD, ENDED = "key-" + "a1" * 16, "key-" + "b2" * 16


@pytest.fixture(autouse=True)
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with the environment of a deployment, and the table of keys of the system before."""
    monkeypatch.chdir(tmp_path)
    told = {"URL": "memory://", "ENVIRONMENT": "live", "SECRETS": new_root()}
    for name, value in told.items():
        monkeypatch.setenv(f"BARTIZAN_{name}", value)
    monkeypatch.setenv("OLDER_KEYS", str(tmp_path / "old.db"))
    table = sqlite3.connect(tmp_path / "old.db")
    table.execute("CREATE TABLE api_keys (id, org, hash, made, ended)")
    for number, text, ended in ((1, OLD, None), (2, ENDED, 1_700_000_000)):
        row = (number, sha256(text.encode()).hexdigest(), ended)
        table.execute("INSERT INTO api_keys VALUES (?, 'org_1', ?, 1600000000, ?)", row)
    table.commit()
    table.close()


# --- the shop, over ASGI and WSGI ---


@contextmanager
def shop(module: ModuleType) -> Iterator[World]:
    security = Bartizan.from_env()
    asked: Any = wsgi if module.__name__ == "shop_wsgi" else asgi
    with security.blocking:
        app = module.behind_a_gate(security)
        own, strange = callers(security, "orders:read", "orders:write", "admin")
        anybody = {who: headers for who, headers in strange.items() if "another organization" not in who}
        unscoped = {**anybody, "a key without the scope": key(security, "org_1")}
        issue = partial(security.blocking.links.issue, "invitation", subject="anna", seconds=3600)
        yield World(
            {
                "orders": lambda: asked(app, OWN, own),
                "admin": lambda: asked(app, "/admin/keys", own),
                "products": lambda: asked(app, "/products", own),
                "invited": lambda: asked(app, f"/invitations/org_1?{issue(org='org_1')}", {}, "POST"),
            },
            {
                **of("orders", strange, lambda headers: asked(app, OWN, headers)),
                **of("an order", strange, lambda headers: asked(app, OWN, headers, "POST", b"a kite")),
                **of("admin", unscoped, lambda headers: asked(app, "/admin", headers)),
                **of("admin's keys", unscoped, lambda headers: asked(app, "/%61dmin/keys", headers)),
                **of("products", anybody, lambda headers: asked(app, "/products", headers)),
                "invited elsewhere": lambda: asked(app, f"/invitations/org_2?{issue(org='org_1')}", {}, "POST"),
                "not invited": lambda: asked(app, "/invitations/org_1?x", {}, "POST"),
                **(
                    {}
                    if asked is wsgi
                    else of(
                        "live",
                        {"nobody": {}, "forged": {"X-Publishable-Key": forged("publishable")}},
                        lambda headers: websocket(app, "/live", headers),
                    )
                ),
            },
        )


def of(what: str, strange: Mapping[str, Any], ask: Any) -> dict[str, Ask]:
    return {f"{what}: {who}": partial(ask, headers) for who, headers in strange.items()}


# --- the site whose pages a server renders ---


@contextmanager
def site(module: ModuleType) -> Iterator[World]:
    kit = Kit(origins=["https://shop.example"])
    sessions = kit.security.blocking.sessions
    asked: Any = wsgi if module.__name__ == "site_flask" else asgi
    with kit.security.blocking:
        app = module.behind_a_gate(kit.security, module.Shop())
        ours, theirs = {"Origin": "https://shop.example"}, {"Origin": "https://evil.example"}

        def cookie(pair: Any) -> dict[str, str]:
            return {"Cookie": "; ".join(each.header().partition(";")[0] for each in pair.cookies)}

        own = cookie(sessions.start(org="org_1", subject="anna"))
        ended = sessions.start(org="org_1", subject="anna")
        sessions.revoke(ended.session.id, org="org_1")
        strange = {
            "nobody": {},
            "a guest": cookie(sessions.start(org="org_1", subject="guest_1", guest=True)),
            "forged": {"Cookie": f"{own['Cookie'][:-6]}AAAAAA".replace("access=", "other=")},
            "ended": cookie(ended),
            "of another shop": cookie(Kit().security.blocking.sessions.start(org="org_1", subject="anna")),
        }
        yield World(
            {
                "account": lambda: asked(app, "/account", own),
                "cart": lambda: asked(app, "/cart", {**own, **ours}, "POST"),
            },
            {
                **of("account", strange, lambda headers: asked(app, "/account", headers)),
                "cart, by another site": lambda: asked(app, "/cart", {**own, **theirs}, "POST"),
                "sign-out, by another site": lambda: asked(app, "/auth/logout", {**own, **theirs}, "POST"),
                "sign-in, by another site": lambda: asked(app, "/auth/guest", theirs, "POST"),
                "sessions, by nobody": lambda: asked(app, "/auth/sessions"),
            },
        )


# --- the shop for many organizations ---


@contextmanager
def tenants(module: ModuleType) -> Iterator[World]:
    kit = Kit()
    sessions = module.database()
    try:
        app = module.behind_a_gate(kit.security, sessions)
        for org, subject, name in (("org_1", None, "a"), ("org_1", "anna", "b"), ("org_2", None, "c")):
            with kit.security.job("seed", org=org), sessions() as s:
                s.add(module.Order(org_id=org, id=name, subject=subject, what=f"a kite for {org}"))
                s.commit()
        own, strange = callers(kit.security, "orders:read", "orders:write")
        anybody = {who: headers for who, headers in strange.items() if "another organization" not in who}
        theirs = strange["a key of another organization"]
        for each in (strange, anybody):
            each["a key without the scope"] = key(kit.security, "org_1")
        bert = kit.as_consumer(org="org_1", subject="bert", scopes={"orders:read"})
        yield World(
            {
                "orders": lambda: asgi(app, "/orders", own),
                "order": lambda: asgi(app, "/orders/a", own),
                "names": lambda: asgi(app, "/reports/names", own),
            },
            {
                **of("orders", anybody, lambda headers: asgi(app, "/orders", headers)),
                **of("names", anybody, lambda headers: asgi(app, "/reports/names", headers)),
                **of("order", strange, lambda headers: asgi(app, "/orders/a", headers)),
                **of("removed", strange, lambda headers: asgi(app, "/orders/a", headers, "DELETE")),
                "another consumer": lambda: asgi(app, "/orders/b", bert),
                "orders of another organization": lambda: unseen(asgi(app, "/orders", theirs)),
                "names of another organization": lambda: unseen(asgi(app, "/reports/names", theirs)),
            },
            "a kite for org_1",
        )
    finally:
        sessions.kw["bind"].dispose()


def unseen(reply: Reply) -> Reply:
    """A list of the stranger's own shows nothing of others, and counts as not found."""
    return reply if "org_1" in reply.text or reply.status >= 400 else Reply(404)


# --- keys of the system before ---


@contextmanager
def older_keys(module: ModuleType) -> Iterator[World]:
    old = {"X-API-Key": OLD}
    with module.security.blocking:
        own, strange = callers(module.security, "orders:read", "orders:write")
        del strange["a key of another organization"]  # it is served what is its own: there is no {org} in the path
        strange |= {"an ended old key": {"X-API-Key": ENDED}, "no old key": {"X-API-Key": "key-" + "c3" * 16}}
        yield World(
            {"new": lambda: asgi(module.app, "/orders", own), "old": lambda: asgi(module.app, "/orders", old)},
            {
                **of("orders", strange, lambda headers: asgi(module.app, "/orders", headers)),
                **of("an order", {**strange, "old": old}, lambda headers: asgi(module.app, "/orders", headers, "POST")),
            },
            "org_1",
        )


# --- receivers of webhooks ---


@contextmanager
def received(path: str, effects: str, asked: Any, module: ModuleType) -> Iterator[World]:
    """Served is whoever has an effect: what the application did, not what it answered."""
    done = getattr(module, effects)
    captured, fresh, other = (module.hooks.test_request(event(module, n), type="push") for n in range(3))

    def post(body: bytes, headers: Mapping[str, str]) -> Reply:
        before = len(done)
        reply: Reply = asked(module.app, path, headers, "POST", body)
        if len(done) > before:
            return Reply(200)
        return reply if reply.status >= 400 else Reply(409)

    post(captured.body, captured.headers)
    yield World(
        {"the sender": lambda: post(fresh.body, fresh.headers)},
        {
            "nothing signed": lambda: post(other.body, {}),
            "another body": lambda: post(other.body, captured.headers),
            "a byte more": lambda: post(other.body + b" ", other.headers),
            "captured": lambda: post(captured.body, captured.headers),
        },
    )


def event(module: ModuleType, number: int) -> dict[str, Any]:
    return {**module.EVENT, "id": f"evt_{number}", "after": f"{number}"}


def django(module: ModuleType, path: str, headers: Mapping[str, str], method: str, body: bytes) -> Reply:
    request = RequestFactory().post(path, body, content_type="application/json", headers=dict(headers))
    try:
        return Reply(module.django_hook(request).status_code)
    except Exception:
        return Reply(500)


@contextmanager
def receivers(module: ModuleType) -> Iterator[World]:
    apps = {
        "starlette": partial(asgi, module.starlette_app),
        "fastapi": partial(asgi, module.fastapi_app),
        "flask": partial(wsgi, module.flask_app),
        "django": partial(django, module),
    }

    def post(name: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        before = len(module.handled)
        reply = apps[name]("/hooks", headers, "POST", body)
        assert len(module.handled) == before or reply.status < 300, "nothing is handled that is refused"
        return reply

    sender = WebhookVerifier(os.environ["WEBHOOK_SECRET"])
    good = sender.test_request(b'{"type":"order.created"}', id="msg_1")
    yield World(
        {name: partial(post, name, good.body, good.headers) for name in apps},
        {
            f"{name}: {who}": partial(post, name, body, headers)
            for name in apps
            for who, body, headers in (
                ("nothing signed", good.body, {}),
                ("another id", good.body, {**good.headers, "webhook-id": "msg_2"}),
                ("a byte more", good.body + b" ", good.headers),
            )
        },
    )


# --- the demos: their own tables say who is a stranger ---


@contextmanager
def webhook_demo(module: ModuleType) -> Iterator[World]:
    rows = module.rows()
    signed = [row for row in rows if row.expected == 200]
    yield World(
        {row.what: partial(Reply, row.status) for row in signed},
        {row.what: partial(Reply, row.status) for row in rows if row not in signed},
    )


@contextmanager
def token_demo(module: ModuleType) -> Iterator[World]:
    with module.served() as (ports, rows, _):
        asks = [
            (row, f"{row.what}, {adapter}", lambda port=port, row=row: Reply(module.asked(port, row)))
            for row in rows
            for adapter, port in ports.items()
        ]
        yield World(
            {who: ask for row, who, ask in asks if row.status == 200},
            {who: ask for row, who, ask in asks if row.status != 200},
        )


@contextmanager
def session_demo(module: ModuleType) -> Iterator[World]:
    kit, elsewhere = Kit(), Kit()
    sessions = kit.security.blocking.sessions
    with kit.security.blocking, elsewhere.security.blocking:
        apps = {"asgi": partial(asgi, module.over_asgi(kit)), "wsgi": partial(wsgi, module.over_wsgi(kit))}
        pair, ended = (sessions.start(org="org_1", subject="anna") for _ in range(2))
        sessions.revoke(ended.session.id, org="org_1")
        forged_pair = elsewhere.security.blocking.sessions.start(org="org_1", subject="anna")
        strange = {
            "nobody": {},
            "a refresh token": bearer(pair.refresh_token),
            "signed out": bearer(ended.access_token),
            "a forged token": bearer(forged_pair.access_token),
            "a key": kit.as_key(org="org_1"),
        }
        asks: dict[str, Ask] = {}
        for name, app in apps.items():
            asks |= of(f"me, {name}", strange, partial(app, "/me"))
            asks |= of(f"logout, {name}", strange, lambda headers, app=app: app("/logout", headers, "POST"))
            for who, token in (("signed out", ended), ("forged", forged_pair)):
                body = json.dumps({"refresh": token.refresh_token}).encode()
                asks[f"refresh, {name}: {who}"] = partial(app, "/refresh", {}, "POST", body)
        yield World({name: partial(app, "/me", bearer(pair.access_token)) for name, app in apps.items()}, asks, "anna")


@contextmanager
def binding_demo(module: ModuleType) -> Iterator[World]:
    kit = module.bound()
    sessions, key, thief = kit.security.blocking.sessions, ProofKey(kit.clock), ProofKey(kit.clock)

    def proved(by: ProofKey, method: str, path: str, token: str | None = None) -> dict[str, str]:
        return by.headers(method, module.ORIGIN + path, token=token, nonce=pair.dpop_nonce)

    with kit.security.blocking:
        apps = {"asgi": partial(asgi, module.over_asgi(kit)), "wsgi": partial(wsgi, module.over_wsgi(kit))}
        pair = sessions.start(org="org_1", subject="anna", proof=key.request("POST", f"{module.ORIGIN}/sign-in"))
        token = pair.access_token
        used = key.request("GET", f"{module.ORIGIN}/me", token=token, nonce=pair.dpop_nonce)
        again = {name.decode(): value.decode() for name, value in used.headers}
        sessions.authenticate(token, proof=used)
        strange = {
            "nobody": {},
            "its text alone": bearer(token),
            "the scheme alone": {"Authorization": f"DPoP {token}"},
            "another key": proved(thief, "GET", "/me", token),
            "a proof again": again,
            "a proof for another path": proved(key, "GET", "/you", token),
            "a proof for another token": {**proved(key, "GET", "/me", "other"), "Authorization": f"DPoP {token}"},
            "a key": kit.as_key(org="org_1"),
        }
        asks: dict[str, Ask] = {}
        for name, app in apps.items():
            asks |= of(f"me, {name}", strange, partial(app, "/me"))
            asks |= of(f"ticket, {name}", strange, lambda headers, app=app: app("/ticket", headers, "POST"))
            body = json.dumps({"refresh": pair.refresh_token}).encode()
            for who, headers in (("no key", {}), ("another key", proved(thief, "POST", "/refresh"))):
                asks[f"refresh, {name}: {who}"] = partial(app, "/refresh", headers, "POST", body)
        owner = {name: (lambda app=app: app("/me", proved(key, "GET", "/me", token))) for name, app in apps.items()}
        yield World(owner, asks, "anna")


@contextmanager
def isolation_demo(module: ModuleType) -> Iterator[World]:
    expected = {row.what: row.status for row in module.rows(Kit(), Ed25519PrivateKey.generate())}
    with redirect_stdout(io.StringIO()) as out:
        module.main()
    came = {
        what: int(re.findall(rf"^  {re.escape(what)} +(\d+)", out.getvalue(), re.MULTILINE)[0]) for what in expected
    }
    jobs = {"context": 401 if out.getvalue().count("  refused") == 3 else 200}
    yield World(
        {what: partial(Reply, came[what]) for what, status in expected.items() if status == 200},
        {what: partial(Reply, status) for what, status in {**came, **jobs}.items() if expected.get(what) != 200},
    )


EXAMPLES = [
    Example(
        "shop",
        example("shop"),
        shop,
        (
            Cut("    install(app, security.gate(RULES))\n", "500"),
            Cut('    Rule("GET /products", allow.publishable_key() | allow.secret_key()),\n', "401 403 404"),
            Cut('    Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read")),\n', "401 403 404 405"),
            Cut('    Rule("POST /orgs/{org}/orders", allow.secret_key("orders:write")),\n', "401 403 404 405"),
            Cut('    Rule("WEBSOCKET /live", allow.publishable_key()),\n', "401 403 404"),
            Cut('    Rule("GET|POST /invitations/{team}", allow.public()),  # whoever has the link\n', "401 403 404"),
            Cut('    Rule("/admin/**", allow.secret_key("admin")),\n', "401 403 404"),
            Cut(
                "    current_principal()  # raises where no gate let anybody in: a handler without one shows nothing\n",
                "401 403 404",
            ),
            Cut("    current_principal(SecretPrincipal)\n", "401 403 404"),
            Cut(
                '        link = await security.links.redeem(text, purpose="invitation", org=team)\n', "401 403 404 500"
            ),
        ),
    ),
    Example(
        "shop_wsgi",
        example("shop_wsgi"),
        shop,
        (
            Cut("GateMiddleware(shop, security.gate(rules))", "500", "shop"),
            Cut("        current_principal()  # raises where no gate let anybody in\n", "401 403 404"),
            Cut("        current_principal(SecretPrincipal)\n", "401 403 404"),
            Cut("        caller = current_principal(SecretPrincipal)\n", "401 403 404"),
        ),
    ),
    Example(
        "site_starlette",
        example("site_starlette"),
        site,
        (
            Cut("    install(app, security.gate(RULES))\n", "500"),
            Cut('    Rule("POST /cart", allow.consumer()),  # guests have one too\n', "401 403 404"),
            Cut('    Rule("GET /account", allow.consumer(guests=False), login="/login"),\n', "401 403 404"),
            Cut(
                '    Rule("GET|POST /auth/**", allow.optional(allow.consumer())),  # the endpoints look after themselves\n',
                "401 403 404",
            ),
        ),
    ),
    Example(
        "site_flask",
        example("site_flask"),
        site,
        (Cut("    install(app, security.gate(RULES))\n", "500"),),
    ),
    Example(
        "tenants",
        example("tenants"),
        tenants,
        (
            Cut("    install(app, security.gate(RULES))\n", "500"),
            Cut('    Rule("/orders/**", allow.secret_key() | allow.consumer()),\n', "401 403 404"),
            Cut('    Rule("/reports/**", allow.secret_key("orders:read")),\n', "401 403 404"),
            Cut("        OrgWall(Base).protect(sessions)\n", "401 403 404", "        pass\n"),
            Cut("def orders(_: Reading)", "401 403 404", "def orders()"),
            Cut("def order(_: Reading, order_id: str)", "401 403 404", "def order(order_id: str)"),
            Cut("def remove(_: Writing, order_id: str)", "401 403 404", "def remove(order_id: str)"),
            Cut("def names(_: Reading)", "401 403 404", "def names()"),
            Cut(".where(mine).order_by", "401 403 404", ".order_by"),
            Cut(
                "            names = names.where(read_orders.filter(Order.org_id, Order.subject))\n",
                "401 403 404",
                "            pass\n",
            ),
            Cut(
                "select(Order).where(mine, Order.id == order_id)",
                "401 403 404",
                "select(Order).where(Order.id == order_id)",
            ),
            Cut("    guard.require().confirm(org=order.org_id, subject=order.subject)\n", "401 403 404"),
        ),
    ),
    Example(
        "older_keys",
        example("older_keys"),
        older_keys,
        (
            Cut("app = GateMiddleware(orders, gate)", "500", "app = orders"),
            Cut('    authenticators=[OlderKeys(os.environ["OLDER_KEYS"], ENDS)],\n', "Misuse"),
            Cut(' | allow.credential("older_key", "orders:read")', "401 403"),
            Cut(
                '        Rule("POST /orders", allow.secret_key("orders:write")),  # what is new is for new keys\n',
                "401 405",
            ),
            Cut(
                '        Rule("GET /orders", allow.secret_key("orders:read") | allow.credential("older_key", "orders:read")),\n',
                "401 403 405",
            ),
            Cut(
                "        if found is None or time.time() >= self._ends:\n            raise InvalidKey\n", "401 403 503"
            ),
        ),
    ),
    Example(
        "webhook_stripe",
        example("webhook_stripe"),
        partial(received, "/stripe", "paid", asgi),
        (
            Cut('app = hooks.asgi(shop, path="/stripe", security=security)', "500", "app = shop"),
            Cut(", security=security", "400 401 409"),
            Cut(', path="/stripe"', "TypeError"),
            Cut('    event = scope["bartizan.webhook"]  # a KeyError where nothing was verified\n', "400 401 500"),
            Cut('hooks = WebhookVerifier.stripe(os.environ["STRIPE_SECRET"])\n', "NameError"),
            Cut('os.environ["STRIPE_SECRET"]', "TypeError"),
        ),
    ),
    Example(
        "webhook_github",
        example("webhook_github"),
        partial(received, "/github", "deployed", wsgi),
        (
            Cut('app = hooks.wsgi(deploy, path="/github", security=security)', "500", "app = deploy"),
            Cut(", security=security", "400 401 409"),
            Cut(', path="/github"', "TypeError"),
            Cut('    event: WebhookEvent = environ["bartizan.webhook"]\n', "400 401 500"),
            Cut('hooks = WebhookVerifier.github(os.environ["GITHUB_WEBHOOK_SECRET"])\n', "NameError"),
            Cut('os.environ["GITHUB_WEBHOOK_SECRET"]', "TypeError"),
        ),
    ),
    Example(
        "webhook_receivers",
        example("webhook_receivers"),
        receivers,
        (
            Cut('hooks = WebhookVerifier(os.environ["WEBHOOK_SECRET"])\n', "500"),
            Cut(
                "async def starlette_hook(request: Request) -> Response:\n    event = await hooks.receive(request)\n",
                "400 401 500",
                "async def starlette_hook(request: Request) -> Response:\n",
            ),
            Cut(
                "(request: FastApiRequest) -> FastApiResponse:\n    event = await hooks.receive(request)\n",
                "400 401 500",
                "(request: FastApiRequest) -> FastApiResponse:\n",
            ),
            Cut("    event = hooks.verify(flask_request.get_data(), flask_request.headers)\n", "400 401 500"),
            Cut("        event = hooks.verify(request.body, request.headers)\n", "400 401 500", "        pass\n"),
            Cut("    exception_handlers={InvalidWebhook: refused, TooLarge: refused},\n", "400 401 500"),
            Cut("FastAPI(exception_handlers={InvalidWebhook: refused, TooLarge: refused})", "400 401 500", "FastAPI()"),
            Cut("@flask_app.errorhandler(InvalidWebhook)\n", "400 401 500"),
        ),
    ),
    Example(
        "webhook_demo",
        example("webhook_demo"),
        webhook_demo,
        (
            Cut('hooks.wsgi(shop, path="/hooks", security=security)', "500", "shop"),
            Cut('        handled.append(environ["bartizan.webhook"].id)\n', "400 401"),
            Cut(", security=security", "400 401"),
        ),
    ),
    Example(
        "token_demo",
        example("token_demo"),
        token_demo,
        (
            Cut("asgi.GateMiddleware(hello, gate)", "401 403 404 500", "hello"),
            Cut("wsgi.GateMiddleware(wsgi_hello, gate)", "401 403 404 500", "wsgi_hello"),
            Cut('    Rule("GET /me", allow.consumer()),\n', "401 403 404"),
            Cut('    Rule("GET /orgs/{org}/dashboard", allow.member("viewer")),\n', "401 404"),
            Cut(", issuers=[issuer]", "Misuse"),
            Cut('            organizations={"org_1"},\n', "TypeError"),
            Cut('            audience="dashboard",\n', "Misuse"),
            Cut('            roles={"Viewers": "viewer"},\n', "401 403"),
            Cut("                authorities=provider.certificate,\n", "401 403 503"),
        ),
    ),
    Example(
        "session_demo",
        example("session_demo"),
        session_demo,
        (
            Cut("asgi.GateMiddleware(application, kit.security.gate(RULES))", "401 403 500", "application"),
            Cut("wsgi.GateMiddleware(application, kit.security.gate(RULES))", "401 403 500", "application"),
            Cut('    Rule("GET /me", allow.consumer()),\n', "401 403 404"),
            Cut('    Rule("POST /refresh", allow.public()),\n', "401 403 404"),
            Cut('    Rule("POST /logout", allow.consumer()),\n', "401 403 404"),
            Cut("        me = current_principal(ConsumerPrincipal)\n", "401 403"),
        ),
    ),
    Example(
        "binding_demo",
        example("binding_demo"),
        binding_demo,
        (
            Cut("asgi.GateMiddleware(application, kit.security.gate(RULES))", "401 403 500", "application"),
            Cut("wsgi.GateMiddleware(application, kit.security.gate(RULES))", "401 403 500", "application"),
            Cut('    Rule("GET /me", allow.consumer()),\n', "401 403 404"),
            Cut('    Rule("POST /ticket", allow.consumer()),\n', "401 403 404"),
            Cut("        me = current_principal(ConsumerPrincipal)\n", "401 403"),
            Cut('sent["refresh"], proof=request', "401 403", 'sent["refresh"]'),
            Cut("origins=[ORIGIN], ", "Misuse"),
        ),
    ),
    Example(
        "isolation_demo",
        example("isolation_demo"),
        isolation_demo,
        (
            Cut("GateMiddleware(application, kit.security.gate(RULES))", "401 500", "application"),
            Cut('Rule("GET|DELETE /orders/{id}", allow.member() | allow.consumer() | allow.secret_key())', "Misuse"),
            Cut('    access = GUARDS[environ["REQUEST_METHOD"]].require()\n', "401 500"),
            Cut(
                "    if org != access.org or access.subject not in {None, subject}:\n        raise NotFound\n",
                "401 403 404",
            ),
            Cut("    access.confirm(org=org, subject=subject)\n", "401 403 404"),
            Cut("issuers=[issuer], ", "Misuse"),
            Cut(", roles=ROLES)", "401 403 404", ")"),
            Cut('        audience="dashboard",\n', "Misuse"),
            Cut('        organizations={"org_1", "org_2"},\n', "TypeError"),
        ),
    ),
]

# What has nothing of its own to protect, and why.
OTHERS = {
    "signin_demo": "it walks through the two sites of this list, as their owner and as a page of another origin",
    "loopback": "it serves what it is given, for the demos",
    "demo": "it asks the shops of this list, and has no application of its own",
    "webhook_sender": "it signs, and serves nobody",
}


def test_every_example_is_attacked() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {told.name for told in EXAMPLES} | set(OTHERS)


@each(EXAMPLES)
def test_as_written_strangers_are_refused(told: Example) -> None:
    as_written(told)


@each_cut(EXAMPLES)
def test_without_one_line_strangers_get_nothing(told: Example, cut: Cut) -> None:
    assert strangers_without(told, cut) == cut.gives


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("older_keys", "BARTIZAN_SECRETS"),
        ("older_keys", "BARTIZAN_ENVIRONMENT"),
        ("older_keys", "OLDER_KEYS"),
        ("webhook_stripe", "STRIPE_SECRET"),
        ("webhook_github", "GITHUB_WEBHOOK_SECRET"),
        ("webhook_receivers", "WEBHOOK_SECRET"),
    ],
)
def test_without_its_secret_in_the_environment_an_example_does_not_start(
    name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None has a secret of its own to fall back on, which everybody could read in it."""
    monkeypatch.delenv(variable)
    with pytest.raises((KeyError, Misuse)), running(name, example(name)):
        pass
