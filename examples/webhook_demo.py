"""What becomes of good, repeated, forged, stale and rotated deliveries: `python webhook_demo.py` prints the table.

A real receiver over WSGI, with claims in memory; the clock is turned, so that a day passes at once.
"""

import sys
from collections.abc import Callable, Iterable
from http.client import HTTPConnection
from typing import Any, NamedTuple

from loopback import wsgi_served

from bartizan import Bartizan, NamedSecret, WebhookSigner, WebhookVerifier

OLD = NamedSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", name="old")
BODY = b'{"type":"order.created","data":{"total":12}}'
DAY = 86_400


class Row(NamedTuple):
    what: str
    expected: int
    status: int
    expected_runs: int
    runs: int  # of the handler, so far


def rows() -> list[Row]:
    """Every delivery, what was expected of it, and what came back."""
    now, handled = [1_800_000_000], []

    def shop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        handled.append(environ["bartizan.webhook"].id)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    sender = WebhookSigner([OLD])
    rotated = sender.rotate(now=now[0], grace=DAY)
    # The receiver learned of the rotation, and holds the old secret for the same day.
    hooks = WebhookVerifier(rotated.secrets, clock=lambda: now[0])
    security = Bartizan("memory://", environment="test", clock=lambda: now[0])
    found: list[Row] = []
    with wsgi_served(hooks.wsgi(shop, path="/hooks", security=security)) as port:

        def deliver(what: str, headers: dict[str, str], expected: int, runs: int, body: bytes = BODY) -> None:
            found.append(Row(what, expected, posted(port, headers, body), runs, len(handled)))

        good = rotated.sign(BODY, id="msg_1", now=now[0])
        deliver("a good delivery", good, 200, 1)
        deliver("the same again: the handler does not run", good, 200, 1)
        deliver("the next attempt of it, freshly signed", rotated.sign(BODY, id="msg_1", now=now[0] + 5), 200, 1)
        deliver("nothing signed", {}, 400, 1)
        deliver("forged", {**good, "webhook-id": "msg_2"}, 401, 1)
        deliver("the body changed by one byte", good, 401, 1, BODY.replace(b"12", b"13"))
        deliver("stale: signed 301 seconds ago", rotated.sign(BODY, id="msg_3", now=now[0] - 301), 401, 1)
        deliver("from the future", rotated.sign(BODY, id="msg_3", now=now[0] + 301), 401, 1)
        deliver("signed with the old secret, within the grace", sender.sign(BODY, id="msg_4", now=now[0]), 200, 2)
        now[0] += DAY
        deliver("signed with the old secret, after it", sender.sign(BODY, id="msg_5", now=now[0]), 401, 2)
        deliver("signed with the new one", rotated.sign(BODY, id="msg_5", now=now[0]), 200, 3)
    return found


def posted(port: int, headers: dict[str, str], body: bytes) -> int:
    """The status of one request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/hooks", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def main() -> int:
    """Print the table; 1 if anything differs."""
    found = rows()
    for row in found:
        right = (row.status, row.runs) == (row.expected, row.expected_runs)
        print(f"{row.what:<48}{row.status:>5}  the handler ran {row.runs} times{'' if right else '  WRONG'}")
    return int(any((row.status, row.runs) != (row.expected, row.expected_runs) for row in found))


if __name__ == "__main__":
    sys.exit(main())
