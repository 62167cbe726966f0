"""What a session in cookies costs beside one in a header, and what the check of a request's origin does."""

from collections.abc import Callable
from unittest.mock import patch

from bartizan import Bartizan, OriginCheck, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.cookies import ACCESS, REFRESH
from bartizan.core.ring import new_root
from bartizan.errors import CrossOrigin
from bartizan.operations.upkeep import Upkeep
from benchmarks.cases import BARE, EMPTY, Bound, Case, Entry, application, asgi, requests

ORIGIN = "https://shop.example"
HEADER = "ASGI consumer, access token in a header"


def served(*, cookies: bool) -> Callable[[], Case]:
    def make() -> Case:
        with patch.object(Upkeep, "need", lambda _: None):
            security = Bartizan(
                "memory://", environment="live", secrets=[new_root(bytes)], issuer="shop", audience="shop-api",
                staleness=300, clock=lambda: 1_800_000_000, origins=[ORIGIN] if cookies else (),
            )  # fmt: skip
            pair = security.blocking.sessions.start(org="org_1", subject="cons_1", scopes={"orders:read"})
            security.blocking.sessions.authenticate(pair.access_token)
            gate = security.gate([Rule("GET /v1/orders/{id}", allow.consumer("orders:read"))])
        app = GateMiddleware(application, gate)
        value = f"theme=dark; {ACCESS}={pair.access_token}; {REFRESH}={pair.refresh_token}"
        header, text = (b"cookie", value) if cookies else (b"authorization", f"Bearer {pair.access_token}")
        return requests(asgi(app, "/v1/orders/17", text.encode(), header=header), 200)

    return make


def origin(headers: list[tuple[bytes, bytes]], *, passes: bool) -> Callable[[], Case]:
    def make() -> Case:
        verify = OriginCheck([ORIGIN]).verify

        def passed() -> bool:
            try:
                verify("POST", headers)
            except CrossOrigin:
                return False
            return True

        def calls(n: int) -> None:
            for _ in range(n):
                passed()

        def check() -> None:
            if passed() != passes:
                raise RuntimeError("another verdict")

        return Case(calls, check)

    return make


def cookie_entries() -> dict[str, Entry]:
    """The rows, after those of `cases`."""
    sent = [(b"host", b"shop.example"), (b"content-type", b"application/json"), (b"origin", ORIGIN.encode())]
    return {
        HEADER: Entry(served(cookies=False), BARE),
        "ASGI consumer, live cookies, over a header": Entry(served(cookies=True), HEADER, (Bound(1),)),
        "OriginCheck.verify, an own origin": Entry(origin(sent, passes=True), EMPTY, (Bound(1),)),
        "OriginCheck.verify, another origin": Entry(
            origin([*sent[:2], (b"origin", b"https://x.y")], passes=False), EMPTY
        ),
    }
