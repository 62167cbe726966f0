"""The shop of `shop.py` once more, as a plain WSGI application behind the same rules."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from shop import ORDERS, RULES

from bartizan import Bartizan, SecretPrincipal, current_principal
from bartizan.wsgi import GateMiddleware

Environ = dict[str, Any]


def answer(environ: Environ, security: Bartizan) -> tuple[str, Any]:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if path == "/health":
        return "200 OK", "ok"
    if path == "/products":
        current_principal()  # raises where no gate let anybody in
        return "200 OK", ["skates", "kite", "kettle"]
    if path.startswith("/invitations/"):
        text, team = environ["QUERY_STRING"], environ["bartizan"].params["team"]
        return "200 OK", security.blocking.links.redeem(text, purpose="invitation", org=team).subject
    if path.startswith("/admin"):
        current_principal(SecretPrincipal)
        return "200 OK", "the keys to everything"
    if path.startswith("/orgs/") and path.endswith("/orders"):
        caller = current_principal(SecretPrincipal)
        orders = ORDERS.setdefault(caller.org, [])
        if method == "POST":
            orders.append(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()[:100])
            return "201 Created", len(orders)
        return "200 OK", {"organization": caller.org, "orders": orders}
    return "404 Not Found", "nothing"


def behind_a_gate(security: Bartizan) -> GateMiddleware:
    """The shop, with the gate before it."""

    def shop(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, value = answer(environ, security)
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(value).encode()]

    rules = [rule for rule in RULES if not rule.patterns[0].startswith("WEBSOCKET")]
    return GateMiddleware(shop, security.gate(rules))
