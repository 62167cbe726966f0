"""Roles: what they come to, whose they are, and how soon a change is seen."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st
from outside import Provider
from servers import Answer, ask, serving, wsgi_serving

from bartizan import (
    Bartizan,
    Guard,
    Issuer,
    MemberPrincipal,
    Misuse,
    NotFound,
    Rule,
    allow,
    asgi,
    current_principal,
    fanfare,
    wsgi,
)
from bartizan.access.roles import ROLES, RoleSet, checked_roles
from bartizan.core.drive import run
from bartizan.core.scopes import covers
from bartizan.errors import Conflict, MissingScope
from bartizan.testing import Kit, acting_as

SHOP = {
    "owner": {"*:*"},
    "packer": {"orders:read", "orders:pack"},
    "reader": {"orders:read"},
    "teller": {"refunds:read"},
    "cashier": {"orders:read", "refunds:read"},
}
RULES = [
    Rule("GET /me", allow.member()),
    Rule("GET /reader", allow.member("reader")),
    Rule("GET /packer", allow.member("packer")),
    Rule("GET /cashier", allow.member("cashier")),
    Rule("GET /custom", allow.member("custom")),
    Rule("GET /pack", allow.member("orders:pack")),
    Rule("GET /keyed", allow.secret_key("orders:write") | allow.member("orders:write")),
    Rule("GET /guarded", allow.member()),
]


def body() -> bytes:
    member = current_principal(MemberPrincipal)
    return json.dumps([sorted(member.roles), sorted(member.scopes)]).encode()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/guarded":
        Guard("orders:write").require()
    text = body()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/guarded":
        Guard("orders:write").require()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body()]


class Place:
    def __init__(self) -> None:
        self.provider = Provider()
        names = {name: name for name in [*SHOP, "custom"]}
        issuer = Issuer(
            self.provider.url, organizations={"org_1", "org_2"}, audience="dashboard", roles=names,
            jwks=self.provider.document,
        )  # fmt: skip
        self.kit = Kit(issuers=[issuer], roles=SHOP)
        self.port = 0

    @property
    def roles(self) -> Any:
        return self.kit.security.blocking.roles

    def headers(self, *roles: str, org: str = "org_1") -> tuple[str, str]:
        token = self.provider.token(self.kit.clock(), roles=list(roles), org_id=org)
        return ("Authorization", f"Bearer {token}")

    def asked(self, path: str, *roles: str, org: str = "org_1") -> Answer:
        return ask(self.port, path, self.headers(*roles, org=org))

    def member(self, *roles: str, org: str = "org_1") -> MemberPrincipal:
        issuers = self.kit.security._shared.blocking_side.members
        member = run(issuers.authenticate(self.headers(*roles, org=org)[1].removeprefix("Bearer ").encode()))
        return run(self.kit.security._shared.blocking_side.roles.given(member))


@pytest.fixture(params=["asgi", "wsgi"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place()
    gate = made.kit.security.gate(RULES)
    if request.param == "asgi":
        with serving(asgi.GateMiddleware(app, gate)) as made.port:
            yield made
    else:
        with wsgi_serving(wsgi.GateMiddleware(wsgi_app, gate)) as made.port:
            yield made


def test_a_role_is_met_by_any_that_includes_it(place: Place) -> None:
    assert [place.asked("/reader", role).status for role in ("reader", "packer", "cashier", "owner", "teller")] == [
        200, 200, 200, 200, 403,
    ]  # fmt: skip
    assert place.asked("/packer", "reader").status == 403
    assert json.loads(place.asked("/me", "packer").body) == [["packer", "reader"], ["orders:pack", "orders:read"]]


def test_two_roles_do_not_add_up_to_a_third(place: Place) -> None:
    """Their scopes do, as whoever gave both roles has said; a role is a name, which somebody has to give."""
    answer = place.asked("/cashier", "reader", "teller")
    assert answer.status == 403
    assert json.loads(place.asked("/me", "reader", "teller").body)[1] == ["orders:read", "refunds:read"]


def test_alternatives_do_not_add_scopes(place: Place) -> None:
    key = place.kit.as_key(org="org_1", scopes={"orders:read"})
    assert ask(place.port, "/keyed", *key.items()).status == 403
    assert place.asked("/keyed", "reader").status == 403


def test_a_viewer_writing_is_told_which_scope(place: Place) -> None:
    answer = place.asked("/guarded", "reader")
    assert answer.status == 403
    assert 'scope="orders:write"' in answer.headers["www-authenticate"]
    assert place.asked("/guarded", "owner").status == 200


def test_issuer_unknown_role(place: Place) -> None:
    """A role that nobody has defined is none, though the issuer may assert it."""
    assert json.loads(place.asked("/me", "custom").body) == [[], []]
    assert place.asked("/custom", "custom").status == 403


def test_role_of_other_org(place: Place) -> None:
    place.roles.define("custom", org="org_1", scopes={"orders:pack"})
    assert place.asked("/custom", "custom").status == 200
    assert place.asked("/pack", "custom").status == 200
    assert place.asked("/custom", "custom", org="org_2").status == 403
    assert place.asked("/pack", "custom", org="org_2").status == 403
    with acting_as(place.member("owner"), of=place.kit):
        with pytest.raises(NotFound):
            place.roles.define("custom", org="org_2", scopes={"orders:pack"})
        with pytest.raises(NotFound):
            place.roles.list(org="org_2")
        with pytest.raises(NotFound):
            place.roles.remove("custom", org="org_2")


def test_stale_role_after_change(place: Place) -> None:
    """Here at once; in another process over the same store within the staleness bound."""
    place.roles.define("custom", org="org_1", scopes={"orders:pack"})
    assert place.asked("/pack", "custom").status == 200
    place.roles.define("custom", org="org_1", scopes={"orders:read"})
    assert place.asked("/pack", "custom").status == 403
    place.roles.remove("custom", org="org_1")
    assert place.asked("/custom", "custom").status == 403


def test_stale_role_in_another_process(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    one, other = Kit(url=url), Kit(url=url)
    side = other.security._shared.blocking_side.roles
    with one.security.blocking, other.security.blocking:
        one.security.blocking.roles.define("custom", org="org_1", scopes={"a:b"})
        roles = frozenset({"custom"})
        assert run(side.granted("org_1", roles)).scopes == {"a:b"}
        first = run(side._of("org_1"))
        one.security.blocking.roles.define("custom", org="org_1", scopes={"c:d"})
        assert run(side.granted("org_1", roles)).scopes == {"a:b"}, "kept"
        other.clock.advance(5)
        assert run(side.granted("org_1", roles)).scopes == {"c:d"}
        other.clock.advance(5)
        assert run(side._of("org_1")) is run(side._of("org_1")), "worked out once for each version"
        assert run(side._of("org_1")) is not first


def test_a_stream_ends_when_a_role_is_taken_back() -> None:
    place = Place()
    gate = place.kit.security.gate(RULES)
    place.roles.define("custom", org="org_1", scopes={"orders:pack"})
    member = place.member("custom")
    authenticator: Any = gate._by_kind["member"]
    authenticator._members._issuers = place.kit.security._shared.blocking_side.members
    authenticator._roles = place.kit.security._shared.blocking_side.roles
    run(authenticator.recheck(member))
    place.roles.define("custom", org="org_1", scopes={"orders:pack", "orders:read"})
    run(authenticator.recheck(member))
    place.roles.remove("custom", org="org_1")
    with pytest.raises(MissingScope):
        run(authenticator.recheck(member))


def test_nobody_defines_what_they_lack() -> None:
    place = Place()
    for who in (place.member("packer"), place.kit.security.blocking.keys.authenticate(place.kit.key(org="org_1").key)):
        with acting_as(who, of=place.kit), pytest.raises(MissingScope):
            place.roles.define("mine", org="org_1", scopes={"orders:pack", "refunds:write"})
    with acting_as(place.member("packer"), of=place.kit):
        for wide in ("orders:*", "*:*", "*:read"):
            with pytest.raises(MissingScope):
                place.roles.define("mine", org="org_1", scopes={wide})
        place.roles.define("mine", org="org_1", scopes={"orders:pack"})
    assert [role.name for role in place.roles.list(org="org_1")] == [*sorted([*SHOP, "mine"])]


def test_a_role_of_the_program_is_nobodys_to_change() -> None:
    place = Place()
    with pytest.raises(Conflict):
        place.roles.define("owner", org="org_1", scopes={"orders:read"})
    with pytest.raises(NotFound):
        place.roles.remove("owner", org="org_1")
    listed = {role.name: role for role in place.roles.list(org="org_2")}
    assert listed["owner"].builtin
    assert listed["owner"].scopes == {"*:*"}


def test_changes_are_events_with_who_did_it() -> None:
    place = Place()
    with acting_as(place.member("owner"), of=place.kit):
        place.roles.define("mine", org="org_1", scopes={"orders:read"})
        place.roles.remove("mine", org="org_1")
    told = [(e.name, e.org, e.target) for e in place.kit.events]
    assert told == [("role.defined", "org_1", "role:mine"), ("role.removed", "org_1", "role:mine")]
    assert all("user_1" in e.actor for e in place.kit.events)


def test_too_many_roles() -> None:
    place = Place()
    for n in range(100):
        place.roles.define(f"r{n}", org="org_1", scopes={"orders:read"})
    with pytest.raises(Conflict):
        place.roles.define("one_more", org="org_1", scopes={"orders:read"})
    assert len(place.roles.list(org="org_1")) == 100 + len(SHOP), "list_truncated_as_complete"


@pytest.mark.parametrize(
    "roles", [{"a:b": {"c:d"}}, {"": {"c:d"}}, {"a b": {"c:d"}}, {"a": set()}, {"a": "c:d"}, {"a": {"c d"}}, {"*": {"c:d"}}, {"a": {"ord*:x"}}, {1: {"c:d"}}]
)  # fmt: skip
def test_policy_error_allows_nothing(roles: Any) -> None:
    with pytest.raises(Misuse):
        Kit(roles=roles)


def test_without_a_store_there_are_the_programs_own() -> None:
    security = Bartizan(environment="test")
    assert {role.name for role in security.blocking.roles.list(org="org_1")} == set(ROLES)
    with pytest.raises(Misuse, match="url="):
        security.blocking.roles.define("mine", org="org_1", scopes={"a:b"})


def test_the_matrix_of_fanfare() -> None:
    assert fanfare.ROLES is ROLES
    held = RoleSet(checked_roles(ROLES))
    may = {
        "experiences:read": "owner admin editor viewer",
        "consumers:read": "owner admin editor viewer",
        "experiences:write": "owner admin editor",
        "consumers:write": "owner admin editor",
        "settings:read": "owner admin editor",
        "experiences:delete": "owner admin",
        "settings:write": "owner admin",
        "team:manage": "owner admin",
        "billing:manage": "owner admin",
        "organization:delete": "owner",
    }
    for scope, roles in may.items():
        assert {role for role in ROLES if scope in held.granted(frozenset({role})).scopes} == set(roles.split()), scope
    assert held.granted(frozenset({"editor"})).roles == {"editor", "viewer"}


NAMES = st.sampled_from(["a", "b", "c", "d"])
SCOPES = st.frozensets(st.sampled_from(["x:r", "x:w", "y:r", "x:*", "*:r", "*:*"]), min_size=1, max_size=3)


@given(st.dictionaries(NAMES, SCOPES), st.frozensets(NAMES))
def test_what_roles_come_to(defined: dict[str, frozenset[str]], roles: frozenset[str]) -> None:
    granted = RoleSet(defined).granted(roles)
    known = [role for role in roles if role in defined]
    assert granted.scopes == frozenset().union(*(defined[role] for role in known))
    for name, scopes in defined.items():
        included = any(all(covers(defined[role], scope) for scope in scopes) for role in known)
        assert (name in granted.roles) is included


def test_a_change_that_lost_reads_again() -> None:
    """Two who define at once: both roles stand."""
    place = Place()
    side = place.kit.security._shared.blocking_side.roles
    backend: Any = side._backend
    times: list[int] = []
    real = backend.get

    async def get(table: Any, key: str, /) -> Any:
        row = await real(table, key)
        if not times:
            times.append(1)
            side._backend = backend
            run(side.define("first", org="org_1", scopes={"a:b"}))
            side._backend = racing
        return row

    racing: Any = type("Racing", (), {"get": staticmethod(get), "change": backend.change})()
    side._backend = racing
    run(side.define("second", org="org_1", scopes={"a:b"}))
    side._backend = backend
    assert {"first", "second"} <= {role.name for role in place.roles.list(org="org_1")}
