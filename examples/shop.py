"""A small shop for many organizations: an ASGI application behind a gate.

uvicorn shop:app          with BARTIZAN_URL, BARTIZAN_ENVIRONMENT and BARTIZAN_SECRETS in the environment
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from bartizan import Bartizan, Rule, SecretPrincipal, allow, current_principal
from bartizan.integrations.starlette import install

ORDERS = {"org_1": ["a pair of skates"], "org_2": ["a kite", "a kettle"]}

RULES = [
    Rule("GET /health", allow.untouched()),
    Rule("GET /products", allow.publishable_key() | allow.secret_key()),
    Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read")),
    Rule("POST /orgs/{org}/orders", allow.secret_key("orders:write")),
    Rule("WEBSOCKET /live", allow.publishable_key()),
    Rule("GET|POST /invitations/{team}", allow.public()),  # whoever has the link
    Rule("/admin/**", allow.secret_key("admin")),
]


async def health(_: Request) -> Response:
    return PlainTextResponse("ok")


async def products(_: Request) -> Response:
    current_principal()  # raises where no gate let anybody in: a handler without one shows nothing
    return JSONResponse(["skates", "kite", "kettle"])


async def orders(_: Request) -> Response:
    caller = current_principal(SecretPrincipal)
    return JSONResponse({"organization": caller.org, "orders": ORDERS.get(caller.org, [])})


async def order(request: Request) -> Response:
    caller = current_principal(SecretPrincipal)
    ORDERS.setdefault(caller.org, []).append((await request.body()).decode()[:100])
    return JSONResponse({"orders": len(ORDERS[caller.org])}, status_code=201)


async def live(socket: WebSocket) -> None:
    caller = current_principal()
    await socket.accept()
    await socket.send_text(f"for {caller.org}")
    await socket.close()


async def admin(_: Request) -> Response:
    current_principal(SecretPrincipal)
    return PlainTextResponse("the keys to everything")


def behind_a_gate(security: Bartizan) -> Starlette:
    """The shop, with the gate before its router."""

    async def accept(request: Request) -> Response:
        text, team = request.url.query, request.path_params["team"]
        link = await security.links.redeem(text, purpose="invitation", org=team)
        return PlainTextResponse(f"welcome, {link.subject}")

    routes = [
        Route("/health", health),
        Route("/products", products),
        Route("/orgs/{org}/orders", orders),
        Route("/orgs/{org}/orders", order, methods=["POST"]),
        WebSocketRoute("/live", live),
        Route("/invitations/{team}", accept, methods=["GET", "POST"]),
        Route("/admin", admin),
        Route("/admin/keys", admin),
    ]
    app = Starlette(routes=routes)
    install(app, security.gate(RULES))
    return app


def __getattr__(name: str) -> Starlette:
    if name == "app":
        return behind_a_gate(Bartizan.from_env())
    raise AttributeError(name)
