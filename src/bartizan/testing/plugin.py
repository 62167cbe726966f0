"""Fixtures for pytest: `pytest_plugins = ["bartizan.testing.plugin"]` in the `conftest.py` of an application."""

from collections.abc import Callable
from typing import Any

import pytest

from bartizan.webhooks.signer import SignedRequest
from bartizan.webhooks.verifier import WebhookVerifier


@pytest.fixture
def webhook_request() -> Callable[..., SignedRequest]:
    """`webhook_request(hooks, body, type=…, id=…, target=…)`: a message as its sender would send it now."""

    def made(hooks: WebhookVerifier, body: Any, **more: str) -> SignedRequest:
        return hooks.test_request(body, **more)

    return made
