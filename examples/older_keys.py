"""Keys of the system before, beside new ones, until a day: `uvicorn older_keys:app`.

The old table stays as it is (organization, SHA-256 of the key, when it was made, when it ended) and is only read. A key
of before can do one thing, from the day of the move to a day that every customer was told; after it the answer is 401.
When nobody comes by that door any more, delete the class, the rule's half and the table.
"""

import os
import sqlite3
import time
from hashlib import sha256
from typing import Any

from bartizan import Bartizan, Rule, allow, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.errors import InvalidKey
from bartizan.types import Identified, Request

ENDS = int(os.environ.get("OLDER_KEYS_END", "1830297600"))  # 2028-01-01, UTC


class OlderKeys:
    name, slot, ambient, peers = "older_key", "x-api-key", False, None

    def __init__(self, path: str, ends: int) -> None:
        self._path, self._ends = path, ends

    def recognises(self, presented: bytes, /) -> bool:
        return presented.startswith(b"key-") and len(presented) == 36

    def authenticate(self, presented: bytes, _: Request, /) -> Identified:
        """The hash is looked up and nothing of the key compared: no time tells how much of it is right."""
        with sqlite3.connect(f"file:{self._path}?mode=ro", uri=True) as table:
            found = table.execute(
                "SELECT id, org FROM api_keys WHERE hash = ? AND ended IS NULL", (sha256(presented).hexdigest(),)
            ).fetchone()
        if found is None or time.time() >= self._ends:
            raise InvalidKey
        return Identified(org=found[1], subject=f"older-key-{found[0]}", scopes={"orders:read"}, expires_at=self._ends)


security = Bartizan.from_env()
gate = security.gate(
    [
        Rule("GET /orders", allow.secret_key("orders:read") | allow.credential("older_key", "orders:read")),
        Rule("POST /orders", allow.secret_key("orders:write")),  # what is new is for new keys
    ],
    authenticators=[OlderKeys(os.environ["OLDER_KEYS"], ENDS)],
)


async def orders(_scope: Any, _receive: Any, send: Any) -> None:
    body = (current_principal().org or "").encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


app = GateMiddleware(orders, gate)
