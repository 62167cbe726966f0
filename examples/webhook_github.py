"""A receiver for GitHub, over WSGI: it signs the body alone, so what happened is read from the body.

Serve it with `gunicorn webhook_github:app`, and GITHUB_WEBHOOK_SECRET in the environment.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bartizan import Bartizan, WebhookEvent, WebhookVerifier

security = Bartizan(os.environ.get("SHOP_DATABASE", "memory://"), environment="live")
hooks = WebhookVerifier.github(os.environ["GITHUB_WEBHOOK_SECRET"])
deployed: dict[str, str] = {}  # by the id of the event: twice is once


@dataclass
class Repository:
    full_name: str


@dataclass
class Push:
    ref: str
    after: str
    repository: Repository


def deploy(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    event: WebhookEvent = environ["bartizan.webhook"]
    # `event.unsigned["x-github-event"]` says "push", and anybody who captured a message can say so too.
    push = event.parse(Push)  # a body that is no push is answered 400
    if push.ref == "refs/heads/main":
        deployed.setdefault(event.id, f"{push.repository.full_name}@{push.after}")
    start_response("204 No Content", [])
    return []


app = hooks.wsgi(deploy, path="/github", security=security)

# The documented payload of a push (GitHub's "Webhook events and payloads"), shortened.
EVENT = {
    "ref": "refs/heads/main",
    "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
    "after": "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c",
    "repository": {"id": 186853002, "full_name": "Codertocat/Hello-World"},
    "pusher": {"name": "Codertocat"},
}
