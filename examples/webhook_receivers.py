"""Three lines in each framework: verify what a platform sends, refuse everything else.

The secret is the platform's, in the environment as WEBHOOK_SECRET; each application answers at POST /hooks.
"""

import os
from typing import Any

from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
from django.views.decorators.csrf import csrf_exempt  # type: ignore[import-untyped]
from fastapi import FastAPI, Request as FastApiRequest, Response as FastApiResponse
from flask import Flask, request as flask_request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bartizan import InvalidWebhook, WebhookVerifier
from bartizan.errors import TooLarge

hooks = WebhookVerifier(os.environ["WEBHOOK_SECRET"])
handled: list[str] = []


def handle(event: Any) -> None:
    handled.append(event.id)


# Starlette


async def starlette_hook(request: Request) -> Response:
    event = await hooks.receive(request)
    handle(event)
    return Response(status_code=204)


async def refused(_: Request, error: Exception) -> Response:
    return Response(status_code=getattr(error, "status", 500))


starlette_app = Starlette(
    routes=[Route("/hooks", starlette_hook, methods=["POST"])],
    exception_handlers={InvalidWebhook: refused, TooLarge: refused},
)

# FastAPI

fastapi_app = FastAPI(exception_handlers={InvalidWebhook: refused, TooLarge: refused})


@fastapi_app.post("/hooks", status_code=204)
async def fastapi_hook(request: FastApiRequest) -> FastApiResponse:
    event = await hooks.receive(request)
    handle(event)
    return FastApiResponse(status_code=204)


# Flask

flask_app = Flask(__name__)


@flask_app.post("/hooks")
def flask_hook() -> tuple[str, int]:
    event = hooks.verify(flask_request.get_data(), flask_request.headers)
    handle(event)
    return "", 204


@flask_app.errorhandler(InvalidWebhook)
def flask_refused(error: InvalidWebhook) -> tuple[str, int]:
    return "", error.status


# Django


@csrf_exempt  # type: ignore[untyped-decorator]  # its sender is no browser: the signature is the proof
def django_hook(request: HttpRequest) -> HttpResponse:
    try:
        event = hooks.verify(request.body, request.headers)
    except InvalidWebhook as error:
        return HttpResponse(status=error.status)
    handle(event)
    return HttpResponse(status=204)
