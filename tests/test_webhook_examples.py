"""The examples, as written and by a stranger."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import webhook_demo
import webhook_github
import webhook_receivers
import webhook_sender
import webhook_stripe
from django.conf import settings  # type: ignore[import-untyped]
from django.test import RequestFactory  # type: ignore[import-untyped]

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")

HOOKS = webhook_receivers.hooks
BODY = b'{"type":"order.created"}'


def ask(app: Any, path: str, body: bytes, headers: dict[str, str], *, wsgi: bool) -> int:
    if wsgi:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://shop.example") as client:
            return client.post(path, content=body, headers=headers).status_code

    async def once() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.example") as client:
            return (await client.post(path, content=body, headers=headers)).status_code

    return asyncio.run(once())


def django_app(path: str, body: bytes, headers: dict[str, str]) -> int:
    request = RequestFactory().post(path, body, content_type="application/json", headers=headers)
    status: int = webhook_receivers.django_hook(request).status_code
    return status


APPS = {
    "starlette": lambda *args: ask(webhook_receivers.starlette_app, *args, wsgi=False),
    "fastapi": lambda *args: ask(webhook_receivers.fastapi_app, *args, wsgi=False),
    "flask": lambda *args: ask(webhook_receivers.flask_app, *args, wsgi=True),
    "django": django_app,
}


@pytest.mark.parametrize("name", APPS)
def test_three_lines(name: str) -> None:
    app, headers = APPS[name], HOOKS.test_request(BODY, id=f"msg_{name}").headers
    webhook_receivers.handled.clear()
    assert app("/hooks", BODY, headers) == 204
    assert webhook_receivers.handled == [f"msg_{name}"]
    for strange, status in (
        ({}, 400),
        ({**headers, "webhook-id": "msg_2"}, 401),
        ({**headers, "webhook-timestamp": "1"}, 401),
    ):
        assert app("/hooks", BODY, strange) == status
    assert app("/hooks", BODY + b" ", headers) == 401
    assert webhook_receivers.handled == [f"msg_{name}"]


@pytest.mark.parametrize(
    ("module", "path", "effects", "wsgi"),
    [
        (webhook_stripe, "/stripe", webhook_stripe.paid, False),
        (webhook_github, "/github", webhook_github.deployed, True),
    ],
    ids=["stripe", "github"],
)
def test_senders(module: Any, path: str, effects: dict[str, str], *, wsgi: bool) -> None:
    effects.clear()
    request = module.hooks.test_request(module.EVENT, type="push")
    for _ in range(3):
        assert ask(module.app, path, request.body, request.headers, wsgi=wsgi) in {200, 204}
    assert len(effects) == 1
    assert ask(module.app, path, request.body, {}, wsgi=wsgi) == 400
    assert ask(module.app, path, request.body + b" ", request.headers, wsgi=wsgi) == 401
    assert len(effects) == 1


def test_a_body_that_does_not_fit_is_400() -> None:
    request = webhook_github.hooks.test_request({"action": "opened"})
    assert ask(webhook_github.app, "/github", request.body, request.headers, wsgi=True) == 400


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert webhook_demo.main() == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 11
    assert "WRONG" not in printed


def test_rotation() -> None:
    assert webhook_sender.deliveries() == [
        "before: the old secret verifies",
        "before: the new secret verifies",
        "on the day of the rotation: the old secret verifies",
        "on the day of the rotation: the new secret verifies",
        "after the grace: the old secret is refused, signature_mismatch",
        "after the grace: the new secret verifies",
    ]
    path = Path(webhook_sender.__file__)
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == webhook_sender.deliveries()
