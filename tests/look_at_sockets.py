"""A bound session and its websocket in a headless Chromium, by the JavaScript of docs/binding.md; and a picture of it.

Not a test of the suite, since it needs a browser:

    PYTHONPATH=tests python tests/look_at_sockets.py --picture sockets.png
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from queue import Queue
from typing import Any

from look_at_docs import QUIET
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from bartizan import Bartizan, ConsumerPrincipal, Rule, SessionPolicy, allow, current_principal
from bartizan.core.ring import new_root
from bartizan.endpoints import session_app
from bartizan.integrations import starlette

PAGE = Path(__file__).parents[1] / "docs" / "binding.md"
STEPS = """
const here = location.origin, sockets = here.replace("http", "ws");
const found = {};
const opened = (path, text) => new Promise((done) => {
  const socket = new WebSocket(sockets + path, ["bartizan", text]);
  socket.onmessage = (event) => done([socket, event.data]);
  socket.onclose = (event) => done([socket, `refused ${event.code}`]);
});
const ticketed = async () => (await (await ask("POST", here + "/ticket", tokens.accessToken)).json()).ticket;
let tokens = await (await ask("POST", here + "/auth/guest")).json();
found["a guest signs in with a key"] = tokens.tokenType;
found["the token, with a proof"] = (await ask("GET", here + "/me", tokens.accessToken)).status;
found["the token alone"] = (await fetch(here + "/me", {headers: {Authorization: `Bearer ${tokens.accessToken}`}})).status;
const once = {Authorization: `DPoP ${tokens.accessToken}`, DPoP: await proof("GET", here + "/me", tokens.accessToken)};
const twice = [await fetch(here + "/me", {headers: once}), await fetch(here + "/me", {headers: once})];
found["one proof twice"] = twice.map((answer) => answer.status).join(" ");
tokens = await (await ask("POST", here + "/auth/refresh", null, JSON.stringify({refreshToken: tokens.refreshToken}))).json();
found["a refresh with a proof"] = tokens.tokenType;
found["a websocket by the token"] = (await opened("/live", tokens.accessToken))[1];
const ticket = await ticketed();
const [socket, said] = await opened("/live", ticket);
found["a websocket by a ticket"] = `${said.slice(0, 6)} ${socket.protocol}`;
found["the ticket a second time"] = (await opened("/live", ticket))[1];
found["another ticket, on another path"] = (await opened("/other", await ticketed()))[1];
const closed = new Promise((done) => {
  socket.onclose = (event) => done(event.code);
  setTimeout(() => done("left open"), 20000);
});
found["signed out"] = (await ask("POST", here + "/auth/logout", tokens.accessToken)).status;
found["then the websocket is closed with"] = await closed;
await fetch(here + "/found", {method: "POST", body: JSON.stringify(found)});
"""
EXPECTED = {
    "a guest signs in with a key": "DPoP", "the token, with a proof": 200, "the token alone": 401,
    "one proof twice": "200 401", "a refresh with a proof": "DPoP", "a websocket by the token": "refused 1006",
    "a websocket by a ticket": "guest_ bartizan", "the ticket a second time": "refused 1006",
    "another ticket, on another path": "refused 1006", "signed out": 204, "then the websocket is closed with": 4401,
}  # fmt: skip
RULES = [
    Rule("GET /", allow.public()),
    Rule("POST /found", allow.public()),
    Rule("GET /told", allow.public()),
    Rule("POST /auth/{rest:path}", allow.optional(allow.consumer())),
    Rule("GET /me", allow.consumer()),
    Rule("POST /ticket", allow.consumer()),
    Rule("WEBSOCKET /live", allow.consumer()),
    Rule("WEBSOCKET /other", allow.consumer()),
]


def app_of(origin: str, answers: "Queue[dict[str, Any]]") -> Starlette:
    security = Bartizan(
        "memory://", environment="test", secrets=[new_root()], issuer="shop", audience="shop-api", staleness=1,
        origins=[origin], sessions=SessionPolicy(binding="dpop", grace=1),
    )  # fmt: skip
    script = re.findall(r"```js\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0]
    told: list[dict[str, Any]] = []

    def page(_: Request) -> HTMLResponse:
        return HTMLResponse(f'<!doctype html><script type="module">{script}{STEPS}</script>')

    async def found(request: Request) -> Response:
        told.append(json.loads(await request.body()))
        answers.put(told[0])
        return Response(status_code=204)

    def report(_: Request) -> HTMLResponse:
        rows = "".join(f"<tr><td>{what}<td>{value}" for what, value in told[0].items())
        return HTMLResponse(f"<!doctype html><h1>A bound session in a browser</h1><table border=1 cellpadding=6>{rows}")

    def me(_: Request) -> JSONResponse:
        return JSONResponse({"subject": current_principal(ConsumerPrincipal).subject})

    def ticket(_: Request) -> JSONResponse:
        return JSONResponse({"ticket": security.sessions.ticket(path="/live")})

    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(current_principal(ConsumerPrincipal).subject)
        await websocket.receive()

    app = Starlette(routes=[
        Route("/", page), Route("/found", found, methods=["POST"]), Route("/told", report), Route("/me", me),
        Route("/ticket", ticket, methods=["POST"]), WebSocketRoute("/live", live), WebSocketRoute("/other", live),
        Mount("/auth", session_app(security, deliver=print, resolve=str, org="shop")),
    ])  # fmt: skip
    starlette.install(app, security.gate(RULES))
    return app


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path("sockets.png"))
    parser.add_argument("--chromium", default="chromium")
    chosen = parser.parse_args()
    answers: Queue[dict[str, Any]] = Queue()
    apps: list[Starlette] = []

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await apps[0](scope, receive, send)  # its origin has the port, which is known once it is served

    with serving(late, ws="wsproto") as port, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        origin = f"http://127.0.0.1:{port}"
        apps.append(app_of(origin, answers))
        browser = [chosen.chromium, *QUIET, f"--user-data-dir={profile}"]
        running = subprocess.Popen([*browser, "--remote-debugging-port=0", f"{origin}/"], stderr=subprocess.DEVNULL)
        try:
            told = answers.get(timeout=60)
        finally:
            running.terminate()
            running.wait(30)
        picture = f"--screenshot={chosen.picture.resolve()}"
        subprocess.run([*browser, picture, f"{origin}/told"], check=True, timeout=120, capture_output=True)
    for what, value in told.items():
        wrong = "" if EXPECTED.get(what) == value else "  <-- WRONG"
        sys.stdout.write(f"{what:36} {value}{wrong}\n")
    return 0 if told == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main())
