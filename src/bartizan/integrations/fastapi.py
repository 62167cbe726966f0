"""FastAPI: `install(app, gate)`, and the caller as a parameter: `async def orders(caller: SecretKey): ...`."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI

from bartizan.core.principal import Principal, SecretPrincipal, current_principal
from bartizan.gate.gate import Gate
from bartizan.integrations import starlette
from bartizan.integrations.locks import lock


async def _caller() -> Principal:
    return current_principal()


async def _secret_key() -> SecretPrincipal:
    return current_principal(SecretPrincipal)


# They are async: FastAPI runs a plain function in a thread, at five times the price.
Caller = Annotated[Principal, Depends(_caller)]
SecretKey = Annotated[SecretPrincipal, Depends(_secret_key)]


def install(app: FastAPI, gate: Gate) -> None:
    """Put the gate directly before the router, and what it asks for into `app.openapi()`.

    See `bartizan.integrations.starlette.install`. An `app.openapi` of your own is assigned before.
    """
    starlette.install(app, gate)
    written, locked = app.openapi, None

    def openapi() -> dict[str, Any]:
        nonlocal locked
        document = written()
        if document is not locked:  # it is made once, and kept
            lock(document, gate)
            locked = document
        return document

    app.openapi = openapi  # type: ignore[method-assign]
