"""`OrgLeaks`: two organizations seeded by the application's own factory, and every endpoint and query run under both.

What one of them sees, counts, changes or learns of the other is a leak. It asks the application itself, in this
process, with real credentials; its answers are searched for texts that only the other's rows hold.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from re import compile as regex
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from bartizan.errors import BartizanError, Misuse
from bartizan.wiring import Bartizan

SAFE = ("GET", "HEAD")
NOTHING = "nothing-has-this-id"
NAMES = ("org", "org_id", "organization_id", "tenant_id")
_PARAM = regex(r"\{(\w+)(?::\w+)?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """What a factory put in for one organization: values for the parameters of paths, and texts of its rows alone."""

    params: Mapping[str, str]
    markers: Sequence[str]


class Leak(NamedTuple):
    """Where something got across, and how."""

    where: str
    how: str


class Answer(NamedTuple):
    """What an application answered."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgLeaks:
    """What is probed. `seed(org)` makes the rows of an organization; `caller(org)` gives headers of a credential of it.

    `endpoints` are `"GET /orders/{order_id}"` and so on; without it every GET that a Starlette or FastAPI application
    routes. `queries` are functions that give rows, run as a job of the organization with `scopes`.
    """

    security: Bartizan
    seed: Callable[[str], Seeded]
    app: Any = None
    caller: Callable[[str], Mapping[str, str]] | None = None
    endpoints: Sequence[str] = ()
    queries: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    scopes: Sequence[str] = ()
    organizations: tuple[str, str] = ("org_leak_a", "org_leak_b")

    def __post_init__(self) -> None:
        if self.app is not None and self.caller is None:
            raise Misuse("OrgLeaks needs caller=: the headers of a credential of an organization")
        if not list(self.probes()):
            raise Misuse("OrgLeaks was given nothing to probe: app= or queries=")

    def probes(self) -> Iterator[str]:
        """Their names: endpoints as they are written, then queries."""
        yield from self.endpoints or routes_of(self.app)
        yield from self.queries

    def seeded(self) -> dict[str, Seeded]:
        """Both organizations, seeded."""
        found = {org: self.seed(org) for org in self.organizations}
        a, b = found.values()
        if not a.markers or not b.markers or set(a.markers) & set(b.markers):
            raise Misuse("seed= gives for each organization texts that stand in its rows alone")
        return found

    def run(self, name: str, seeded: Mapping[str, Seeded]) -> list[Leak]:
        """What one probe finds, from either organization's side."""
        found = []
        for mine, other in (self.organizations, self.organizations[::-1]):
            if name in self.queries:
                found += self._query(name, mine, seeded[other])
            else:
                found += _Side(self, mine, other, seeded).endpoint(name)
        return list(dict.fromkeys(found))

    def _query(self, name: str, org: str, other: Seeded) -> list[Leak]:
        with self.security.job("org-leaks", org=org, scopes=self.scopes):
            try:
                rows = self.queries[name]()
                told = [_shown(row) for row in (rows if isinstance(rows, (list, tuple)) else [rows])]
            except BartizanError:
                return []
        seen = [marker for marker in other.markers if any(marker in text for text in told)]
        return [Leak(name, f"rows of another organization: {seen[0]!r}")] if seen else []


class _Side:
    """One organization's view of the application, while the other looks on."""

    def __init__(self, probe: OrgLeaks, mine: str, other: str, seeded: Mapping[str, Seeded]) -> None:
        self._probe = probe
        self._headers = dict(probe.caller(mine)) if probe.caller is not None else {}
        self._others = dict(probe.caller(other)) if probe.caller is not None else {}
        self._other = other
        self._params = {**dict.fromkeys(NAMES, mine), **seeded[mine].params}
        self._foreign = {**dict.fromkeys(NAMES, other), **seeded[other].params}
        self._markers = seeded[other].markers

    def endpoint(self, name: str) -> Iterator[Leak]:
        method, _, pattern = name.partition(" ")
        wanted = _PARAM.findall(pattern)
        unknown = [each for each in wanted if each not in self._params]
        if unknown:
            raise Misuse(f"{name}: seed= gives no value for {{{unknown[0]}}}")
        safe = method in SAFE
        if safe:
            yield from self._searched(name, self._ask(method, _filled(pattern, self._params)), "its own path")
        for each in {*self._foreign} if safe else ():
            query = urlencode({each: self._foreign[each]})
            answer = self._ask(method, _filled(pattern, self._params), query)
            yield from self._searched(name, answer, f"?{each}= of another organization")
        before = self._seen_by_other(pattern) if not safe else []
        for each in wanted:
            theirs = self._ask(method, _filled(pattern, {**self._params, each: self._foreign[each]}))
            nobodys = self._ask(method, _filled(pattern, {**self._params, each: NOTHING}))
            yield from self._searched(name, theirs, f"{{{each}}} of another organization")
            if theirs.status < 400:
                yield Leak(name, f"{{{each}}} of another organization was answered {theirs.status}")
            elif theirs.status != nobodys.status:
                how = f"{theirs.status} for {{{each}}} of another organization, {nobodys.status} for nobody's"
                yield Leak(name, f"existence is told: {how}")
        if before != (self._seen_by_other(pattern) if not safe else []):
            yield Leak(name, "rows of another organization were changed")

    def _searched(self, name: str, answer: Answer, how: str) -> Iterator[Leak]:
        seen = [marker for marker in self._markers if marker.encode() in answer.body]
        if seen:
            yield Leak(name, f"{how}: the answer holds {seen[0]!r}")

    def _seen_by_other(self, pattern: str) -> list[Answer]:
        """What the other organization sees at every GET that can be asked for."""
        names = [each for each in [f"GET {pattern}", *self._probe.probes()] if each.startswith("GET ")]
        paths = [each.partition(" ")[2] for each in names]
        known = [each for each in paths if all(name in self._foreign for name in _PARAM.findall(each))]
        return [_call(self._probe.app, "GET", _filled(each, self._foreign), "", self._others) for each in known]

    def _ask(self, method: str, path: str, query: str = "") -> Answer:
        return _call(self._probe.app, method, path, query, self._headers)


def routes_of(app: Any) -> Iterator[str]:
    """`GET /path` for every route of a Starlette or FastAPI application, those of mounted ones too."""
    yield from _below(app, "")


def _below(app: Any, prefix: str) -> Iterator[str]:
    for route in getattr(app, "routes", None) or ():
        path = f"{prefix}{getattr(route, 'path', '')}"
        if getattr(route, "methods", None):
            if "GET" in route.methods and not path.startswith(("/docs", "/redoc", "/openapi.json")):
                yield f"GET {path}"
        elif getattr(route, "app", None) is not None:
            yield from _below(route.app, path)


def _filled(pattern: str, params: Mapping[str, str]) -> str:
    return _PARAM.sub(lambda hit: params[hit[1]], pattern)


def _shown(row: Any) -> str:
    held = getattr(row, "__dict__", None)
    return repr({name: value for name, value in held.items() if name != "_sa_instance_state"} if held else row)


def _call(app: Any, method: str, path: str, query: str, headers: Mapping[str, str]) -> Answer:
    return asyncio.run(_asked(app, method, path, query, headers))


async def _asked(app: Any, method: str, path: str, query: str, headers: Mapping[str, str]) -> Answer:
    status, body = 0, bytearray()
    begun = False

    async def receive() -> dict[str, Any]:
        nonlocal begun
        if begun:
            await asyncio.sleep(3600)  # the client stays until it is answered
        begun = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"leaks.example"), *((n.lower().encode(), v.encode()) for n, v in headers.items())],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 443),
    }
    await app(scope, receive, send)
    return Answer(status, bytes(body))
