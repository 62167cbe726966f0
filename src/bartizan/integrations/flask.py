"""Flask: the gate directly around the application, and our errors in a view as answers."""

import logging
from collections.abc import Iterable

from flask import Flask, Response, request as flask_request

from bartizan.core.passage import Refuse
from bartizan.core.request import of_environ
from bartizan.errors import BartizanError, Misuse, Rejected, Unavailable
from bartizan.gate.gate import Gate
from bartizan.integrations.coverage import tell
from bartizan.integrations.routes import routes_of
from bartizan.wsgi import Environ, GateMiddleware, StartResponse

_log = logging.getLogger("bartizan.integrations")


class InstalledGate(GateMiddleware):
    """`GateMiddleware` that tells, the first time, what stands outside it and which routes and rules have no other."""

    def __init__(self, app: Flask, gate: Gate) -> None:
        super().__init__(app.wsgi_app, gate)
        self._owner = app
        self._gate = gate
        self._told = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As `GateMiddleware`."""
        if not self._told:
            self._told = True
            outer = self._owner.wsgi_app
            if outer is not self:
                _log.info("outside the gate, and not behind it: %s", type(outer).__name__)
            tell(self._gate, lambda: routes_of(self._owner))
        return super().__call__(environ, start_response)


def install(app: Flask, gate: Gate) -> None:
    """Put the gate directly before Flask's own application; what wraps `app.wsgi_app` later goes outside it.

    Errors of ours that a view raises are answered like refusals. `Misuse` once the application has served a request, or
    where `app.wsgi_app` has been wrapped already: what was put there could change the path behind the gate.
    """
    if app._got_first_request:  # noqa: SLF001 - Flask has no public word for it
        raise Misuse("install(app, gate) comes before the application has started")
    if "wsgi_app" in vars(app):
        raise Misuse("install(app, gate) comes before anything else wraps app.wsgi_app")
    app.wsgi_app = InstalledGate(app, gate)  # type: ignore[method-assign]
    app.extensions["bartizan"] = gate

    def answer(error: BartizanError) -> Response:
        refuse: Refuse = gate.refusal(error, of_environ(flask_request.environ))
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in refuse.headers]
        return Response(refuse.body, refuse.status, headers)

    app.register_error_handler(Rejected, answer)
    app.register_error_handler(Unavailable, answer)
