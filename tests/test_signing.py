"""Signing keys: published before they sign, kept until what they signed is over, one ring for all who share a store."""

import asyncio
import json
import threading
from typing import Any

import pytest
from servers import ask, serving

from bartizan import Bartizan, Rule, SessionPolicy, TokenVerifier, Unavailable, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.core.ring import new_root
from bartizan.core.tables import ANYTHING, Update
from bartizan.credentials.jwks import published_key_set
from bartizan.credentials.jws import ALGORITHMS
from bartizan.credentials.signing import SIGNING_KEYS, SigningKeyRow
from bartizan.credentials.tokens import TokenReader, access_policy
from bartizan.endpoints import jwks_app
from bartizan.errors import Conflict, InvalidToken, Misuse, NotFound, Reason
from bartizan.testing import FakeClock, Kit

LEAD = 605


def rows(kit: Kit) -> list[SigningKeyRow]:
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    return list(run(backend.find(SIGNING_KEYS, (), limit=1000)))


def states(kit: Kit) -> list[str]:
    return [
        "revoked" if row.revoked_at is not None else "next" if row.activated_at is None else "active" if row.retired_at is None else "retiring"
        for row in rows(kit)
    ]  # fmt: skip


def edit(kit: Kit, row: SigningKeyRow, **columns: Any) -> None:
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    assert run(backend.change(Update(SIGNING_KEYS, row.id, ANYTHING, tuple(columns.items())))) is not None


def side(kit: Kit) -> Any:
    return kit.security._shared.blocking_side.tokens


def test_a_next_key_is_always_published() -> None:
    kit = Kit()
    signing = kit.security.blocking.signing_keys
    first = {key["kid"] for key in signing.jwks()["keys"]}
    assert states(kit) == ["active", "next"]
    kit.clock.advance(LEAD)
    assert signing.rotate() in first
    assert states(kit) == ["retiring", "active", "next"]
    assert {key["kid"] for key in signing.jwks()["keys"]} > first
    assert [event.name for event in kit.events] == ["signing_key.created", "signing_key.rotated"]


def test_no_key_signs_before_its_lead_has_passed() -> None:
    kit = Kit()
    signing = kit.security.blocking.signing_keys
    signing.jwks()
    kit.clock.advance(LEAD - 1)
    with pytest.raises(Conflict):
        signing.rotate()
    kit.clock.advance(1)
    signing.rotate()
    with pytest.raises(Conflict):
        signing.rotate()
    assert states(kit) == ["retiring", "active", "next"]


def test_kid_is_the_whole_thumbprint_and_nothing_private_is_published() -> None:
    """`private_member_in_published_jwks`."""
    for algorithm in ("EdDSA", "ES256", "RS256"):
        kit = Kit(sessions=SessionPolicy(algorithm=algorithm))
        jwks = kit.security.blocking.signing_keys.jwks()
        for key in published_key_set(jwks, ALGORITHMS):
            assert key.kid == key.thumbprint
            assert len(key.kid) == 43
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & {name for key in jwks["keys"] for name in key}
    kit = Kit(sessions=SessionPolicy(algorithm="HS256"))
    assert kit.security.blocking.signing_keys.jwks() == {"keys": []}
    assert run(side(kit).verify(kit.token(org="o", subject="s"))).subject == "s"


def test_a_retired_key_verifies_until_the_last_token_it_signed_is_over_and_then_is_gone() -> None:
    kit = Kit()
    signing = kit.security.blocking.signing_keys
    signing.jwks()
    kit.clock.advance(LEAD)
    token = kit.token(org="o", subject="s")
    signing.rotate()
    kit.clock.advance(280)
    assert run(side(kit).verify(token)).subject == "s"
    assert len(signing.jwks()["keys"]) == 3
    kit.clock.advance(200)
    assert len(signing.jwks()["keys"]) == 2
    kit.clock.advance(7200)
    run(side(kit).signing.upkeep())
    assert states(kit) == ["active", "next"]


def test_retiring_does_not_forget_and_revoking_does() -> None:
    kit = Kit()
    signing = kit.security.blocking.signing_keys
    old = kit.token(org="o", subject="s")
    kit.clock.advance(LEAD)
    old = kit.token(org="o", subject="s")
    first = run(side(kit).verify(old))
    signing.rotate()
    assert run(side(kit).verify(old)) is first
    retired = rows(kit)[0]
    signing.revoke(retired.kid)
    with pytest.raises(InvalidToken) as caught:
        run(side(kit).verify(old))
    assert caught.value.reason is Reason.UNKNOWN_SIGNING_KEY


def test_signing_key_revoke_within_bound() -> None:
    """`emergency_revoke_deadline`: another process goes on with what it has read for the staleness bound at most."""
    clock, root = FakeClock(), new_root()
    one = Kit(secrets=[root], clock=clock, issuer="i", audience="a")
    token = one.token(org="o", subject="s")
    other = Bartizan(
        one.security._shared.store.asynchronous,  # type: ignore[union-attr]
        environment="test",
        secrets=[root],
        clock=clock,
        issuer="i",
        audience="a",
    )
    verify = other._shared.blocking_side.tokens.verify
    assert run(verify(token)).subject == "s"
    kid = run(side(one).signing.current()).active.kid
    one.security.blocking.signing_keys.revoke(kid)
    with pytest.raises(InvalidToken):
        run(side(one).verify(token))
    clock.advance(4)
    assert run(verify(token)).subject == "s"
    clock.advance(1)
    with pytest.raises(InvalidToken):
        run(verify(token))


def test_a_revoked_key_leaves_nothing_behind() -> None:
    kit = Kit()
    signing = kit.security.blocking.signing_keys
    kids = [key["kid"] for key in signing.jwks()["keys"]]
    for kid in kids:
        signing.revoke(kid)
        signing.revoke(kid)  # again is no change
    assert sorted(states(kit)) == ["active", "next", "revoked", "revoked"]
    assert {row.sealed for row in rows(kit) if row.revoked_at is not None} == {b""}
    assert not {key["kid"] for key in signing.jwks()["keys"]} & set(kids)
    # An edit in the database does not bring it back.
    dead = next(row for row in rows(kit) if row.revoked_at is not None)
    edit(kit, dead, revoked_at=None, ends_at=2**62)
    kit.clock.advance(6)
    assert dead.kid not in {key["kid"] for key in signing.jwks()["keys"]}
    with pytest.raises(NotFound):
        signing.revoke("unknown")


def test_after_a_leak_of_the_store_both_are_revoked() -> None:
    kit = Kit()
    signing = kit.security.blocking.signing_keys
    leaked = {key["kid"] for key in signing.jwks()["keys"]}
    current = run(side(kit).signing.current())
    stolen = current.signs
    signing.revoke(current.next.kid)
    signing.revoke(current.active.kid)
    token = kit.token(org="o", subject="s")
    assert run(side(kit).verify(token)).subject == "s"
    assert json.loads(run(side(kit).signing.current()).jwks)["keys"]
    assert not leaked & {key["kid"] for key in signing.jwks()["keys"]}
    from bartizan.credentials.access_tokens import signed

    with pytest.raises(InvalidToken):
        run(side(kit).verify(signed(stolen, {"sub": "x"})))


def test_a_retired_row_holds_no_private_half() -> None:
    kit = Kit()
    signing = kit.security.blocking.signing_keys
    signing.jwks()
    kit.clock.advance(LEAD)
    before = rows(kit)[0]
    signing.rotate()
    after = rows(kit)[0]
    service = side(kit).signing
    opened = json.loads(service._box.open(after.sealed, context=service._context(after)))
    assert "d" in json.loads(service._box.open(before.sealed, context=service._context(before)))
    assert "d" not in opened


def test_a_row_from_elsewhere_is_no_key() -> None:
    """Who can write to the database brings a key of their own, or moves ours to another number, issuer or name."""
    a = Kit()
    a.security.blocking.signing_keys.jwks()
    b = Kit(issuer="elsewhere")
    b.security.blocking.signing_keys.jwks()
    theirs, ours = rows(b)[0], rows(a)[0]
    a.clock.advance(6)
    edit(a, ours, sealed=theirs.sealed, kid=theirs.kid)
    with pytest.raises(Unavailable):
        a.token(org="o", subject="s")
    assert ours.kid not in {key["kid"] for key in a.security.blocking.signing_keys.jwks()["keys"]}
    assert "signing_key.row_edited" in {event.name for event in a.events}
    edit(a, ours, sealed=ours.sealed, kid=theirs.kid)
    a.clock.advance(6)
    assert len(a.security.blocking.signing_keys.jwks()["keys"]) == 1
    edit(a, ours, kid=ours.kid, algorithm="ES256")
    a.clock.advance(6)
    assert len(a.security.blocking.signing_keys.jwks()["keys"]) == 1


def test_it_rotates_itself_by_the_clock_of_the_store() -> None:
    kit = Kit(sessions=SessionPolicy(signing_key_days=30))
    first = {key["kid"] for key in kit.security.blocking.signing_keys.jwks()["keys"]}
    upkeep = side(kit).signing.upkeep
    kit.clock.advance(30 * 86_400 - 1)
    run(upkeep())
    assert states(kit) == ["active", "next"]
    kit.clock.advance(1)
    run(upkeep())
    assert states(kit) == ["retiring", "active", "next"]
    run(upkeep())
    assert states(kit) == ["retiring", "active", "next"]
    assert run(side(kit).signing.signing()).verification.kid in first


def test_without_use_upkeep_touches_nothing() -> None:
    kit = Kit()
    kit.security._shared._look_after_keys()
    assert rows(kit) == []


def test_upkeep_makes_no_key_and_forgets_none_before_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit(sessions=SessionPolicy(signing_key_days=30))
    token = kit.token(org="o", subject="s")
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    monkeypatch.setattr(side(kit).signing, "_new", lambda _: pytest.fail("a key was made"))
    run(side(kit).signing.upkeep())
    monkeypatch.setattr(backend, "find", lambda *_, **__: pytest.fail("the keys were forgotten"))
    assert run(side(kit).verify(token)).subject == "s"


def test_keys_of_a_service_that_only_awaits_rotate_by_themselves() -> None:
    """The upkeep thread works over the blocking form, whichever form is used."""
    kit = Kit(sessions=SessionPolicy(signing_key_days=30))
    asyncio.run(kit.security.signing_keys.jwks())
    kit.clock.advance(30 * 86_400)
    kit.security._shared._look_after_keys()
    assert states(kit) == ["retiring", "active", "next"]


def test_many_processes_make_one_ring(tmp_path: Any) -> None:
    """Every process makes the first keys, and rotates, at the same moment: all of them end with one active key."""
    root, clock = new_root(), FakeClock()
    url = f"sqlite:///{tmp_path / 'a.db'}"
    houses = [
        Bartizan(url, environment="live", secrets=[root], issuer="i", audience="a", clock=clock, staleness=0)
        for _ in range(6)
    ]
    late: list[str] = []
    for act in ("jwks", "rotate"):
        found: list[Any] = []
        start = threading.Barrier(len(houses))

        def work(house: Bartizan, act: str = act, found: list[Any] = found, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                answer = getattr(house.blocking.signing_keys, act)()
            except (
                Conflict
            ):  # it only began when another had ended: the next key has not been published for long enough
                late.append(act)
            else:
                found.append(answer if act == "rotate" else [key["kid"] for key in answer["keys"]])

        threads = [threading.Thread(target=work, args=(house,)) for house in houses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) + len(late) == len(houses)
        assert len(found) >= (len(houses) if act == "jwks" else 1)
        assert all(answer == found[0] for answer in found), found
        clock.advance(1000)
    for house in houses:
        house._shared.close()


def test_another_algorithm_is_a_warning_until_it_has_been_rotated_in() -> None:
    root = new_root()
    kit = Kit(secrets=[root], issuer="i", audience="a")
    kit.security.blocking.signing_keys.jwks()
    store = kit.security._shared.store
    assert store is not None
    other = Bartizan(
        store.asynchronous,
        environment="test",
        secrets=[root],
        clock=kit.clock,
        issuer="i",
        audience="a",
        sessions=SessionPolicy(algorithm="ES256"),
    )
    signing = other._shared.blocking_side.tokens.signing
    with pytest.warns(UserWarning, match="algorithm="):
        token = run(other._shared.blocking_side.tokens.issue(org="o", subject="s", session="x"))
    for _ in range(2):
        kit.clock.advance(LEAD)
        run(signing.rotate())
    new = run(other._shared.blocking_side.tokens.issue(org="o", subject="s", session="x"))
    assert run(signing.signing()).verification.algorithm == "ES256"
    assert run(other._shared.blocking_side.tokens.verify(new)).subject == "s"
    assert token != new


def test_a_root_is_replaced_under_the_keys() -> None:
    old, new = new_root(), new_root()
    first = Kit(secrets=[old], issuer="i", audience="a")
    token = first.token(org="o", subject="s")
    store = first.security._shared.store
    assert store is not None
    arguments: dict[str, Any] = {"environment": "test", "clock": first.clock, "issuer": "i", "audience": "a"}
    both = Bartizan(store.asynchronous, secrets=[new, old], **arguments)
    tokens = both._shared.blocking_side.tokens
    assert run(tokens.verify(token)).subject == "s"
    run(tokens.signing.upkeep())
    use = {entry.secret_id: entry.records for entry in both.blocking.secret_use()}
    assert use[old[4:12]] == {}
    assert use[new[4:12]] == {"signing keys": 2}
    alone = Bartizan(store.asynchronous, secrets=[new], **arguments)
    assert run(alone._shared.blocking_side.tokens.verify(token)).subject == "s"
    missing = Bartizan(store.asynchronous, secrets=[old], **arguments)
    with pytest.raises((Misuse, Unavailable)):
        run(missing._shared.blocking_side.tokens.verify(token))


def test_rotate_under_load_zero_reject() -> None:
    """A rotation every 2 s for 10 minutes with a JWKS max-age of 1 s: 8 verifiers with stale copies refuse nothing."""
    kit = Kit(staleness=0, sessions=SessionPolicy(access=20))
    tokens = side(kit)
    signing = tokens.signing
    from bartizan.core.tables import Now

    signing.max_age, signing._lead = 1, Now(-2)
    policy = access_policy(issuer="kit", audience="kit-api", environment="test", algorithms=["EdDSA"])
    readers = [TokenReader(policy) for _ in range(8)]
    copies: list[Any] = [None] * 8
    live: list[tuple[int, str]] = []
    verified = 0
    run(signing.current())
    for second in range(600):
        kit.clock.advance(1)
        if second % 2 and second > 1:
            signing_kid = run(signing.rotate())
            assert signing_kid == run(signing.signing()).verification.kid
        live.append((kit.clock(), kit.token(org="o", subject="s")))
        live = [(at, token) for at, token in live if kit.clock() - at < 19][-6:]
        for i, reader in enumerate(readers):
            if copies[i] is None or (second + i) % 2 == 0:  # a copy is up to max-age old, and each another age
                copies[i] = published_key_set(json.loads(run(signing.current()).jwks), policy.algorithms)
            for _, token in live:
                assert reader.verify(token, copies[i], kit.clock()).subject == "s"
                verified += 1
    assert verified > 20_000
    assert sum(state == "retiring" for state in states(kit)) > 250
    # In an emergency: refused by the service itself at once, and by every copy once its max-age is over.
    _, last = live[-1]
    run(signing.revoke(run(signing.signing()).verification.kid))
    with pytest.raises(InvalidToken):
        run(tokens.verify(last))
    kit.clock.advance(1)
    for reader in readers:
        copy = published_key_set(json.loads(run(signing.current()).jwks), policy.algorithms)
        with pytest.raises(InvalidToken):
            reader.verify(last, copy, kit.clock())


# --- the endpoint ---


def test_jwks_app() -> None:
    kit = Kit()
    with serving(jwks_app(kit.security)) as port:
        answer = ask(port, "/anything")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/jwk-set+json"
        assert answer.headers["cache-control"] == "public, max-age=300"
        assert json.loads(answer.body) == kit.security.blocking.signing_keys.jwks()
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            again = ask(port, "/", ("If-None-Match", known))
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert ask(port, "/", ("If-None-Match", '"x"')).status == 200
        assert ask(port, "/", method="HEAD").status == 200
        refused = ask(port, "/", method="POST")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        kit.clock.advance(LEAD)
        kit.security.blocking.signing_keys.rotate()
        assert ask(port, "/", ("If-None-Match", tag)).status == 200


def test_a_verifier_that_has_nothing_but_the_jwks() -> None:
    kit = Kit()
    token = kit.token(org="o", subject="s")
    gate = kit.security.gate([Rule("GET /.well-known/jwks.json", allow.public())])
    with serving(GateMiddleware(jwks_app(kit.security), gate)) as port:
        jwks = json.loads(ask(port, "/.well-known/jwks.json").body)
    check = TokenVerifier(jwks, issuer="kit", audience="kit-api", environment="test")
    assert check.verify(token, now=kit.clock()).subject == "s"


def test_jwks_app_needs_what_the_keys_need() -> None:
    with pytest.raises(Misuse, match="issuer="):
        jwks_app(Bartizan("memory://", environment="test", secrets=[new_root()]))


def test_jwks_app_without_a_store_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()

    async def broken(*_: Any, **__: Any) -> Any:
        raise Unavailable

    monkeypatch.setattr(kit.security._shared.side.backend, "find", broken)
    with serving(jwks_app(kit.security)) as port:
        answer = ask(port, "/")
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "unavailable")
