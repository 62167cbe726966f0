"""`gate.explain` says what the gate would, and changes nothing."""

import asyncio
from typing import Any

import demo
import pytest
import shop
from hypothesis import given, strategies as st
from test_doors import HEADER, RULES as OWN_RULES, Basic, FromProxy

from bartizan import Bartizan, Issuer, Misuse, Rule, allow
from bartizan.core.ring import new_root
from bartizan.core.tables import Backend
from bartizan.errors import Reason
from bartizan.gate.explanation import PLACES, Explanation, request_for
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock, Kit
from bartizan.types import Refuse

RULES = [
    Rule("GET /open", allow.public()),
    Rule("/untouched/**", allow.untouched()),
    Rule("GET|POST /orders/{id}", allow.secret_key("orders:read") | allow.publishable_key()),
    Rule("/orgs/{org}/orders", allow.secret_key("orders:read")),
    Rule("/both", allow.publishable_key() & allow.secret_key()),
    Rule("/optional", allow.optional(allow.secret_key())),
    Rule("/small", allow.secret_key(), body_limit=3),
    Rule("/asked", allow.secret_key() & allow.when("mine", lambda principal, request: principal.org == "org_1")),
    Rule("WEBSOCKET /live", allow.secret_key()),
    Rule("/me", allow.consumer(factors={"otp"})),
]


def bearer(key: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {key}"


def shown(key: str) -> tuple[str, str]:
    return "X-Publishable-Key", key


class Place:
    def __init__(self) -> None:
        self.kit = kit = Kit()
        self.gate = kit.security.gate(RULES)
        keys = kit.security.blocking.keys
        self.good = kit.key(org="org_1", scopes={"orders:read"})
        self.poor = kit.key(org="org_1")
        self.other = kit.key(org="org_2", scopes={"orders:read"})
        self.page = kit.key(org="org_1", kind="publishable")
        self.shop = kit.key(org="org_1", kind="publishable", origins={"https://shop.example"})
        self.revoked, self.disabled = kit.key(org="org_1"), kit.key(org="org_1")
        self.expired = kit.key(org="org_1", expires_at=kit.clock() + 1)
        keys.revoke(self.revoked.record.id, org="org_1")
        keys.disable(self.disabled.record.id, org="org_1")
        kit.clock.advance(1)
        self.live = kit.key(org="org_1", environment="live")
        kit.security.blocking.signing_keys.jwks()  # makes them
        good = self.good.key
        self.requests: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
            "admitted": ("GET", "/orders/1", [bearer(good)]),
            "open": ("GET", "/open", [bearer("nonsense")]),
            "untouched": ("GET", "/untouched/a", []),
            "nobody, optional": ("GET", "/optional", []),
            "both": ("GET", "/both", [bearer(good), shown(self.page.key)]),
            "websocket": ("WEBSOCKET", "/live", [bearer(good)]),
            "malformed_target": ("GET", "//orders/1", [bearer(good)]),
            "encoded slash": ("GET", "/orders%2F1", [bearer(good)]),
            "no_rule": ("GET", "/nothing", [bearer(good)]),
            "method_not_listed": ("DELETE", "/orders/1", [bearer(good)]),
            "lower case": ("get", "/orders/1", [bearer(good)]),
            "preflight": (
                "OPTIONS",
                "/both",
                [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")],
            ),
            "preflight elsewhere": (
                "OPTIONS",
                "/orders/1",
                [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")],
            ),
            "method_override": ("POST", "/orders/1", [bearer(good), ("X-HTTP-Method-Override", "DELETE")]),
            "repeated_header": ("GET", "/orders/1", [bearer(good), bearer(good)]),
            "repeated_cookie": ("GET", "/open", [("Cookie", "__Host-access=1; __Host-access=2")]),
            "credential_in_query": ("GET", f"/orders/1?a={good}", [bearer(good)]),
            "body_too_large": ("POST", "/small", [bearer(good), ("Content-Length", "4")]),
            "malformed_key": ("GET", "/orders/1", [bearer("sk_test_nonsense")]),
            "no form of ours": ("GET", "/orders/1", [bearer("nonsense")]),
            "invalid_request": ("POST", "/small", [bearer(good), ("Content-Length", "+1")]),
            "no_credential": ("GET", "/orders/1", []),
            "credentials_disagree": ("GET", "/both", [bearer(self.other.key), shown(self.page.key)]),
            "wrong_slot": ("GET", "/orders/1", [shown(good)]),
            "wrong_kind": ("GET", "/orgs/org_1/orders", [shown(self.page.key)]),
            "scope_missing": ("GET", "/orders/1", [bearer(self.poor.key)]),
            "wrong_organization": ("GET", "/orgs/org_1/orders", [bearer(self.other.key)]),
            "unknown_key": ("GET", "/orders/1", [bearer(kit_of_another().key)]),
            "wrong_environment": ("GET", "/orders/1", [bearer(self.live.key)]),
            "key_revoked": ("GET", "/orders/1", [bearer(self.revoked.key)]),
            "key_disabled": ("GET", "/orders/1", [bearer(self.disabled.key)]),
            "key_expired": ("GET", "/orders/1", [bearer(self.expired.key)]),
            "key_in_browser": ("GET", "/orders/1", [bearer(good), ("Origin", "https://a.example")]),
            "origin_not_allowed": ("GET", "/orders/1", [shown(self.shop.key), ("Origin", "https://a.example")]),
            "dpop of nothing": ("GET", "/me", [("Authorization", "DPoP abc")]),
            "wrong_token_type": ("GET", "/me", [bearer("eyJhbGciOiJub25lIn0.e30.")]),
        }


def kit_of_another() -> Any:
    return Kit().key(org="org_1", scopes={"orders:read"})


PLACE = Place()


def answer_of(gate: Any, method: str, target: str, headers: list[tuple[str, str]]) -> tuple[bool, int, str]:
    verdict = gate.blocking.check(request_for(method, target, headers, None))
    if isinstance(verdict, Refuse):
        return False, verdict.status, verdict.error.reason.value
    return True, 0, Reason.ADMITTED.value


def explained(gate: Any, *asked: Any, **more: Any) -> Explanation:
    found: Explanation = asyncio.run(gate.explain(*asked, **more))
    return found


@pytest.mark.parametrize("name", PLACE.requests)
def test_it_says_what_the_gate_says(name: str) -> None:
    asked = PLACE.requests[name]
    told = explained(PLACE.gate, *asked, callbacks=True)
    assert (told.admitted, told.status, told.reason) == answer_of(PLACE.gate, *asked)
    assert [step.place for step in told.steps] == list(PLACES)
    refused = [step for step in told.steps if step.outcome == "refused"]
    assert [step.reason for step in refused] == ([] if told.admitted else [told.reason])
    if name in set(Reason):
        assert told.reason == name
    told_text = str(told) + repr(told)
    for issued in (PLACE.good, PLACE.poor, PLACE.other, PLACE.revoked):
        assert issued.key not in told_text.replace(asked[1], "")


names = list(PLACE.requests)


@given(st.sampled_from(names), st.sampled_from(names), st.sampled_from(names), st.sampled_from(names))
def test_the_two_never_disagree(method: str, target: str, one: str, other: str) -> None:
    asked = PLACE.requests[method][0], PLACE.requests[target][1], [*PLACE.requests[one][2], *PLACE.requests[other][2]]
    told = explained(PLACE.gate, *asked, callbacks=True)
    assert (told.admitted, told.status, told.reason) == answer_of(PLACE.gate, *asked)


PLACE_OF = {
    "malformed_target": "target", "encoded slash": "target", "no_rule": "rule", "method_not_listed": "rule",
    "preflight": "preflight", "method_override": "presented", "repeated_header": "presented",
    "credential_in_query": "presented", "body_too_large": "presented", "no form of ours": "presented", "malformed_key": "credential",
    "wrong_slot": "credential", "key_revoked": "credential", "unknown_key": "credential", "key_in_browser": "credential",
    "no_credential": "requirement", "wrong_kind": "requirement", "scope_missing": "requirement",
    "wrong_organization": "requirement",
}  # fmt: skip


@pytest.mark.parametrize("name", PLACE_OF)
def test_it_says_where(name: str) -> None:
    told = explained(PLACE.gate, *PLACE.requests[name])
    at = PLACES.index(PLACE_OF[name])
    assert [step.outcome for step in told.steps] == ["passed"] * at + ["refused"] + ["not reached"] * (
        len(PLACES) - at - 1
    )


def test_it_changes_nothing_and_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit(browser_leak="revoke")
    gate = kit.security.gate(RULES)
    key = kit.key(org="org_1", scopes={"orders:read"})
    events, decisions = len(kit.events), len(kit.decisions)
    told = explained(
        gate, "GET", "/orders/1", [("Authorization", f"Bearer {key.key}"), ("Origin", "https://a.example")]
    )
    assert (told.admitted, told.reason) == (None, "would_write")  # it would be revoked
    assert explained(gate, "GET", "/orders/1", {"Authorization": f"Bearer {key.key}"}).admitted
    assert (len(kit.events), len(kit.decisions)) == (events, decisions)
    kit.security.blocking.keys.get(key.record.id, org="org_1")
    kit.security._shared.upkeep.close()
    assert kit.security.blocking.keys.get(key.record.id, org="org_1").last_used_at is None


def test_a_record_under_an_older_secret_is_only_said() -> None:
    old, new, backend = new_root(), new_root(), MemoryBackend(FakeClock())
    issued = Bartizan(backend, environment="test", secrets=[old]).blocking.keys.create(org="org_1", kind="secret")
    security = Bartizan(backend, environment="test", secrets=[new, old])
    gate = security.gate([Rule("/a", allow.secret_key())])
    told = explained(gate, "GET", "/a", {"Authorization": f"Bearer {issued.key}"})
    assert told.admitted
    assert "newest secret" in str(told)
    assert {use.secret_id: dict(use.records) for use in security.blocking.secret_use()}[old[4:12]]


def test_the_first_use_of_a_session_is_only_said() -> None:
    kit = Kit()
    gate = kit.security.gate([Rule("/a", allow.consumer()), Rule("/otp", allow.consumer(factors={"otp"}))])
    headers = kit.as_consumer(org="org_1", subject="cons_1")
    told = explained(gate, "GET", "/a", headers)
    assert told.admitted
    assert (
        str(told.steps[4]) == "credential   passed       consumer:cons_1 of org_1, it would be written that it was used"
    )
    assert str(explained(gate, "GET", "/otp", headers).steps[4]) == "credential   passed"


def test_the_applications_functions_are_asked_only_where_that_is_said() -> None:
    key = PLACE.good.key
    asked = ("GET", "/asked", {"Authorization": f"Bearer {key}"})
    told = explained(PLACE.gate, *asked)
    assert (told.admitted, told.reason, told.steps[-1].outcome) == (None, "not_asked", "not asked")
    assert explained(PLACE.gate, *asked, callbacks=True).admitted
    calls: list[bytes] = []

    class Counting(FromProxy):
        def recognises(self, presented: bytes) -> bool:
            calls.append(presented)
            return super().recognises(presented)

    kit = Kit()
    gate = kit.security.gate(OWN_RULES[:2], authenticators=[Counting(), Basic()])
    asked = ("GET", "/orgs/org_1/orders", {HEADER: "CN=org_1/x"})
    told = explained(gate, *asked, client="127.0.0.1")
    assert (told.admitted, told.reason, calls) == (None, "not_asked", [])
    assert explained(gate, *asked, client="127.0.0.1", callbacks=True).admitted
    assert explained(gate, *asked, callbacks=True).reason == "network_not_allowed"


def test_it_fetches_nothing() -> None:
    """An outside issuer whose keys nobody has asked for is not asked for them."""
    kit = Kit(issuers=[Issuer("https://login.example", organizations={"org_1"}, audience="a")])
    gate = kit.security.gate([Rule("/a", allow.member())])
    payload = "eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUifQ"  # {"iss":"https://login.example"}
    told = explained(gate, "GET", "/a", {"Authorization": f"Bearer eyJhbGciOiJFZERTQSJ9.{payload}.AAAA"})
    assert (told.admitted, told.reason) == (False, "endpoint_failed")


def test_nobody_is_current_afterwards() -> None:
    from bartizan.core.principal import NOWHERE, current_unit

    async def asked() -> bool:
        await PLACE.gate.explain("GET", "/orders/1", {"Authorization": f"Bearer {PLACE.good.key}"})
        return current_unit.get() is NOWHERE

    assert asyncio.run(asked())


@pytest.mark.parametrize("asked", [("GET", "/ä", {}), ("GET", "/", {"Ä": "☃"}), ("GET", "/", [("a",)])])
def test_what_is_no_request(asked: Any) -> None:
    with pytest.raises(Misuse):
        explained(PLACE.gate, *asked)


def test_a_store_that_fails_is_told() -> None:
    class Broken(MemoryBackend):
        async def get(self, *_: Any) -> Any:
            raise RuntimeError

    backend: Backend = Broken(FakeClock())
    security = Bartizan(backend, environment="test", secrets=[new_root()])
    gate = security.gate([Rule("/a", allow.secret_key())])
    with pytest.raises(RuntimeError):
        explained(gate, "GET", "/a", {"Authorization": f"Bearer {PLACE.good.key}"})


def test_it_agrees_with_every_row_of_the_demo() -> None:
    clock = demo.Turned()
    security = Bartizan("memory://", environment="live", secrets=[new_root()], clock=clock)
    gate = security.gate(shop.RULES)
    table = demo.rows(security)
    reasons = set()
    for row, ahead in table:
        clock.ahead = ahead
        method = "WEBSOCKET" if row.headers.get("Upgrade") == "websocket" else row.method
        asked = method, row.target, list(row.headers.items())
        told = explained(gate, *asked)
        assert (told.admitted, told.status, told.reason) == answer_of(gate, *asked), row.what
        if not told.admitted:  # else the application answers, which may refuse for reasons of its own
            assert told.status == row.asgi, row.what
        reasons.add(told.reason)
    assert len(table) > 30
    assert {
        "admitted",
        "key_revoked",
        "key_rotated",
        "malformed_target",
        "wrong_organization",
        "scope_missing",
    } <= reasons
