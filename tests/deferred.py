"""A FastAPI application with the trap: annotations as text, and a dependency that only its function knows."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI


def trapped(*, nested: bool = False) -> FastAPI:
    async def checked() -> str:
        raise RuntimeError("it never runs")

    async def inner(caller: Annotated[str, Depends(checked)] = "nobody") -> str:
        return caller

    globals()["inner"] = inner  # the inner one is found, its own dependency is not
    app = FastAPI()
    if nested:

        @app.get("/x")
        async def outer(caller: Annotated[str, Depends(inner)]) -> str:
            return caller
    else:

        @app.get("/x")
        async def x(caller: Annotated[str, Depends(checked)] = "nobody") -> str:
            return caller

    return app
