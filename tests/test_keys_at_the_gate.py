"""Attacks on keys as real requests: through the ASGI adapter, over a socket, on both HTTP implementations."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from servers import Answer, ask, serving

from bartizan import Misuse, Rule, Unavailable, allow, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.core.encoding import checksum
from bartizan.core.ring import new_root
from bartizan.core.tables import ANYTHING, Update
from bartizan.credentials.key_rows import KEYS
from bartizan.testing.kit import Kit, headers_of
from bartizan.types import IssuedKey

RULES = [
    Rule("GET /open", allow.public()),
    Rule("GET /untouched", allow.untouched()),
    Rule("GET /page", allow.publishable_key()),
    Rule("GET /either", allow.publishable_key("page:read") | allow.secret_key("orders:read")),
    Rule("GET /both", allow.publishable_key() & allow.secret_key()),
    Rule("/orgs/{org}/orders", allow.secret_key("orders:read")),
    Rule("GET /secret", allow.secret_key()),
    Rule("GET /optional", allow.optional(allow.secret_key("orders:read"))),
]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells who is calling."""
    try:
        who = current_principal().actor
    except Exception as error:
        who = type(error).__name__
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(who))]})
    await send({"type": "http.response.body", "body": who.encode()})


class Place(NamedTuple):
    kit: Kit
    port: int

    def ask(self, target: str, *issued: IssuedKey, **more: Any) -> Answer:
        return ask(self.port, target, *[pair for key in issued for pair in headers_of(key).items()], **more)

    @property
    def reason(self) -> str | None:
        return self.kit.events[-1].reason


@pytest.fixture(params=["h11", "httptools"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kit = Kit()
    with serving(GateMiddleware(app, kit.security.gate(RULES)), request.param) as port:
        yield Place(kit, port)


def problem(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = json.loads(answer.body)
    assert set(body) == {"type", "title", "status", "code", "instance"}
    assert body["status"] == answer.status
    return str(body["code"])


def test_a_right_key_and_nobody(place: Place) -> None:
    key = place.kit.key(org="org_1", scopes={"orders:read"})
    assert place.ask("/orgs/org_1/orders", key).body.decode() == f"sk_test_{key.record.id}"
    assert place.ask("/open").body == b"Unauthenticated"
    assert place.ask("/untouched").body == b"Unauthenticated"
    answer = place.ask("/secret")
    assert (answer.status, problem(answer), answer.headers["www-authenticate"]) == (401, "unauthenticated", "Bearer")
    assert place.reason == "no_credential"


def test_public_reads_no_credential(place: Place) -> None:
    key = place.kit.key(org="org_1")
    assert place.ask("/open", key).body == b"Unauthenticated"


def test_k1_no_input_names_the_organization(place: Place) -> None:
    key = place.kit.key(org="org_1", scopes={"orders:read"})
    answer = ask(
        place.port,
        "/orgs/org_2/orders?org=org_2&scopes=admin&remaining=9",
        *headers_of(key).items(),
        ("X-Organization-Id", "org_2"),
        ("X-Org", "org_2"),
        ("X-Key-Scopes", "admin"),
        method="POST",
        body=b'{"org":"org_2","scopes":["admin"]}',
    )
    assert (answer.status, problem(answer), place.reason) == (404, "not_found", "wrong_organization")


def test_k2_swaps_are_refused_before_the_store_and_after(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = place.kit.key(org="org_1")
    publishable = place.kit.key(org="org_1", kind="publishable")
    live = secret.key.replace("_test_", "_live_")
    for text in (live, secret.key.replace("sk_", "rk_"), "acme_" + secret.key):
        assert ask(place.port, "/secret", ("Authorization", f"Bearer {text}")).status == 401
        assert place.reason == "malformed_key"
    fixed = live[:-6] + checksum(live[:-6])
    assert ask(place.port, "/secret", ("Authorization", f"Bearer {fixed}")).status == 401
    assert place.reason == "wrong_secret"
    dressed = "sk" + publishable.key[2:25] + secret.key[25:68]
    assert ask(place.port, "/secret", ("Authorization", f"Bearer {dressed}{checksum(dressed)}")).status == 401
    assert place.reason == "wrong_secret"


@pytest.mark.parametrize("column", ["scopes", "org", "expires_at", "name", "environment", "kind"])
def test_k3_row_edited_in_the_store(place: Place, column: str) -> None:
    kit = place.kit
    key = kit.key(org="org_1", scopes={"orders:read"}, expires_at=kit.clock() + 60)
    edit = {
        "scopes": '["admin"]',
        "org": "org_2",
        "expires_at": None,
        "name": "x",
        "environment": "live",
        "kind": "root",
    }
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    step = Update(KEYS, key.record.id, where=ANYTHING, set=((column, edit[column]),))
    assert run(backend.change(step)) is not None
    before = len(kit.events)

    answer = place.ask("/orgs/org_1/orders", key)

    assert (answer.status, problem(answer)) == (401, "invalid_key")
    assert [(e.name, e.reason) for e in kit.events[before:]] == [("request.refused", "key_row_edited")]


def test_k4_the_same_answer_for_unknown_wrong_revoked_disabled_and_expired(place: Place) -> None:
    kit, keys = place.kit, place.kit.security.blocking.keys
    revoked, disabled, whole = kit.key(org="org_1"), kit.key(org="org_1"), kit.key(org="org_1")
    expired = kit.key(org="org_1", expires_at=kit.clock() + 1)
    keys.revoke(revoked.record.id, org="org_1")
    keys.disable(disabled.record.id, org="org_1")
    kit.clock.advance(1)
    unknown = Kit().key(org="org_1").key
    wrong = whole.key[:25] + "0" * 43
    wrong += checksum(wrong)
    answers, reasons = [], []
    for text in (unknown, wrong, revoked.key, disabled.key, expired.key):
        answers.append(ask(place.port, "/secret", ("Authorization", f"Bearer {text}")))
        reasons.append(place.reason)
    bodies = [json.loads(a.body) for a in answers]
    instances = {body.pop("instance") for body in bodies}
    assert instances == {
        f"urn:bartizan:event:{event.id}" for event in place.kit.events if event.name == "request.refused"
    }
    assert {a.status for a in answers} == {401}
    assert bodies == bodies[:1] * len(bodies)
    assert {frozenset(a.headers) for a in answers} == {frozenset(answers[0].headers)}
    assert reasons == ["unknown_key", "wrong_secret", "key_revoked", "key_disabled", "key_expired"]


def test_k5_hostile_texts_cost_no_store_access(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    key = place.kit.key(org="org_1").key
    backend: Any = place.kit.security._shared.side.backend
    reads: list[object] = []
    original = type(backend).get

    async def counted(self: Any, *args: Any) -> Any:
        reads.append(args)
        return await original(self, *args)

    monkeypatch.setattr(type(backend), "get", counted)
    texts = [
        "", "sk_", key[:-1], key + "0", key.upper(), key.lower(), "bearer " + key, key + " " + key, key + ",", '"' + key + '"',
        "sk_test_" + "_" * 66, "x" * 20_000, key.replace("_", "-"), key.replace("sk", "s%6b"), "\u00e9" * 74, "null",
    ]  # fmt: skip
    for text in texts:
        answer = ask(place.port, "/secret", ("Authorization", f"Bearer {text}"))
        assert (answer.status, problem(answer)) == (401, "invalid_key"), text
        assert key not in answer.body.decode()
    twice = ask(place.port, "/secret", ("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}"))
    assert (twice.status, place.reason) == (400, "repeated_header")
    for query in (
        f"?api_key={key}",
        "?access_token=x",
        f"?q={key}",
        f"?{key}",
        f"?x=1&y=sk%5Ftest%5F{key[8:]}",
        "?API_KEY=1",
    ):
        assert (ask(place.port, "/secret" + query).status, place.reason) == (400, "credential_in_query"), query
    assert reads == []
    assert ask(place.port, "/secret", ("Authorization", f"bEaReR   {key}")).status == 200
    assert len(reads) == 1


def test_k6_keys_equal_in_72_bytes_differ(place: Place) -> None:
    key = place.kit.key(org="org_1").key
    body = key[:67] + ("0" if key[67] != "0" else "1")
    assert ask(place.port, "/secret", ("Authorization", f"Bearer {body}{checksum(body)}")).status == 401
    assert place.reason == "wrong_secret"


def test_k7_rotation_through_the_gate(place: Place) -> None:
    kit, keys = place.kit, place.kit.security.blocking.keys
    old = kit.key(org="org_1")
    new = keys.rotate(old.record.id, org="org_1", overlap=60)
    assert [place.ask("/secret", key).status for key in (old, new)] == [200, 200]
    kit.clock.advance(60)
    assert [place.ask("/secret", key).status for key in (old, new)] == [401, 200]
    at_once = keys.rotate(new.record.id, org="org_1", overlap=0)
    assert [place.ask("/secret", key).status for key in (new, at_once)] == [401, 200]
    assert kit.events[-1].reason == "key_rotated"


def test_k8_revoked_in_this_process_is_refused_at_once(place: Place) -> None:
    key = place.kit.key(org="org_1")
    assert place.ask("/secret", key).status == 200
    place.kit.security.blocking.keys.revoke(key.record.id, org="org_1")
    assert (place.ask("/secret", key).status, place.reason) == (401, "key_revoked")


def test_k11_origins_at_the_gate(place: Place) -> None:
    key = place.kit.key(org="org_1", kind="publishable", origins=["https://shop.example", "https://*.shop.example"])
    free = place.kit.key(org="org_1", kind="publishable")
    allowed = (
        [("Origin", "https://shop.example")],
        [("Origin", "https://a.shop.example")],
        [("Sec-Fetch-Site", "same-origin")],
    )
    for headers in allowed:
        assert ask(place.port, "/page", *headers_of(key).items(), *headers).status == 200
    refused: tuple[list[tuple[str, str]], ...] = (
        [("Origin", "https://shop.example.evil.com")], [("Origin", "null")], [("Origin", "https://shop.example:444")],
        [("Origin", "http://shop.example")], [("Origin", "https://u@shop.example")], [("Origin", "https://evilshop.example")],
        [("Origin", "")], [], [("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "same-site")], [("Sec-Fetch-Site", "none")],
        [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "same-origin")],
    )  # fmt: skip
    for headers in refused:
        answer = ask(place.port, "/page", *headers_of(key).items(), *headers)
        assert (answer.status, problem(answer), place.reason) == (403, "cross_origin", "origin_not_allowed"), headers
    assert ask(place.port, "/page", *headers_of(free).items(), ("Origin", "https://anywhere.example")).status == 200


def test_a_key_in_the_other_ones_place_is_told_so_only_if_it_is_real(place: Place) -> None:
    secret, publishable = place.kit.key(org="org_1"), place.kit.key(org="org_1", kind="publishable")
    for headers, wrong in (
        ([("X-Publishable-Key", secret.key)], [("X-Publishable-Key", secret.key[:-1])]),
        ([("Authorization", f"Bearer {publishable.key}")], [("Authorization", f"Bearer {publishable.key}x")]),
    ):
        answer = ask(place.port, "/either", *headers)
        assert (answer.status, problem(answer), place.reason) == (403, "wrong_credential", "wrong_slot")
        assert ask(place.port, "/either", *wrong).status == 401


def test_the_environment_is_part_of_the_key(place: Place) -> None:
    live = place.kit.key(org="org_1", environment="live")
    assert (place.ask("/secret", live).status, place.reason) == (401, "wrong_environment")
    both = place.kit.security.gate(RULES, environments={"live", "test"})
    with serving(GateMiddleware(app, both)) as port:
        assert ask(port, "/secret", *headers_of(live).items()).status == 200


def test_a_publishable_key_where_a_secret_one_is_asked_for(place: Place) -> None:
    answer = place.ask("/secret", place.kit.key(org="org_1", kind="publishable"))
    assert (answer.status, problem(answer), place.reason) == (403, "wrong_credential", "wrong_kind")


def test_alternatives_do_not_add_scopes(place: Place) -> None:
    page = place.kit.key(org="org_1", kind="publishable", scopes={"orders:read"})
    secret = place.kit.key(org="org_1", scopes={"page:read"})
    answer = place.ask("/either", page, secret)
    assert (answer.status, problem(answer)) == (403, "missing_scope")
    assert 'error="insufficient_scope", scope="' in answer.headers["www-authenticate"]


def test_bad_credential_beside_good_one(place: Place) -> None:
    page, secret = place.kit.key(org="org_1", kind="publishable", scopes={"page:read"}), place.kit.key(org="org_1")
    place.kit.security.blocking.keys.revoke(secret.record.id, org="org_1")
    assert (place.ask("/either", page, secret).status, place.reason) == (401, "key_revoked")
    mangled = ("Authorization", "Bearer sk_test_nothing")
    assert ask(place.port, "/either", *headers_of(page).items(), mangled).status == 401


def test_two_credentials_agree_or_are_refused(place: Place) -> None:
    page, secret = place.kit.key(org="org_1", kind="publishable"), place.kit.key(org="org_1")
    stranger = place.kit.key(org="org_2", kind="publishable")
    assert place.ask("/both", page, secret).body.decode() == f"sk_test_{secret.record.id}"
    assert (place.ask("/both", stranger, secret).status, place.reason) == (400, "credentials_disagree")
    assert place.ask("/both", secret).status == 401
    assert place.ask("/both", page).status == 401
    assert place.ask("/secret", page, secret).status == 200  # a publishable key may stand beside any caller
    assert (place.ask("/page", page, secret).status, place.reason) == (403, "wrong_kind")


def test_an_authorization_scheme_that_is_not_ours_is_ignored(place: Place) -> None:
    assert (ask(place.port, "/secret", ("Authorization", "Basic eDp5")).status, place.reason) == (401, "no_credential")
    assert ask(place.port, "/optional", ("Authorization", "Basic eDp5")).body == b"Unauthenticated"


def test_optional_is_nobody_or_a_caller_who_meets_it(place: Place) -> None:
    good, poor = place.kit.key(org="org_1", scopes={"orders:read"}), place.kit.key(org="org_1")
    page = place.kit.key(org="org_1", kind="publishable")
    assert place.ask("/optional").body == b"Unauthenticated"
    assert place.ask("/optional", good).body.decode() == f"sk_test_{good.record.id}"
    assert place.ask("/optional", poor).status == 403
    assert place.ask("/optional", page).status == 403
    assert ask(place.port, "/optional", ("Authorization", "Bearer sk_test_nothing")).status == 401


def test_a_store_that_fails_is_503_and_never_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    key = place.kit.key(org="org_1", scopes={"orders:read"})

    async def failing(*_: Any) -> None:
        raise Unavailable

    monkeypatch.setattr(type(place.kit.security._shared.side.backend), "get", failing)
    for path in ("/optional", "/secret"):
        answer = place.ask(path, key)
        assert (answer.status, problem(answer)) == (503, "unavailable")
    assert place.ask("/open", key).status == 200


def test_a_lost_pepper_is_503(place: Place) -> None:
    kit = place.kit
    key = kit.key(org="org_1")
    backend = kit.security._shared.side.backend
    other = Kit(url=backend, secrets=[new_root()])
    with serving(GateMiddleware(app, other.security.gate(RULES))) as port:
        answer = ask(port, "/secret", *headers_of(key).items())
    assert (answer.status, other.events[-1].reason) == (503, "secret_missing")


def test_every_refusal_is_one_event(place: Place) -> None:
    before = len(place.kit.events)
    for target in ("/nothing", "//open", "/secret", "/orgs/o/orders?api_key=1"):
        place.ask(target)
    place.ask("/open", method="DELETE")
    events = place.kit.events[before:]
    assert [e.reason for e in events] == [
        "no_rule",
        "malformed_target",
        "no_credential",
        "credential_in_query",
        "method_not_listed",
    ]
    assert {e.name for e in events} == {"request.refused"}
    assert len(place.kit.decisions) == 5


def test_refused_keys_never_stand_in_events(place: Place) -> None:
    key = place.kit.key(org="org_1")
    ask(place.port, f"/secret?api_key={key.key}")
    ask(place.port, f"/{key.key}")
    ask(place.port, "/secret", ("Authorization", f"Bearer {key.key}x"))
    assert key.key[25:68] not in repr(place.kit.events)


def test_a_gate_without_keys_says_what_is_missing() -> None:
    from bartizan import Bartizan

    bare = Bartizan(environment="test")
    assert bare.gate([Rule("/", allow.public())]).rule_for("GET", "/") is not None
    with pytest.raises(Misuse, match="url= and secrets="):
        bare.keys
    with pytest.raises(Misuse, match="no authenticator for secret"):
        bare.gate([Rule("/", allow.secret_key())])


def test_cookie_name_twice(place: Place) -> None:
    for value in (
        "__Host-access=1; __Host-access=2",
        "a=b; __Host-refresh=1;__Host-refresh =2",
        "__Host-pre=1,__Host-pre=2",
    ):
        answer = ask(place.port, "/open", ("Cookie", value))
        assert (answer.status, place.reason) == (400, "repeated_cookie"), value
    for value in ("a=1; a=2", "__Host-access=1; __Host-refresh=2", "x__Host-other=1; x__Host-other=2"):
        assert ask(place.port, "/open", ("Cookie", value)).status == 200, value


def test_cookie_split_http2(place: Place) -> None:
    """Lines of one header are one header: a name that stands in two of them stands twice."""
    assert ask(place.port, "/open", ("Cookie", "__Host-access=1"), ("Cookie", "b=2"), ("Cookie", "c=3")).status == 200
    answer = ask(place.port, "/open", ("Cookie", "__Host-access=1"), ("Cookie", "b=2"), ("Cookie", "__Host-access=3"))
    assert (answer.status, place.reason) == (400, "repeated_cookie")
