"""A shop whose pages the server renders: guests, one-time codes, sessions in cookies; `site_flask` is its twin.

uvicorn site_starlette:app    with BARTIZAN_… in the environment; `signin_demo.py` walks through it
"""

import json
from collections import defaultdict
from queue import SimpleQueue

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from bartizan import Bartizan, ConsumerPrincipal, Rule, allow, current_principal
from bartizan.endpoints import session_app
from bartizan.integrations.starlette import install
from bartizan.types import Identity, PendingCode

ORG = "org_1"
ORIGIN = "https://shop.example"

RULES = [
    Rule("GET /", allow.optional(allow.consumer())),
    Rule("GET|POST /auth/**", allow.optional(allow.consumer())),  # the endpoints look after themselves
    Rule("POST /cart", allow.consumer()),  # guests have one too
    Rule("GET /account", allow.consumer(guests=False), login="/login"),
    Rule("GET /broken", allow.consumer()),
    Rule("GET /login", allow.public()),
    Rule("GET /welcome", allow.consumer()),
]

LOGIN = """<!doctype html><title>Sign in</title>
<form><input name="address" type="email" required><input name="code" inputmode="numeric"><button>Go on</button></form>
<script>
const form = document.forms[0]; let requestId;
const post = (path, sent) => fetch("/auth/otp/" + path, {method: "POST", body: JSON.stringify(sent),
  headers: {"Content-Type": "application/json"}});
form.onsubmit = async (event) => {
  event.preventDefault();
  const address = form.address.value, code = form.code.value;
  const answer = await post(code ? "verify" : "request", code ? {requestId, code, address} : {address});
  if (!code) requestId = (await answer.json()).requestId;
  else if (answer.ok) location = "/welcome" + location.search;
};
</script>"""


class Shop:
    """What the shop keeps, and the two functions that the endpoints ask of it."""

    def __init__(self) -> None:
        self.carts: defaultdict[str, list[str]] = defaultdict(list)
        self.mail: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def deliver(self, address: str, pending: PendingCode) -> None:
        """Send the code, to whomever: who has no account yet gets one."""
        self.mail.put((address, pending.code or ""))

    def resolve(self, identity: Identity) -> str:
        """The shop's own id of whoever that is; a guest who signs in keeps the cart."""
        subject = f"{identity.provider} {identity.issuer} {identity.subject}"
        guest = current_principal(ConsumerPrincipal, optional=True)
        if guest is not None and guest.guest:
            self.carts[subject] += self.carts.pop(guest.subject, [])
        return subject

    def put(self) -> str:
        """One thing more in the caller's cart."""
        self.carts[current_principal(ConsumerPrincipal).subject].append("skates")
        return self.page()

    def page(self) -> str:
        """Who is here, and what is in their cart."""
        me = current_principal(ConsumerPrincipal, optional=True)
        if me is None:
            return "nobody"
        return json.dumps({"who": "a guest" if me.guest else me.subject, "cart": self.carts[me.subject]})


def behind_a_gate(security: Bartizan, shop: Shop) -> Starlette:
    """The shop, with the gate before its router."""

    async def home(_: Request) -> Response:
        return HTMLResponse(shop.page())

    async def cart(_: Request) -> Response:
        return HTMLResponse(shop.put())

    async def login(_: Request) -> Response:
        return HTMLResponse(LOGIN)

    async def welcome(request: Request) -> Response:
        return RedirectResponse(security.return_path(request), status_code=303)

    async def broken(_: Request) -> Response:
        raise RuntimeError("a bug of the shop's")

    auth = session_app(security, deliver=shop.deliver, resolve=shop.resolve, transport="cookie", org=ORG)
    routes = [
        Route("/", home),
        Mount("/auth", auth),
        Route("/cart", cart, methods=["POST"]),
        Route("/account", home),
        Route("/broken", broken),
        Route("/login", login),
        Route("/welcome", welcome),
    ]
    app = Starlette(routes=routes)
    install(app, security.gate(RULES))
    return app


def __getattr__(name: str) -> Starlette:
    if name == "app":
        return behind_a_gate(Bartizan.from_env(), Shop())
    raise AttributeError(name)
