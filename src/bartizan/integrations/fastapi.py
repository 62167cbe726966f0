"""FastAPI: `install(app, gate)`, and the caller as a parameter: `async def orders(caller: SecretKey): ...`."""

from typing import Annotated

from fastapi import Depends, FastAPI

from bartizan.core.principal import Principal, SecretPrincipal, current_principal
from bartizan.gate.gate import Gate
from bartizan.integrations import starlette


async def _caller() -> Principal:
    return current_principal()


async def _secret_key() -> SecretPrincipal:
    return current_principal(SecretPrincipal)


# They are async: FastAPI runs a plain function in a thread, at five times the price.
Caller = Annotated[Principal, Depends(_caller)]
SecretKey = Annotated[SecretPrincipal, Depends(_secret_key)]


def install(app: FastAPI, gate: Gate) -> None:
    """Put the gate directly before the router: see `bartizan.integrations.starlette.install`."""
    starlette.install(app, gate)
