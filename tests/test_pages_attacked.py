"""Every page of the docs that protects something: as written, by strangers, and without one wiring line each time."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import pytest
from django.conf import settings  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.test import override_settings  # type: ignore[import-untyped]
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
    behind,
    callers,
    each,
    each_cut,
    forged,
    key,
    page,
    raised,
    strangers_without,
    wsgi,
)

from bartizan import Bartizan
from bartizan.core.ring import new_root
from bartizan.testing import Kit, ProofKey
from bartizan.types import Admit, Refuse

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")

OWN = "/orgs/org_1/orders"
SECRETS = ', secrets=os.environ["BARTIZAN_SECRETS"].split()'


@pytest.fixture(autouse=True)
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with a root secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BARTIZAN_SECRETS", new_root())


def upto(source: str, end: str) -> str:
    """What a page sets up, without what it then tries of it by itself."""
    before, found, _ = source.partition(end)
    assert found, end
    return before + "\n"


def of(what: str, strange: Mapping[str, Any], ask: Any) -> dict[str, Ask]:
    return {f"{what}: {who}": partial(ask, headers) for who, headers in strange.items()}


def anybody(strange: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Those without a good key: where the path has no `{org}`, one of another organization sees its own."""
    return {who: headers for who, headers in strange.items() if "another organization" not in who}


def served(
    app: Callable[[ModuleType], Any], path: str, scope: str, told: str, *, asked: Any = asgi
) -> Callable[[ModuleType], Any]:
    """A page with an application: its owner has a key with a scope and is told something that strangers are not."""

    @contextmanager
    def world(module: ModuleType) -> Iterator[World]:
        security = module.kit.security if hasattr(module, "kit") else module.security
        with security.blocking:
            own, strange = callers(security, *scope.split())
            if "org_" not in path:
                strange = anybody(strange)
            if scope:
                strange["a key without the scope"] = key(security, "org_1")
            built = app(module)
            yield World({"own": partial(asked, built, path, own)}, of(path, strange, partial(asked, built, path)), told)

    return world


# --- the gate ---


def by_its_client(module: ModuleType) -> Any:
    """The page's own client, which puts the gate before its application."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name != b"host"}
        status = await module.ask(module.gate, scope["method"], scope["path"], headers)
        await send({"type": "http.response.start", "status": status, "headers": []})

    return app


def django_site(module: ModuleType) -> Any:
    def site(environ: Any, start_response: Any) -> Any:
        with override_settings(
            MIDDLEWARE=module.MIDDLEWARE,
            BARTIZAN_GATE=module.BARTIZAN_GATE,
            ROOT_URLCONF=module.urls,
            ALLOWED_HOSTS=["*"],
        ):
            return list(WSGIHandler()(environ, start_response))

    return site


@contextmanager
def overlapping(module: ModuleType) -> Iterator[World]:
    """Where one rule stands for another that is gone, nobody comes in who has no key."""
    with module.security.blocking as blocking:
        app = module.GateMiddleware(module.app, module.gate)
        own, strange = callers(module.security, "orders:read", "orders:export", "orders:write")
        published = blocking.keys.create(org="org_1", kind="publishable").key
        asks: dict[str, Ask] = {}
        for path in ("/orders/export", "/orders/7", "/orders/7/lines", "/else"):
            asks |= of(path, anybody(strange), partial(asgi, app, path))
            asks[f"{path}: forged page"] = partial(asgi, app, path, {"X-Publishable-Key": forged("publishable")})
        yield World(
            {
                "export": partial(asgi, app, "/orders/export", own),
                "page": partial(asgi, app, "/else", {"X-Publishable-Key": published}),
            },
            asks,
            "org_1",
        )


# --- issuers, tokens, sessions ---


@contextmanager
def issuers(module: ModuleType) -> Iterator[World]:
    def ask(signer: Any, *path: str, **claims: Any) -> Reply:
        verdict: Admit | Refuse = asyncio.run(module.asked(signer, *path, **claims))
        return Reply(200, str(verdict.principal)) if isinstance(verdict, Admit) else Reply(verdict.status)

    mine, others = module.key, module.strangers
    yield World(
        {"a member": partial(ask, mine)},
        {
            "a forged token": partial(ask, others),
            "for another audience": partial(ask, mine, aud="another-api"),
            "of another issuer": partial(ask, mine, iss="https://login.evil.example"),
            "of another organization": partial(ask, mine, org_id="org_2"),
            "to another organization": partial(ask, mine, "/orgs/org_2/orders"),
            "without the role": partial(ask, mine, roles=["Guests"]),
            "expired": partial(ask, mine, iat=1, exp=2),
        },
        "u_1",
    )


def consumers(module: ModuleType) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    clock = (lambda: module.now) if hasattr(module, "now") else (lambda: int(time.time()))
    elsewhere = Bartizan(
        "memory://", environment="test", secrets=[new_root()], issuer="shop", audience="shop-api", clock=clock
    ).blocking.sessions
    sessions = module.security.blocking.sessions
    pair, ended, strangers = (
        each.start(org="org_1", subject="cons_1", scopes={"orders:read"}) for each in (sessions, sessions, elsewhere)
    )
    sessions.revoke(ended.session.id, org="org_1")
    return bearer(pair.access_token), {
        "nobody": {},
        "a refresh token": bearer(pair.refresh_token),
        "signed out": bearer(ended.access_token),
        "a forged token": bearer(strangers.access_token),
        "a forged key": bearer(forged()),
    }


@contextmanager
def tokens(module: ModuleType) -> Iterator[World]:
    with module.security.blocking:
        own, strange = consumers(module)
        app = behind(module.gate)
        asks = of("me", strange, partial(asgi, app, "/me")) | of("orders", strange, partial(asgi, app, "/orders"))
        asks["no factor"] = partial(asgi, app, "/card", own, "POST")
        yield World(
            {"me": partial(asgi, app, "/me", own), "orders": partial(asgi, app, "/orders", own)}, asks, "for org_1"
        )


@contextmanager
def verifying(module: ModuleType) -> Iterator[World]:
    kit: Kit = module.kit
    now = kit.clock()

    def ask(by: Kit, later: int = 0) -> Reply:
        token = by.token(org="org_1", subject="cons_1")
        return raised(lambda: module.check.verify(token, now=now + later).subject)

    others = {
        "of another issuer": Kit(**module.SHARED, issuer="else"),
        "for another audience": Kit(**module.SHARED, audience="else"),
        "of another environment": Kit(**module.SHARED, environment="live"),
        "forged": Kit(clock=kit.clock),
    }
    yield World(
        {"a consumer": partial(ask, kit)},
        {
            **{who: partial(ask, other) for who, other in others.items()},
            "expired": partial(ask, kit, 3600),
            "nothing": lambda: raised(lambda: module.check.verify("", now=now).subject),
        },
        "cons_1",
    )


@contextmanager
def sessions(module: ModuleType) -> Iterator[World]:
    with module.security.blocking as blocking:
        own, strange = consumers(module)
        app = behind(module.gate)
        pair = blocking.sessions.start(org="org_1", subject="cons_1")
        used = blocking.sessions.authenticate
        yield World(
            {"me": partial(asgi, app, "/me", own), "by hand": lambda: raised(lambda: used(pair.access_token).org)},
            {
                **of("me", strange, partial(asgi, app, "/me")),
                **of("by hand", strange, lambda headers: raised(lambda: used(headers.get("Authorization", "")[7:]))),
                "no member": lambda: raised(lambda: blocking.sessions.refresh(pair.refresh_token, org="org_3")),
            },
            "org_1",
        )


@contextmanager
def binding(module: ModuleType) -> Iterator[World]:
    """A session that is bound to a key, and whoever has its tokens without it."""
    with module.security.blocking as blocking:
        app, pair, url = behind(module.gate), module.pair, "https://shop.example/me"
        thief = ProofKey(lambda: module.now)

        def proved(by: Any) -> dict[str, str]:
            headers: dict[str, str] = by.headers("GET", url, token=pair.access_token, nonce=pair.dpop_nonce)
            return headers

        once = module.device.request("GET", url, token=pair.access_token, nonce=pair.dpop_nonce)
        blocking.sessions.authenticate(pair.access_token, proof=once)
        strange = {
            "nobody": {},
            "its text alone": bearer(pair.access_token),
            "another key": proved(thief),
            "a proof again": {name.decode(): value.decode() for name, value in once.headers},
        }
        with_key = thief.request("POST", url, nonce=pair.dpop_nonce)
        yield World(
            {"me": lambda: asgi(app, "/me", proved(module.device))},
            {
                **of("me", strange, partial(asgi, app, "/me")),
                "renewed": lambda: raised(lambda: blocking.sessions.refresh(pair.refresh_token)),
                "renewed by another key": lambda: raised(
                    lambda: blocking.sessions.refresh(pair.refresh_token, proof=with_key)
                ),
            },
            "org_1",
        )


@contextmanager
def codes(module: ModuleType) -> Iterator[World]:
    """Codes that were sent to an address: right for it, its organization and the browser that asked."""
    there = module.signin
    with module.security.blocking:
        anna, bert = (there.request_code(org="org_1", address=f"{name}@shop.example") for name in ("anna", "bert"))

        def ask(pending: Any, code: str, org: str = "org_1", name: str = "bert") -> Reply:
            return raised(lambda: there.verify_code(pending.id, code, org=org, address=f"{name}@shop.example").subject)

        wrong = f"{(int(bert.code) + 1) % 1_000_000:06}"
        yield World(
            {"anna": partial(ask, anna, anna.code, name="anna")},
            {
                "a wrong code": partial(ask, bert, wrong),
                "at another organization": partial(ask, bert, bert.code, "org_2"),
                "for another address": partial(ask, bert, bert.code, name="anna"),
                "another's code": partial(ask, anna, bert.code, name="anna"),
                "no code": partial(ask, bert, ""),
            },
            "anna@",
        )


@contextmanager
def exchanges(module: ModuleType) -> Iterator[World]:
    """Exchange codes: for the page that made the proof."""
    there = module.signin
    with module.security.blocking:
        fresh = there.authorize(module.anna, code_challenge=module.challenge)

        def ask(code: str, verifier: str, org: str = "org_1") -> Reply:  # the page's server always asks for a proof
            return raised(lambda: there.exchange(code, org=org, code_verifier=verifier).subject)

        yield World(
            {"its page": partial(ask, fresh, module.verifier)},
            {
                "who has seen the code": partial(ask, module.code, "another-browser-that-has-seen-the-code-alone"),
                "without a proof": partial(ask, module.code, ""),
                "at another organization": partial(ask, module.code, module.verifier, "org_2"),
                "a changed code": partial(ask, module.code[:-1] + ("A" if module.code[-1] != "A" else "B"), ""),
            },
            module.anna.subject,
        )


# --- keys ---


@contextmanager
def own_table(module: ModuleType) -> Iterator[World]:
    revoked, row = module.form.issue(org="org_1", kind="secret", now=int(module.time.time()))
    module.keep(module.form.revoke(row, now=int(module.time.time())))
    yield World(
        {"its key": lambda: raised(lambda: module.caller_of(module.issued.key).org)},
        {
            "a forged key": lambda: raised(lambda: module.caller_of(forged()).org),
            "a revoked key": lambda: raised(lambda: module.caller_of(revoked.key).org),
            "another secret": lambda: raised(lambda: module.caller_of(spoiled(module.issued.key)).org),
            "nothing": lambda: raised(lambda: module.caller_of("").org),
        },
        "org_1",
    )


def spoiled(text: str) -> str:
    """The key with another secret and a right checksum, so that nothing but the MAC can tell."""
    letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    changed = text[:30] + ("0" if text[30] != "0" else "1") + text[31:-6]
    number, digits = crc32(changed.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = letters[digit] + digits
    return changed + digits


@contextmanager
def keys(module: ModuleType) -> Iterator[World]:
    with module.security.blocking as blocking:
        there = blocking.keys
        yield World(
            {"its key": lambda: raised(lambda: there.authenticate(module.text).org)},
            {
                "a forged key": lambda: raised(lambda: there.authenticate(forged())),
                "another secret": lambda: raised(lambda: there.authenticate(spoiled(module.text))),
                "its record, by another": lambda: raised(lambda: there.get(module.key_id, org="org_2")),
                "rotated by another": lambda: raised(lambda: there.rotate(module.key_id, org="org_2")),
                "revoked by another": lambda: raised(lambda: there.revoke(module.key_id, org="org_2")),
            },
            "org_1",
        )


# --- doors, and an application with its own authentication ---


@contextmanager
def doors(module: ModuleType) -> Iterator[World]:
    with module.security.blocking:
        app = behind(module.gate)
        own, strange = callers(module.security, "orders:read")
        till = {"X-Client-Subject": "CN=till.shop.example"}
        reports = "Basic cmVwb3J0czpjb3JyZWN0IGhvcnNl"
        wrong = {"wrong password": "Basic cmVwb3J0czp3cm9uZw==", "no password": "Basic ", "no base64": "Basic ???"}
        strange["somebody's certificate"] = {"X-Client-Subject": "CN=somebody"}
        from_proxy = partial(asgi, client="10.0.0.7")
        yield World(
            {
                "a key": partial(from_proxy, app, OWN, own),
                "a certificate": partial(from_proxy, app, OWN, till),
                "an old client": partial(asgi, app, "/orgs/org_1/report", {"Authorization": reports}),
            },
            {
                **of("orders", strange, partial(from_proxy, app, OWN)),
                "the header from elsewhere": partial(asgi, app, OWN, till),
                "a certificate at another organization": partial(from_proxy, app, "/orgs/org_2/orders", till),
                "the old client at another organization": partial(
                    asgi, app, "/orgs/org_2/report", {"Authorization": reports}
                ),
                "the old client at the orders": partial(asgi, app, OWN, {"Authorization": reports}),
                **of("report", strange, partial(asgi, app, "/orgs/org_1/report")),
                **{
                    who: partial(asgi, app, "/orgs/org_1/report", {"Authorization": text})
                    for who, text in wrong.items()
                },
            },
            "for org_1",
        )


def adopting(*, old: bool, new: bool) -> Callable[[ModuleType], Any]:
    """The steps of adoption: with callers by the old token, by keys, or by both."""

    @contextmanager
    def world(module: ModuleType) -> Iterator[World]:
        with module.security.blocking:
            app = module.app
            own, strange = callers(module.security, "orders:read")
            token = {"X-Token": "t-1"}
            for who, text in (("a wrong token", "t-9"), ("a token of another organization", "t-2")):
                strange[who] = {"X-Token": text}
            if not old:
                strange["an old token"] = token
            owner: dict[str, Ask] = {"an old token": partial(asgi, app, OWN, token)} if old else {}
            if new:
                owner["a key"] = partial(asgi, app, OWN, own)
            yield World(owner, of("orders", strange, partial(asgi, app, OWN)), "orders of org_1")

    return world


# --- webhooks ---


def messages(
    hooks: Any, ask: Callable[[bytes, Mapping[str, str]], Reply], *, stamp: str = "webhook-timestamp"
) -> World:
    good = hooks.test_request({"type": "order.created"})
    return World(
        {"the sender": partial(ask, good.body, good.headers)},
        {
            "nothing signed": partial(ask, good.body, {}),
            "a byte more": partial(ask, good.body + b" ", good.headers),
            "another body": partial(ask, b'{"type":"order.paid"}', good.headers),
            "another time": partial(ask, good.body, {**good.headers, stamp: "1800000000"}),
        },
    )


@contextmanager
def verified(name: str, module: ModuleType) -> Iterator[World]:
    hooks = module.__dict__[name]
    receive = getattr(module, "receive", hooks.verify)
    stamp = "X-Acme-Time" if name == "acme" else "webhook-timestamp"
    yield messages(hooks, lambda body, headers: raised(lambda: receive(body, headers)), stamp=stamp)


@contextmanager
def in_front(module: ModuleType) -> Iterator[World]:
    with module.security.blocking:
        yield messages(module.hooks, lambda body, headers: asgi(module.app, "/hooks", headers, "POST", body))


# --- guards and walls ---


@contextmanager
def guarded(module: ModuleType) -> Iterator[World]:
    def ask(org: str, order: str, *scopes: str) -> Reply:
        with module.security.job("asking", org=org, scopes=set(scopes)):
            return raised(lambda: module.order(module.read_orders.require(), order))

    yield World(
        {"its own": partial(ask, "org_1", "1", "orders:read")},
        {
            "another organization's": partial(ask, "org_2", "1", "orders:read"),
            "nobody's": partial(ask, "org_1", "3", "orders:read"),
            "without the scope": partial(ask, "org_1", "1", "orders:readonly"),
        },
        "anna",
    )


@contextmanager
def walled(module: ModuleType) -> Iterator[World]:
    def ask(org: str) -> Reply:
        with ExitStack() as stack:
            stack.enter_context(module.security.job("asking", org=org))
            s = stack.enter_context(module.sessions())
            return raised(lambda: s.scalars(module.select(module.Order.org_id)).all())

    def others() -> Reply:
        reply = ask("org_2")
        return reply if "org_1" in reply.text else Reply(404)

    def by_name() -> Reply:
        with module.security.job("asking", org="org_2"), module.sessions() as s:
            return raised(lambda: s.add(module.Order(org_id="org_1", id="9")) or s.flush())

    try:
        yield World({"its own": partial(ask, "org_1")}, {"another organization": others, "written": by_name}, "org_1")
    finally:
        module.engine.dispose()


GATE, RULE = "docs/gate.md", 'Rule("GET /orders/{id}", allow.secret_key("orders:read"))'
FIRST, STARLETTE = page(GATE, "any ASGI application"), page(GATE, "from starlette.applications import Starlette")
BEFORE = FIRST + "\n" + upto(STARLETTE, "\nasync def fetch")


def framework(name: str, part: str, world: Any, *cuts: Cut, end: str = "\nassert", module: str = "") -> Example:
    """A framework's block, after the page's beginning and the rules of its first application."""
    return Example(name, BEFORE + upto(page(GATE, part), end), world, (*cuts, Cut(RULE, "Misuse")), module)


SHARING = """
from bartizan.core.ring import new_root
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock, Kit

clock = FakeClock()
SHARED = {"url": MemoryBackend(clock), "clock": clock, "secrets": [new_root()]}  # one set of signing keys
kit = Kit(**SHARED)
"""
SIGNIN = upto(page("docs/signin.md", "pending = signin.request_code("), "\npending =")
ADOPTING = page("docs/adopting.md", "def application(handler=orders)")
STEP_2 = page("docs/adopting.md", "class Notes")
STEP_3 = upto(page("docs/adopting.md", "class OldToken"), "\nkey = (await")
STEP_4 = upto(page("docs/adopting.md", 'x_token="t-1") == 401'), "\nassert")
HANDLER = re.findall(r"async def orders_of_the_caller.*?\n\n\n", STEP_3, re.DOTALL)[0]
WEBHOOKS = upto(page("docs/webhooks.md", "def receive(body"), "\nrequest = hooks")

EXAMPLES = [
    Example(
        "tutorial",
        page("docs/tutorial.md", "ORDERS = {", "app = Starlette(routes=routes)"),
        served(lambda module: module.app, OWN, "orders:read", "skates"),
        (
            Cut("install(app, gate)\n", "500"),
            Cut('        Rule("GET /health", allow.untouched()),\n', "401 403 404"),
            Cut('        Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read")),\n', "404"),
            Cut("    caller = current_principal(SecretPrincipal)\n", "401 403 404"),
            Cut(SECRETS, "Misuse"),
            Cut(', environment="live"', "TypeError"),
        ),
    ),
    Example(
        "gate: any ASGI application",
        FIRST + upto(page(GATE, 'allow.secret_key("orders:read"))])\nmine = bearer'), "\nmine"),
        served(by_its_client, OWN, "orders:read", ""),
        (
            Cut("GateMiddleware(app, gate)", "500", "app"),
            Cut('Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read"))', "Misuse"),
            Cut(SECRETS, "Misuse"),
            Cut(
                "    body = current_principal().org.encode()  # raises where no gate ran: without one nothing is served\n",
                "401 403 404",
            ),
        ),
    ),
    Example(
        "gate: overlapping rules",
        FIRST + upto(page(GATE, "rules = [\n"), "\nassert"),
        overlapping,
        (
            Cut('    Rule("/**", allow.publishable_key()),\n', "401 404"),
            Cut('    Rule("GET /orders/{id}", allow.secret_key("orders:read")),\n', "401 405"),
            Cut('    Rule("GET /orders/export", allow.secret_key("orders:export")),\n', "401"),
            Cut('    Rule("POST /orders/{id}", allow.secret_key("orders:write")),\n', "401"),
        ),
    ),
    Example(
        "gate: Starlette",
        BEFORE,
        served(lambda module: module.shop, "/orders/1", "orders:read", "org_1"),
        (Cut("starlette.install(shop, gate)\n", "500"), Cut(RULE, "Misuse")),
    ),
    framework(
        "gate: FastAPI",
        'api = FastAPI()\n\n\n@api.get("/orders/{id}")',
        served(lambda module: module.api, "/orders/1", "orders:read", "org_1"),
        Cut("fastapi.install(api, gate)\n", "500"),
        Cut(", caller: SecretKey", "401 403"),
    ),
    framework(
        "gate: Flask",
        "from flask import Flask",
        served(lambda module: module.web, "/orders/1", "orders:read", "org_1", asked=wsgi),
        Cut("flask.install(web, gate)\n", "500"),
    ),
    Example(
        "gate: Django",
        BEFORE + page(GATE, "MIDDLEWARE = [") + upto(page(GATE, "def order_in_django"), "\nwith override_settings"),
        served(django_site, "/orders/1", "orders:read", "org_1", asked=wsgi),
        (
            Cut('    "bartizan.integrations.django.GateMiddleware",  # last: directly before the router\n', "500"),
            Cut('BARTIZAN_GATE = "page.gate"', "500", "BARTIZAN_GATE = None"),
            Cut(RULE, "Misuse"),
        ),
        "page",
    ),
    framework(
        "gate: Litestar",
        "from litestar import Litestar",
        served(lambda module: module.shop, "/orders/1", "orders:read", "org_1"),
        Cut("litestar.install(shop, gate)\n", "500"),
    ),
    framework(
        "gate: any WSGI application",
        "from bartizan import wsgi",
        served(lambda module: module.guarded, "/orders/1", "orders:read", "org_1", asked=wsgi),
        Cut("wsgi.GateMiddleware(plain, gate)", "500", "plain"),
        end="\nenviron =",
    ),
    framework(
        "gate: mounted",
        "outer = Starlette(",
        served(lambda module: module.outer, "/api/orders", "", "org_1"),
        Cut('GateMiddleware(app, security.gate([Rule("GET /orders", allow.secret_key())]))', "500", "app"),
        Cut('Rule("GET /orders", allow.secret_key())', "Misuse"),
    ),
    Example(
        "issuers",
        page("docs/issuers.md", "import Bartizan, Issuer").splitlines()[0]
        + "\n"
        + upto(page("docs/issuers.md", "async def asked(signer"), "\nadmitted ="),
        issuers,
        (
            Cut('            organizations={"org_1"},\n', "TypeError"),
            Cut('            audience="dashboard",\n', "Misuse"),
            Cut('            roles={"viewer": "viewer"},\n', "401 403"),
            Cut('Rule("GET /orgs/{org}/orders", allow.member("viewer"))', "Misuse"),
        ),
    ),
    Example(
        "tokens",
        page("docs/tokens.md", "sessions=SessionPolicy(access=300"),
        tokens,
        (
            Cut("    secrets=[new_root()],\n", "Misuse"),
            Cut('    issuer="shop",\n', "Misuse"),
            Cut('    audience="shop-api",\n', "Misuse"),
            Cut('        Rule("GET /me", allow.consumer()),\n', "401 404"),
            Cut('        Rule("GET /orders", allow.consumer("orders:read")),\n', "401 404"),
            Cut(
                '        Rule("POST /card", allow.consumer(guests=False, factors={"otp"}, max_auth_age=300)),\n',
                "401 404",
            ),
        ),
    ),
    Example(
        "tokens: verified somewhere else",
        SHARING + upto(page("docs/tokens.md", "jwks = kit.security"), "\ntoken ="),
        verifying,
        (
            Cut(', issuer="kit"', "TypeError"),
            Cut(', audience="kit-api"', "TypeError"),
            Cut(', environment="test"', "TypeError"),
            Cut("TokenVerifier(jwks, ", "TypeError", "TokenVerifier("),
        ),
    ),
    Example(
        "sessions",
        page("docs/sessions.md", "memberships = {"),
        sessions,
        (
            Cut("    secrets=[new_root()],\n", "Misuse"),
            Cut('    issuer="shop",\n', "Misuse"),
            Cut('    audience="shop-api",\n', "Misuse"),
            Cut("        member_of=lambda subject, org: (subject, org) in memberships,\n", "401 500"),
            Cut('Rule("GET /me", allow.consumer()), ', "401 403 404"),
        ),
    ),
    Example(
        "binding",
        upto(page("docs/binding.md", 'sessions=SessionPolicy(binding="dpop")'), "\n\ndef asked"),
        binding,
        (
            Cut("    secrets=[new_root()],\n", "Misuse"),
            Cut('    issuer="shop",\n', "Misuse"),
            Cut('    origins=["https://shop.example"],\n', "Misuse"),
            Cut('Rule("GET /me", allow.consumer()), ', "401 404"),
            Cut(", proof=request", "Misuse"),
        ),
    ),
    Example(
        "signin: codes",
        SIGNIN,
        codes,
        (
            Cut("    secrets=[new_root()],\n", "Misuse"),
            Cut('    issuer="shop",\n', "Misuse"),
            Cut('    audience="shop-api",\n', "Misuse"),
        ),
    ),
    Example(
        "signin: exchange codes",
        SIGNIN + upto(page("docs/signin.md", "code = signin.authorize("), "\nidentity ="),
        exchanges,
        (Cut(", code_challenge=challenge", "401"), Cut("    secrets=[new_root()],\n", "Misuse")),
    ),
    Example(
        "keys",
        upto(page("docs/keys.md", "issued = await keys.create("), "\nassert len"),
        keys,
        (Cut(SECRETS, "Misuse"),),
    ),
    Example(
        "keys: a table of your own",
        page("docs/keys.md", "issued = await keys.create(").partition("\nsecurity =")[0]
        + "\n"
        + upto(page("docs/keys.md", "def caller_of"), "\nassert"),
        own_table,
        (
            Cut(
                "    return form.verify(text, None if found is None else KeyRow(**dict(zip(names, found))), now=int(time.time()))\n",
                "401 500",
            ),
            Cut('os.environ["BARTIZAN_SECRETS"].split(), ', "TypeError"),
        ),
    ),
    Example(
        "doors",
        upto(page("docs/doors.md", "class ClientCertificate"), "\ntold ="),
        doors,
        (
            Cut("    authenticators=[ClientCertificate(), OldClient()],\n", "Misuse"),
            Cut("ClientCertificate(), ", "Misuse"),
            Cut(' | allow.credential("mtls", "orders:read")', "401 403 404"),
            Cut(
                '        Rule("/orgs/{org}/orders", allow.secret_key("orders:read") | allow.credential("mtls", "orders:read")),\n',
                "401 403 404",
            ),
            Cut('        Rule("GET /orgs/{org}/report", allow.credential("legacy", "orders:read")),\n', "401 403 404"),
            Cut('    peers = {"10.0.0.0/24"}  # who may send the header: the proxies\n', "Misuse"),
            Cut('    slot = "x-client-subject"  # the one header that it reads\n', "Misuse"),
            Cut("        if org is None:\n            raise InvalidToken\n", "401 403 404 503"),
        ),
    ),
    Example(
        "doors: conditions",
        upto(page("docs/doors.md", "class ClientCertificate"), "\ntold =")
        + page("docs/doors.md", "def in_opening_hours"),
        served(lambda module: behind(module.gate), "/orgs/org_1/till", "", "for org_1"),
        (
            Cut(' & allow.when("opening-hours", in_opening_hours)', "401 404"),
            Cut(
                'Rule("/orgs/{org}/till", allow.secret_key() & allow.when("opening-hours", in_opening_hours))',
                "Misuse",
            ),
            Cut("allow.secret_key() & ", "Misuse"),
        ),
    ),
    Example(
        "explain",
        upto(page("docs/explain.md", "gate.explain"), "\nkey ="),
        served(lambda module: behind(module.gate), "/orgs/org_1/orders/7", "orders:read", "for org_1"),
        (
            Cut('Rule("GET|POST /orgs/{org}/orders/{id}", allow.secret_key("orders:read"))', "Misuse"),
            Cut(SECRETS, "Misuse"),
        ),
    ),
    Example(
        "adopting: the gate lets everything by",
        ADOPTING + upto(page("docs/adopting.md", "allow.unsafe_untouched_rest()"), "\nassert"),
        adopting(old=True, new=False),
        (
            Cut('install(app, security.gate([Rule("/**", allow.unsafe_untouched_rest())]))', "403"),
            Cut('Rule("/**", allow.unsafe_untouched_rest())', "Misuse"),
        ),
    ),
    Example(
        "adopting: rules that report",
        ADOPTING + upto(STEP_2, "\nclass Notes") + upto("app = " + STEP_2.partition("app = ")[2], "\nassert"),
        adopting(old=True, new=False),
        (
            Cut('install(app, security.gate(RULES).unsafe_report_only("GET /orgs/{org}/orders"))\n', "403"),
            Cut('.unsafe_report_only("GET /orgs/{org}/orders")', "401 404"),
            Cut('    Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read")),\n', "Misuse"),
        ),
    ),
    Example(
        "adopting: a door for old tokens",
        ADOPTING + STEP_3,
        adopting(old=True, new=True),
        (
            Cut("install(app, security.gate(RULES, authenticators=[OldToken()]))\n", "500"),
            Cut(", authenticators=[OldToken()]", "Misuse"),
            Cut(' | allow.credential("old", "orders:read")', "401 403 404"),
            Cut(
                '    Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read") | allow.credential("old", "orders:read")),\n',
                "404",
            ),
            Cut("        if org is None:\n            raise InvalidToken\n", "401 404 503"),
            Cut("application(orders_of_the_caller)", "401 404", "application()"),
        ),
    ),
    Example(
        "adopting: the old door is closed",
        ADOPTING + HANDLER + STEP_4,
        adopting(old=False, new=True),
        (
            Cut("install(app, security.gate(RULES))\n", "500"),
            Cut('    Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read")),\n', "404"),
        ),
    ),
    Example(
        "testing",
        page("docs/testing.md", "app = GateMiddleware(shop"),
        served(lambda module: module.app, OWN, "orders:read", "org_1"),
        (
            Cut("GateMiddleware(shop, kit.security.gate(RULES))", "500", "shop"),
            Cut('Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read"))', "Misuse"),
            Cut("    body = current_principal(SecretPrincipal).org.encode()\n", "401 403 404"),
        ),
    ),
    Example(
        "webhooks: verify",
        WEBHOOKS,
        partial(verified, "hooks"),
        (Cut("    event = hooks.verify(body, headers)  # or InvalidWebhook: answer with its status\n", "500"),),
    ),
    Example(
        "webhooks: a scheme of another's",
        WEBHOOKS.partition("\n\nhooks")[0] + "\n" + page("docs/webhooks.md", "acme = "),
        partial(verified, "acme"),
        (
            Cut('    "a secret of enough bytes",\n', "TypeError"),
            Cut('    signature="X-Acme-Signature",\n', "TypeError"),
            Cut('    timestamp="X-Acme-Time",\n', "Misuse"),
            Cut('    signed="{timestamp}.{body}",\n', "TypeError"),
            Cut('    label="sha256=",\n', "400 401"),
        ),
    ),
    Example(
        "webhooks: in front of an application",
        WEBHOOKS + page("docs/webhooks.md", "app = hooks.asgi(shop"),
        in_front,
        (
            Cut('hooks.asgi(shop, path="/hooks", security=security)', "500", "shop"),
            Cut(', path="/hooks"', "TypeError"),
            Cut(", security=security", "400 401"),
            Cut('    event = scope["bartizan.webhook"]\n', "400 401"),
        ),
    ),
    Example(
        "isolation: a guard",
        page("docs/isolation.md", 'roles={"clerk"').partition("\npacker")[0]
        + "\n"
        + upto(page("docs/isolation.md", "def order(access, order_id)"), "\nwith security"),
        guarded,
        (
            Cut('    access.confirm(org=found["org"], subject=found["subject"])\n', "403 404"),
            Cut('    if found is None or found["org"] != access.org:\n        raise NotFound\n', "403 404 500"),
            Cut('read_orders = Guard("orders:read")\n', "500"),
        ),
    ),
    Example(
        "isolation: a wall",
        page("docs/isolation.md", 'roles={"clerk"').partition("\npacker")[0]
        + "\n"
        + upto(page("docs/isolation.md", "wall.protect(sessions)"), '\nwith security.job("report"'),
        walled,
        # Without its wall the page cannot even write its rows: it is the wall that says whose they are.
        (Cut("wall.protect(sessions)\n", "SAWarning"), Cut("wall = OrgWall(Base)\n", "NameError")),
    ),
]

# Pages with such words that protect nothing in their blocks, and why.
OTHERS = {
    "routes": "its handlers give nothing: it shows the table of routes and rules",
    "operations": "secrets, stores and jobs of one's own: nobody asks",
    "errors": "the classes of errors",
}
PROTECTS = re.compile(r"allow\.|Guard\(|authenticate\(|WebhookVerifier|OrgWall|TokenVerifier")


def test_every_page_that_protects_something_is_attacked() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md") if PROTECTS.search(path.read_text("utf-8"))}
    assert pages == {told.name.partition(":")[0] for told in EXAMPLES} | set(OTHERS)


@each(EXAMPLES)
def test_as_written_strangers_are_refused(told: Example) -> None:
    as_written(told)


@each_cut(EXAMPLES)
def test_without_one_line_strangers_get_nothing(told: Example, cut: Cut) -> None:
    assert strangers_without(told, cut) == cut.gives
