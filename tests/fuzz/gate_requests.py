"""Mutated requests through both adapters: each is admitted or refused, none is a 5xx or a foreign exception.

`python tests/fuzz/gate_requests.py 1000000` runs as many as you like.
"""

import asyncio
import io
import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from bartizan import Rule, allow, asgi, wsgi
from bartizan.testing import Kit, ProofKey

TRAPS = (
    b"/", b"//", b"/.", b"/..", b"%", b"%2F", b"%5c", b"%00", b"\\", b"\0", b"\n", b"\xff", b"\xc3\xa9", b"%61", b"%ff", b"*", b"{org}",
    b"sk_test_", b"pk_live_", b"Bearer ", b"bearer", b"_", b"&", b"=", b"?", b"api_key=", b";", b",", b" ", b"GET", b"OPTIONS", b"null",
    b"https://shop.example", b"__Host-access=1", b"DPoP ", b"__Host-bind=1", b"9" * 30, b"a" * 300,
)  # fmt: skip
NAMES = (
    b"authorization", b"x-publishable-key", b"origin", b"sec-fetch-site", b"cookie", b"host", b"content-length",
    b"x-http-method-override", b"access-control-request-method", b"idempotency-key", b"dpop", b"x-other",
)  # fmt: skip

Parts = tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]  # method, raw path, query, headers


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        place = chance.randrange(len(out) + 1)
        act = chance.randrange(5)
        if act == 0:
            out[place:place] = chance.choice(TRAPS)
        elif act == 1 and out:
            out[place % len(out)] = chance.randrange(256)
        elif act == 2:
            del out[place : place + chance.randrange(1, 6)]
        elif act == 3:
            out[place:place] = out[: chance.randrange(1, 12)]
        elif out:
            out[place % len(out)] ^= 1 << chance.randrange(8)
    return bytes(out)


def requests(seeds: list[Parts], count: int, seed: int) -> Iterator[Parts]:
    chance = random.Random(seed)
    for _ in range(count):
        method, path, query, headers = chance.choice(seeds)
        headers = [(chance.choice(NAMES) if chance.random() < 0.05 else n, mutated(v, chance)) for n, v in headers]
        if headers and chance.random() < 0.1:
            headers.append(chance.choice(headers))
        yield (
            mutated(method, chance) if chance.random() < 0.1 else method,
            mutated(path, chance),
            mutated(query, chance),
            headers,
        )


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b""]


def setting() -> tuple[Any, Any, list[Parts]]:
    """Both adapters over one gate, and requests to begin with."""
    kit = Kit(origins=["https://shop.example"])
    key = ProofKey(kit.clock)
    pair = kit.security.blocking.sessions.start(
        org="o1", subject="s", proof=key.request("POST", "https://shop.example/in")
    )
    bound = key.headers("GET", "https://shop.example/me", token=pair.access_token, nonce=pair.dpop_nonce)
    rules = [
        Rule("GET /public", allow.public()), Rule("/untouched/**", allow.untouched()), Rule("/orgs/{org}/x", allow.secret_key("a:b")),
        Rule("/page/{rest:path}", allow.publishable_key() | allow.secret_key()), Rule("/both", allow.publishable_key() & allow.secret_key()),
        Rule("POST /optional", allow.optional(allow.secret_key())), Rule("/me", allow.consumer()),
    ]  # fmt: skip
    gate = kit.security.gate(rules)
    secret = kit.key(org="o1", scopes={"a:b"}).key.encode()
    page = kit.key(org="o1", kind="publishable").key.encode()
    tied = kit.key(org="o1", kind="publishable", origins=["https://shop.example"]).key.encode()
    seeds: list[Parts] = [
        (b"GET", b"/public", b"", []),
        (b"GET", b"/untouched/a%20b/c", b"x=1", []),
        (b"GET", b"/orgs/o1/x", b"a=b&c=d", [(b"authorization", b"Bearer " + secret), (b"host", b"x")]),
        (b"PUT", b"/page/a/b", b"", [(b"x-publishable-key", tied), (b"origin", b"https://shop.example")]),
        (
            b"GET",
            b"/page",
            b"",
            [(b"x-publishable-key", page), (b"cookie", b"__Host-access=1; a=b"), (b"cookie", b"c=d")],
        ),
        (b"GET", b"/both", b"", [(b"x-publishable-key", page), (b"authorization", b"bearer " + secret)]),
        (b"POST", b"/optional", b"", [(b"content-length", b"12"), (b"sec-fetch-site", b"same-origin")]),
        (b"GET", b"/me", b"", [(name.lower().encode(), value.encode()) for name, value in bound.items()]),
        (b"GET", b"/me", b"", [(b"authorization", b"Bearer " + pair.access_token.encode()), (b"dpop", b"x.y.z")]),
        (b"OPTIONS", b"/page/a", b"", [(b"origin", b"https://a"), (b"access-control-request-method", b"GET")]),
    ]
    return asgi.GateMiddleware(app, gate), wsgi.GateMiddleware(wsgi_app, gate), seeds


async def by_asgi(middleware: Any, parts: Parts) -> int:
    method, raw, query, headers = parts
    out: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        out.append(message)

    scope = {
        "type": "http", "method": method.decode("latin-1"), "path": unquote(raw.decode("latin-1")), "raw_path": raw, "root_path": "",
        "query_string": query, "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http",
    }  # fmt: skip
    if raw.isascii():
        scope["path"] = unquote(raw.decode("ascii"))
    await middleware(scope, receive, send)
    return int(out[0]["status"])


async def by_wsgi(middleware: Any, parts: Parts) -> int:
    method, raw, query, headers = parts
    statuses: list[str] = []
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method.decode("latin-1"), "PATH_INFO": unquote(raw.decode("latin-1"), "latin-1"), "SCRIPT_NAME": "",
        "QUERY_STRING": query.decode("latin-1"), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "REMOTE_ADDR": "127.0.0.1",
    }  # fmt: skip
    for name, value in headers:
        key = "CONTENT_LENGTH" if name == b"content-length" else "HTTP_" + name.decode().upper().replace("-", "_")
        environ[key] = environ[key] + "," + value.decode("latin-1") if key in environ else value.decode("latin-1")
    list(middleware(environ, lambda status, *_: statuses.append(status)))
    return int(statuses[0][:3])


def fuzzed(count: int, seed: int = 1) -> Counter[int]:
    """How often each status came; raises at the first that must not be."""
    return asyncio.run(_fuzzed(count, seed))


async def _fuzzed(count: int, seed: int) -> Counter[int]:
    asgi_side, wsgi_side, seeds = setting()
    seen: Counter[int] = Counter()
    for parts in requests(seeds, count, seed):
        for ask, middleware in ((by_asgi, asgi_side), (by_wsgi, wsgi_side)):
            try:
                status = await ask(middleware, parts)
            except Exception as error:
                raise RuntimeError(f"{parts!r}") from error
            if status >= 500:
                raise RuntimeError(f"{status} for {parts!r}")
            seen[status] += 1
    return seen


if __name__ == "__main__":
    print(fuzzed(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
