"""What it costs to look for secrets in a line of a log, and to keep a key to its networks."""

import logging
from collections.abc import Callable

from bartizan.asgi import GateMiddleware
from bartizan.core.redact import MARK, REDACTOR
from bartizan.integrations.logging import RedactingFilter
from benchmarks.cases import EMPTY, Bound, Case, Entry, House, application, asgi, requests

LINE = (
    "2026-11-28 04:06:33,123 INFO shop.orders[4711] order ord_01J9ZK3V6W8Q2M4N5P7R of org_1 was paid in 27.3 ms "
    "by POST /v1/orders/17 status=200 bytes=5120 x=1"
)
SECRET_KEY = "ASGI secret key, 1 of 100 rules"
WITH_NETWORKS = "ASGI secret key with networks"


def line(text: str, *, clean: bool) -> Callable[[], Case]:
    def make() -> Case:
        redact = REDACTOR.text

        def calls(n: int) -> None:
            for _ in range(n):
                redact(text)

        def check() -> None:
            if (MARK in redact(text)) is clean or len(text) < 150:
                raise RuntimeError("it is another line")

        return Case(calls, check)

    return make


def record() -> Case:
    """The filter over a record with arguments, whose message a formatter makes again."""
    keeps = RedactingFilter().filter
    made = logging.makeLogRecord({"msg": LINE.replace("01J9", "%s").replace("4711", "%d"), "args": (4711, "01J9")})

    def calls(n: int) -> None:
        for _ in range(n):
            keeps(made)

    def check() -> None:
        if not keeps(made) or made.getMessage() != LINE:
            raise RuntimeError("a clean record is another one now")

    return Case(calls, check)


def located() -> Case:
    house = House()
    networks = ["10.0.0.0/8", "203.0.113.0/24", "127.0.0.1", "2001:db8::/32"]
    key = house.security.blocking.keys.create(org="org_1", kind="secret", networks=networks).key
    house.security.blocking.keys.authenticate(key, address="127.0.0.1")
    return requests(asgi(GateMiddleware(application, house.gate), "/v1/orders/17", b"Bearer " + key.encode()), 200)


def leak_entries() -> dict[str, Entry]:
    """The rows, after those of `cases`. The bounds: 2 us a clean line; 0.5 B for the networks, over the row without."""
    return {
        "a clean line of 150 characters": Entry(line(LINE, clean=True), EMPTY, (Bound(2, "us"),)),
        "a line with a secret key": Entry(line(f"{LINE} sk_live_{'7' * 16}_{'8' * 49}", clean=False), EMPTY),
        "the logging filter, a clean record": Entry(record, EMPTY),
        WITH_NETWORKS: Entry(located, SECRET_KEY, (Bound(0.5),)),
    }
