"""Flask: the gate directly around the application, and our errors in a view as answers."""

from flask import Flask, Response, request as flask_request

from bartizan.core.passage import Refuse
from bartizan.errors import BartizanError, Misuse, Rejected, Unavailable
from bartizan.gate.gate import Gate
from bartizan.wsgi import GateMiddleware, request_of


def install(app: Flask, gate: Gate) -> None:
    """Put the gate directly before Flask's own application; what wraps `app.wsgi_app` later goes outside it.

    Errors of ours that a view raises are answered like refusals. `Misuse` once the application has served a request, or
    where `app.wsgi_app` has been wrapped already: what was put there could change the path behind the gate.
    """
    if app._got_first_request:  # noqa: SLF001 - Flask has no public word for it
        raise Misuse("install(app, gate) comes before the application has started")
    if "wsgi_app" in vars(app):
        raise Misuse("install(app, gate) comes before anything else wraps app.wsgi_app")
    app.wsgi_app = GateMiddleware(app.wsgi_app, gate)  # type: ignore[method-assign]

    def answer(error: BartizanError) -> Response:
        refuse: Refuse = gate.refusal(error, request_of(flask_request.environ))
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in refuse.headers]
        return Response(refuse.body, refuse.status, headers)

    app.register_error_handler(Rejected, answer)
    app.register_error_handler(Unavailable, answer)
