"""What a webhook costs: against the bare HMAC, and beside the senders' own packages where they are installed."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from hmac import compare_digest, digest
from importlib import import_module
from importlib.util import find_spec
from time import time
from typing import Any

from bartizan import Rejected, WebhookSigner, WebhookVerifier
from benchmarks.cases import EMPTY, Bound, Case, Entry

SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
TEXT = "whsec_a_text_of_enough_bytes"
KEY = b64decode(SECRET[6:])
KIB, MIB = 1 << 10, 1 << 20
OTHERS = {
    "host": "shop.example", "user-agent": "Platform/1.0", "accept": "*/*", "content-type": "application/json",
    "content-length": "1024",
}  # fmt: skip


def body_of(size: int, text: str = "x") -> bytes:
    """JSON of exactly that size."""
    filling = (text * size).encode()[: size - 19]  # what stands around it
    return b'{"type":"a","b":"' + filling.decode("utf-8", "ignore").encode() + b'"}'


def name_of(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def floor_of(size: int) -> str:
    return f"HMAC and compare_digest, {name_of(size)}"


def floor(size: int) -> Callable[[], Case]:
    def make() -> Case:
        body = body_of(size)
        expected = digest(KEY, body, "sha256")
        return calling(lambda: compare_digest(digest(KEY, body, "sha256"), expected))

    return make


def calling(call: Callable[[], object]) -> Case:
    def calls(n: int) -> None:
        for _ in range(n):
            call()

    return Case(calls, lambda: None if call() is not False else fail())


def fail() -> None:
    raise RuntimeError("it does not verify")


def message(body: bytes) -> tuple[WebhookVerifier, dict[str, str]]:
    now = int(time())
    return WebhookVerifier(SECRET, clock=lambda: now), WebhookSigner(SECRET).sign(
        body, id="msg_p5jXN8AQM9LWM0D4loKW", now=now
    )


def from_dict(size: int, text: str = "x") -> Callable[[], Case]:
    def make() -> Case:
        body = body_of(size, text)
        hooks, signed = message(body)
        headers = {**OTHERS, **signed}
        return calling(lambda: hooks.verify(body, headers))

    return make


def from_pairs(size: int) -> Callable[[], Case]:
    def make() -> Case:
        body = body_of(size)
        hooks, signed = message(body)
        headers = [(name.encode(), value.encode()) for name, value in {**OTHERS, **signed}.items()]
        return calling(lambda: hooks.verify(body, headers))

    return make


def refused(size: int, **changed: str) -> Callable[[], Case]:
    def make() -> Case:
        body = body_of(size)
        hooks, signed = message(body)
        headers = {**OTHERS, **signed, **{name.replace("_", "-"): value for name, value in changed.items()}}
        headers = {name: value for name, value in headers.items() if value}

        def call() -> object:
            try:
                hooks.verify(body, headers)
            except Rejected:
                return None
            return False

        return calling(call)

    return make


async def application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def served(*, wrapped: bool) -> Callable[[], Case]:
    """An application behind the wrapper, or one that reads the body itself and verifies it."""

    def make() -> Case:
        body = body_of(KIB)
        hooks, signed = message(body)
        wire = [(name.encode(), value.encode()) for name, value in {**OTHERS, **signed}.items()]

        async def by_hand(scope: Any, receive: Any, send: Any) -> None:
            hooks.verify((await receive())["body"], scope["headers"])
            await application(scope, receive, send)

        app: Any = hooks.asgi(application, path="/hooks") if wrapped else by_hand

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            pass

        def call() -> object:
            coroutine = app({"type": "http", "method": "POST", "path": "/hooks", "headers": wire}, receive, send)
            try:
                coroutine.send(None)
            except StopIteration:
                return None
            return False

        return calling(call)

    return make


def peers() -> Iterable[tuple[str, int, Callable[[], Case]]]:
    """Each peer that is installed, for each size."""
    for size in (KIB, 64 * KIB, MIB):
        if find_spec("standardwebhooks") is not None:
            yield "standardwebhooks", size, standard_peer("standardwebhooks.webhooks", size, "webhook")
        if find_spec("svix") is not None:
            yield "svix", size, standard_peer("svix.webhooks", size, "svix")
        if find_spec("stripe") is not None:
            yield "stripe", size, stripe_peer(size)
        if find_spec("slack_sdk") is not None:
            yield "slack_sdk", size, slack_peer(size)


def standard_peer(module: str, size: int, brand: str) -> Callable[[], Case]:
    def make() -> Case:
        body = body_of(size)
        peer = import_module(module).Webhook(SECRET)
        signed = WebhookSigner(SECRET).sign(body, id="msg_1", now=int(time()))
        headers = {name.replace("webhook", brand): value for name, value in signed.items()}
        return calling(lambda: peer.verify(body, headers))

    return make


def stripe_peer(size: int) -> Callable[[], Case]:
    def make() -> Case:
        body = body_of(size)
        verify = import_module("stripe").WebhookSignature.verify_header
        header = WebhookVerifier.stripe(TEXT).test_request(body).headers["stripe-signature"]
        return calling(lambda: verify(body.decode(), header, TEXT, 300))

    return make


def slack_peer(size: int) -> Callable[[], Case]:
    def make() -> Case:
        body = body_of(size)
        peer = import_module("slack_sdk.signature").SignatureVerifier(TEXT)
        headers = WebhookVerifier.slack(TEXT).test_request(body).headers
        return calling(lambda: peer.is_valid_request(body, headers))

    return make


BY_HAND = "webhook, read and verified by hand"
LIMITS = {KIB: (1.4, 1.8), 64 * KIB: (1.06, 1.08), MIB: (1.02, 1.02)}


def webhook_entries() -> dict[str, Entry]:
    """The rows, after those of `cases`."""
    rows: dict[str, Entry] = {}
    for size, (dict_limit, pair_limit) in LIMITS.items():
        of = floor_of(size)
        rows[of] = Entry(floor(size), EMPTY)
        rows[f"webhook from a dict, {name_of(size)}"] = Entry(from_dict(size), EMPTY, (Bound(dict_limit, "times", of),))
        rows[f"webhook from ASGI pairs, {name_of(size)}"] = Entry(
            from_pairs(size), EMPTY, (Bound(pair_limit, "times", of),)
        )
    of = floor_of(64 * KIB)
    rows["webhook of CJK text, 64 KiB"] = Entry(from_dict(64 * KIB, "株"), EMPTY, (Bound(1.06, "times", of),))
    for name, changed in (
        ("no signature", {"webhook_signature": ""}),
        ("stale", {"webhook_timestamp": "1"}),
        ("8 KiB of signatures", {"webhook_signature": "v1,x " * 1638}),
    ):
        rows[f"webhook refused: {name}, 1 MiB"] = Entry(refused(MIB, **changed), EMPTY, (Bound(2),))
    rows["webhook refused: wrong signature, 1 KiB"] = Entry(
        refused(KIB, webhook_signature="v1," + "A" * 43 + "="), EMPTY
    )
    rows[BY_HAND] = Entry(served(wrapped=False), EMPTY)
    rows["webhook through the ASGI wrapper"] = Entry(served(wrapped=True), BY_HAND, (Bound(3),))
    for name, size, make in peers():
        rows[f"{name}, {name_of(size)}"] = Entry(make, EMPTY)
    return rows
