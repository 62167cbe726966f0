"""The shop of `site_starlette.py` once more, as a Flask application behind the same rules."""

from flask import Flask, redirect, request
from site_starlette import LOGIN, ORG, RULES, Shop
from werkzeug.wrappers import Response

from bartizan import Bartizan
from bartizan.endpoints import session_wsgi
from bartizan.integrations.flask import install


def behind_a_gate(security: Bartizan, shop: Shop) -> Flask:
    """The shop, with the gate before its views."""
    app = Flask("site_flask", static_folder=None)
    auth = session_wsgi(security, deliver=shop.deliver, resolve=shop.resolve, transport="cookie", org=ORG)

    @app.route("/auth/<path:rest>", methods=["GET", "POST"])
    def endpoints(rest: str) -> Response:
        return Response.from_app(auth, {**request.environ, "SCRIPT_NAME": "/auth", "PATH_INFO": f"/{rest}"})

    @app.get("/")
    @app.get("/account")
    def home() -> str:
        return shop.page()

    @app.post("/cart")
    def cart() -> str:
        return shop.put()

    @app.get("/login")
    def login() -> str:
        return LOGIN

    @app.get("/welcome")
    def welcome() -> Response:
        return redirect(security.return_path(request), 303)

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("a bug of the shop's")

    install(app, security.gate(RULES))
    return app
