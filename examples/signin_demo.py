"""Signing in without a password, in a browser: `python signin_demo.py` walks through the shop and prints each step.

A real HTTP client keeps the cookies, at the shop in Starlette and at its twin in Flask. After each step a page of
another origin tries to post. The clock is turned, so that access cookies are over at once.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPCookieProcessor, Request, build_opener

import site_flask
import site_starlette
from loopback import asgi_served, wsgi_served
from site_starlette import ORIGIN, Shop

from bartizan.testing import Kit

ADDRESS = "anna@shop.example"
LOADS = 30  # of a page that always fails
OVER = 400  # seconds, after which an access cookie is over
SHOPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "starlette": (site_starlette.behind_a_gate, asgi_served),
    "flask": (site_flask.behind_a_gate, wsgi_served),
}


class Row(NamedTuple):
    what: str
    expected: str
    found: str


class Answer(NamedTuple):
    status: int
    path: str
    query: str
    text: str


class Browser:
    """Keeps cookies as browsers do; this one takes the loopback address for a safe place, as they do too."""

    def __init__(self, port: int) -> None:
        self.jar = CookieJar(DefaultCookiePolicy(secure_protocols=("http", "https")))
        self._opener = build_opener(HTTPCookieProcessor(self.jar))
        self._place = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Answer:
        """Navigate there, wherever that leads."""
        return self._asked(Request(self._place + path, headers={"Accept": "text/html"}))  # noqa: S310

    def post(self, path: str, origin: str = ORIGIN, **sent: str) -> Answer:
        """Post from a page of this origin."""
        headers = {"Origin": origin, "Content-Type": "application/json"}
        return self._asked(Request(self._place + path, json.dumps(sent).encode(), headers, method="POST"))  # noqa: S310

    def _asked(self, request: Request) -> Answer:
        try:
            response: HTTPResponse = self._opener.open(request, timeout=30)
        except HTTPError as error:
            with error:
                return Answer(error.code, urlsplit(error.url).path, "", error.read().decode())
        with response:
            url = urlsplit(response.url)
            return Answer(response.status, url.path, url.query, response.read().decode())

    def cookie(self, name: str) -> str | None:
        """What it has under this name."""
        return next((each.value for each in self.jar if each.name == name), None)


def rows(port: int, kit: Kit, shop: Shop) -> Iterator[Row]:
    """Every step, with what was expected of it."""
    browser = Browser(port)

    def stranger(after: str) -> Row:
        tried = [
            browser.post(f"/auth/{path}", "https://evil.example").status for path in ("guest", "refresh", "logout")
        ]
        tried += [browser.post("/cart", "https://evil.example").status] if browser.cookie("__Host-refresh") else []
        return Row(f"  another site posts, after {after}", "{403}", str(set(tried)))

    def who() -> str:
        text = browser.get("/").text
        return text if text == "nobody" else f"{json.loads(text)['who']}, {len(json.loads(text)['cart'])} in the cart"

    yield Row("the first page", "nobody", who())
    asked = browser.get("/account")
    yield Row("the account: sent to sign in", "200 /login", f"{asked.status} {asked.path}")
    yield stranger("nothing")
    yield Row("a guest", "200", str(browser.post("/auth/guest").status))
    yield stranger("the guest came")
    browser.post("/cart")
    yield Row("puts skates into the cart", "a guest, 1 in the cart", who())
    asked = browser.get("/account")
    yield Row("the account is not for guests", "200 /login", f"{asked.status} {asked.path}")
    pending = browser.post("/auth/otp/request", address=ADDRESS)
    yield stranger("a code")
    sent = {"requestId": json.loads(pending.text)["requestId"], "address": ADDRESS}
    code = shop.mail.get(timeout=30)[1]
    wrong = str((int(code) + 1) % 10**6).zfill(6)
    yield Row("a wrong code", "401", str(browser.post("/auth/otp/verify", code=wrong, **sent).status))
    yield Row("the right one", "200", str(browser.post("/auth/otp/verify", code=code, **sent).status))
    yield Row("signed in, with the cart", f"otp email {ADDRESS}, 1 in the cart", who())
    back = browser.get(f"/welcome?{asked.query}")
    yield Row("back to where it was", "200 /account", f"{back.status} {back.path}")
    yield stranger("signing in")
    before = browser.cookie("__Host-refresh")
    kit.clock.advance(OVER)
    with ThreadPoolExecutor(3) as tabs:
        loaded = list(tabs.map(lambda _: browser.get("/account").path, range(3)))
    yield Row("the access cookie is over: three tabs at once", "/account", " ".join(sorted(set(loaded))))
    yield Row("the session went on", "True", str(browser.cookie("__Host-refresh") not in {before, None}))
    yield stranger("renewing")
    failed = set()
    for _ in range(LOADS):
        kit.clock.advance(OVER)
        failed.add(browser.get("/broken").status)
    yield Row(f"a page that always fails, {LOADS} times", "{500}", str(failed))
    yield Row("signs nobody out", f"otp email {ADDRESS}, 1 in the cart", who())
    yield Row("sign out", "204", str(browser.post("/auth/logout").status))
    yield Row("everything is over", "nobody", who())
    yield Row(
        "its cookies are gone", "None None", f"{browser.cookie('__Host-access')} {browser.cookie('__Host-refresh')}"
    )
    asked = browser.get("/account")
    yield Row("the account again", "200 /login", f"{asked.status} {asked.path}")


def main() -> int:
    """Print every row at both shops; how many rows differ."""
    wrong = 0
    for name, (behind, served) in SHOPS.items():
        logging.getLogger("site_flask").disabled = True  # it would print the bug, each time
        kit, shop = Kit(origins=[ORIGIN]), Shop()
        with kit.security.blocking, served(behind(kit.security, shop)) as port:
            for row in rows(port, kit, shop):
                differs = row.found != row.expected
                wrong += differs
                print(f"{name:10} {row.what:48} {row.found}" + (f"  <-- not {row.expected}" if differs else ""))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
