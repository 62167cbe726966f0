"""For each cause that an explanation confirms, a request that comes to it: `"reason n"`, by the number of the cause."""

from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from outside import Provider
from test_doors import BASIC, HEADER, Basic, FromProxy
from test_explain import PLACE, RULES, bearer, shown
from token_forge import FORMS, Forge

from bartizan import Bartizan, Issuer, Rule, SessionPolicy, allow
from bartizan.core.drive import run
from bartizan.core.encoding import CHECK, base64url, check_of, unbase64url
from bartizan.core.ring import new_root
from bartizan.core.tables import ANYTHING, Update
from bartizan.credentials.key_rows import KEYS
from bartizan.credentials.tokens import CLAIMS
from bartizan.errors import Reason, Unavailable
from bartizan.gate.gate import Gate
from bartizan.sessions.families import FAMILIES
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock, Kit, ProofKey, acting_as
from bartizan.types import Identified


class Case(NamedTuple):
    gate: Gate
    method: str
    target: str
    headers: list[tuple[str, str]]
    client: str | None = None
    callbacks: bool = True


def _explained(name: str) -> Case:
    return Case(PLACE.gate, *PLACE.requests[name])


def _edited(key: Any, column: str, value: Any) -> Any:
    backend = PLACE.kit.security._shared.blocking_side.backend
    assert backend is not None
    assert run(backend.change(Update(KEYS, key.record.id, where=ANYTHING, set=((column, value),)))) is not None
    return key


def _requests() -> dict[str, Case]:
    good = bearer(PLACE.good.key)
    alike = PLACE.kit.security.gate(
        [Rule("/a", allow.credential("mtls") | allow.credential("other"))],
        authenticators=[FromProxy(peers=None), FromProxy(name="other", peers=None)],
    )
    return {
        "malformed_target 1": _explained("malformed_target"),
        "malformed_target 2": _explained("encoded slash"),
        "malformed_target 3": Case(PLACE.gate, "GET", "/orders/../1", [good]),
        "method_override 1": _explained("method_override"),
        "no_rule 1": _explained("no_rule"),
        "method_not_listed 1": _explained("method_not_listed"),
        "method_not_listed 2": _explained("lower case"),
        "preflight 1": _explained("preflight"),
        "repeated_header 1": _explained("repeated_header"),
        "repeated_cookie 1": _explained("repeated_cookie"),
        "body_too_large 1": _explained("body_too_large"),
        "invalid_request 2": _explained("invalid_request"),
        "invalid_request 3": Case(PLACE.gate, "GET", f"/orders/1?{'a=1&' * 1001}", [good]),
        "invalid_request 4": Case(alike, "GET", "/a", [(HEADER, "CN=org_1/x")]),
        "credential_in_query 1": _explained("credential_in_query"),
        "no_credential 1": _explained("no_credential"),
        "no_credential 3": Case(PLACE.gate, "GET", "/orders/1", [BASIC]),
        "no_credential 4": Case(PLACE.gate, "GET", "/both", [shown(PLACE.page.key)]),
        "credentials_disagree 1": _explained("credentials_disagree"),
        "wrong_slot 1": _explained("wrong_slot"),
        "wrong_kind 1": _explained("wrong_kind"),
        "scope_missing 1": _explained("scope_missing"),
        "wrong_organization 1": _explained("wrong_organization"),
        "condition 1": Case(PLACE.gate, "GET", "/asked", [bearer(PLACE.other.key)]),
    }


def _keys() -> dict[str, Case]:
    kit = PLACE.kit
    forged = PLACE.good.key[: -CHECK - 1] + ("a" if PLACE.good.key[-CHECK - 1] != "a" else "b")
    rotated = kit.key(org="org_1", scopes={"orders:read"})
    kit.security.blocking.keys.rotate(rotated.record.id, org="org_1", overlap=0)
    fenced = bearer(kit.key(org="org_1", scopes={"orders:read"}, networks=["203.0.113.0/24"]).key)
    proxied = Kit(proxy_hops=2)
    behind = bearer(proxied.key(org="org_1", scopes={"orders:read"}, networks=["203.0.113.0/24"]).key)

    def order(headers: list[tuple[str, str]], client: str | None = None) -> Case:
        return Case(PLACE.gate, "GET", "/orders/1", headers, client)

    return {
        "malformed_key 1": order([bearer(PLACE.good.key[:-1])]),
        "malformed_key 2": order([bearer("another system's")]),
        "unknown_key 1": _explained("unknown_key"),
        "unknown_key 2": _explained("unknown_key"),
        "wrong_secret 1": order([bearer(forged + check_of(forged.encode()).decode())]),
        "key_revoked 1": _explained("key_revoked"),
        "key_disabled 1": _explained("key_disabled"),
        "key_expired 1": _explained("key_expired"),
        "key_rotated 1": order([bearer(rotated.key)]),
        "key_row_edited 1": order([bearer(_edited(kit.key(org="org_1"), "scopes", '["orders:read"]').key)]),
        "key_row_edited 2": order([bearer(_edited(kit.key(org="org_1"), "org", "org_2").key)]),
        "key_in_browser 1": _explained("key_in_browser"),
        "wrong_environment 1": _explained("wrong_environment"),
        "origin_not_allowed 1": _explained("origin_not_allowed"),
        "origin_not_allowed 2": order([shown(PLACE.shop.key)]),
        "network_not_allowed 1": order([fenced], "198.51.100.9"),
        "address_unknown 1": Case(
            proxied.security.gate(RULES), "GET", "/orders/1", [behind, ("X-Forwarded-For", "203.0.113.9")], "10.0.0.1"
        ),
        "address_unknown 3": order([fenced]),
    }


def _doors() -> dict[str, Case]:
    class Gives(FromProxy):
        def __init__(self, answer: Any) -> None:
            super().__init__(peers=None)
            self.answer = answer

        def authenticate(self, *_: Any) -> Any:
            return self.answer

    kit = Kit()
    key = bearer(kit.key(org="org_1").key)
    sent = [(HEADER, "CN=org_1/x")]
    rules = [
        Rule("/a", allow.credential("mtls")),
        Rule("/b", allow.secret_key() & allow.when("none", lambda *_: None)),  # type: ignore[arg-type]
        Rule("/c", allow.credential("legacy")),
    ]

    def case(answer: Any, target: str = "/a", headers: Any = sent, *, callbacks: bool = True) -> Case:
        gate = kit.security.gate(rules, authenticators=[Gives(answer), Basic()])
        return Case(gate, "GET", target, headers, None, callbacks)

    guarded = kit.security.gate(rules, authenticators=[FromProxy(), Basic()])
    return {
        "wrong_slot 2": Case(guarded, "GET", "/a", [(HEADER, PLACE.good.key)], "127.0.0.1"),
        "origin_not_allowed 3": Case(guarded, "POST", "/a", [*sent, ("Sec-Fetch-Site", "cross-site")], "127.0.0.1"),
        "network_not_allowed 3": Case(guarded, "GET", "/a", sent, "198.51.100.9"),
        "expired 5": case(Identified(org="org_1", subject="x", expires_at=1)),
        "callback_failed 2": case(None, "/b", [key]),
        "callback_failed 3": case(None),
        "not_asked 1": case(None, "/b", [key], callbacks=False),
        "not_asked 2": case(None, "/c", [BASIC], callbacks=False),
    }


def _tokens() -> dict[str, Case]:
    kit = Kit()
    forge, now = Forge(kit), kit.clock()
    gate = kit.security.gate([
        Rule("/me", allow.consumer()),
        Rule("/factors", allow.consumer(factors={"otp"})),
        Rule("/recent", allow.consumer(factors={"otp"}, max_auth_age=60)),
        Rule("/known", allow.consumer(guests=False)),
    ])  # fmt: skip
    pair = kit.security.blocking.sessions.start(org="org_1", subject="cons_1")
    guest = kit.security.blocking.sessions.start(org="org_1", subject="guest_1", guest=True).access_token

    def me(token: str, target: str = "/me", scheme: str = "Bearer") -> Case:
        return Case(gate, "GET", target, [("Authorization", f"{scheme} {token}")])

    stolen = f"{forge.good.rpartition('.')[0]}.{pair.access_token.rpartition('.')[2]}"
    live = kit.security.gate([Rule("/me", allow.consumer())], environments={"live"})
    return {
        "malformed_token 1": me(f"{forge.good}="),
        "malformed_token 2": me(forge.with_header(enc="A256GCM")),
        "malformed_token 3": me(FORMS["dup_claim"](forge)),
        "unknown_signing_key 1": me(Forge(Kit()).good),
        "unknown_signing_key 4": me(Provider().token(now)),
        "wrong_algorithm 1": me(forge.with_header(alg="ES256")),
        "wrong_algorithm 2": me(FORMS["alg_none"](forge)),
        "wrong_signature 1": me(stolen),
        "wrong_token_type 1": me(pair.refresh_token),
        "wrong_token_type 4": me(Provider().token(now, header={"typ": "JWT"})),
        "wrong_issuer 2": me(forge.with_claims(iss="another")),
        "wrong_audience 1": me(forge.with_claims(aud="another")),
        "wrong_environment 2": Case(live, "GET", "/me", [bearer(forge.good)]),
        "claim_invalid 1": me(forge.with_claims(exp=...)),
        "claim_invalid 4": me(forge.with_claims(**{CLAIMS.org: ...})),
        "token_expired 1": me(forge.with_claims(iat=now - 60, exp=now - 5)),
        "token_not_yet 1": me(forge.with_claims(nbf=now + 6)),
        "token_lives_too_long 1": me(forge.with_claims(exp=now + 3601)),
        "sign_in_again 1": me(forge.good, "/factors"),
        "sign_in_again 2": me(forge.with_claims(**{CLAIMS.factors: {"otp": now - 61}}), "/recent"),
        "sign_in_again 3": me(guest, "/known"),
    }


def _members() -> dict[str, Case]:
    clock = FakeClock()
    provider, now = Provider(), clock()
    both = Provider()
    both.keys += provider.keys

    def me(token: str, rule: Rule | None = None, security: Bartizan | None = None, **fields: Any) -> Case:
        given = {"organizations": {"org_1", "org_2"}, "audience": "dashboard", "jwks": provider.document, **fields}
        made = security or Kit(clock=clock, issuers=[Issuer(provider.url, **given)]).security
        return Case(made.gate([rule or Rule("/me", allow.member())]), "GET", "/me", [bearer(token)])

    alone = Bartizan(
        environment="test",
        clock=clock,
        issuers=[Issuer(provider.url, organizations={"org_1"}, audience="dashboard", jwks=provider.document)],
    )
    other = Provider(algorithm="ES256")
    return {
        "unknown_signing_key 5": me(
            other.token(now),
            jwks={"keys": [*provider.document["keys"], *other.document["keys"]]},
            algorithms={"EdDSA"},
        ),
        "unknown_signing_key 6": me(both.token(now, header={"kid": None}), jwks=both.document),
        "wrong_token_type 2": me(provider.token(now, header={"typ": "JWT"})),
        "wrong_token_type 3": me(provider.token(now, header={"typ": "JWT"}, token_use="id"), typ="jwt"),
        "wrong_issuer 1": me(provider.token(now, iss=f"{provider.url}/"), security=alone),
        "wrong_audience 2": me(provider.token(now, azp="another"), authorized_parties={"page"}),
        "claim_invalid 2": me(provider.token(now, header={"typ": "JWT"}, nonce="n"), typ="jwt"),
        "claim_invalid 3": me(provider.token(now, auth_time="yesterday")),
        "scope_missing 3": me(provider.token(now, roles=["Viewers"]), Rule("/me", allow.member("viewer"))),
        "token_lives_too_long 2": me(provider.token(now, iat=None, exp=now + 86_401)),
        "foreign_organization 1": me(provider.token(now, org_id="org_3")),
        "foreign_organization 2": me(provider.token(now, org_id=None)),
        "mapping_failed 1": me(provider.token(now), organizations=lambda claims: claims["tenant"]),
        "mapping_failed 2": me(provider.token(now), organizations=lambda _: ""),
        "endpoint_failed 4": me(provider.token(now), jwks=None),
        "token_bound 3": me(provider.token(now, cnf={"jkt": "x"})),
    }


def _sessions() -> dict[str, Case]:
    def case(end: Callable[[Kit, Any, Any], object], **policy: Any) -> Case:
        clock = FakeClock()
        backend = MemoryBackend(clock)
        kit = Kit(sessions=SessionPolicy(**policy), clock=clock, url=backend, staleness=1)
        kit.clock = clock
        sessions = kit.security.blocking.sessions
        pair = sessions.start(org="org_1", subject="cons_1")
        found = end(kit, pair, backend) or pair
        clock.advance(2)  # past what the gate may remember
        token = getattr(found, "access_token", pair.access_token)
        return Case(kit.security.gate([Rule("/me", allow.consumer())]), "GET", "/me", [bearer(token)])

    def disabled(kit: Kit, *_: Any) -> None:
        kit.security.blocking.sessions.disable_subject(org="org_1", subject="cons_1")

    def refreshed(kit: Kit, pair: Any) -> Any:
        kit.clock.advance(11)
        pair = kit.security.blocking.sessions.refresh(pair.refresh_token)
        kit.security.blocking.sessions.authenticate(pair.access_token)
        return pair

    def forked(kit: Kit, pair: Any, _: Any) -> None:
        refreshed(kit, refreshed(kit, pair))

    def restored(kit: Kit, pair: Any, backend: Any) -> Any:
        rows = dict(backend._tables[FAMILIES.name])
        found = refreshed(kit, pair)
        backend._tables[FAMILIES.name].update(rows)
        return found

    members = {"cons_1"}
    left = case(lambda *_: members.clear(), member_of=lambda subject, _: subject in members)
    return {
        "session_unknown 1": case(lambda _, pair, backend: backend._tables[FAMILIES.name].pop(pair.session.id)),
        "session_expired 2": case(lambda kit, *_: kit.clock.advance(10), idle=10),
        "session_revoked 1": case(
            lambda kit, pair, _: kit.security.blocking.sessions.revoke(pair.session.id, org="org_1")
        ),
        "session_forked 1": case(forked),
        "subject_disabled 1": case(disabled),
        "subject_disabled 2": case(lambda kit, *_: kit.security.blocking.sessions.disable_org("org_1")),
        "not_a_member 1": left,
        "store_rolled_back 2": case(restored),
    }


def _proofs() -> dict[str, Case]:
    url = "https://shop.example/me"
    kit = Kit(origins=["https://shop.example"])
    key, other, forger = ProofKey(kit.clock), ProofKey(kit.clock), ProofKey(kit.clock)
    gate = kit.security.gate([Rule("/me", allow.consumer())])
    pair = kit.security.blocking.sessions.start(org="org_1", subject="cons_1", proof=key.request("POST", url))
    unbound = kit.token(org="org_1", subject="cons_1")
    token, nonce = pair.access_token, pair.dpop_nonce

    def me(proof: str | None, token: str = token, scheme: str = "DPoP") -> Case:
        proofs = [] if proof is None else [("DPoP", proof)]
        return Case(gate, "GET", "/me", [("Authorization", f"{scheme} {token}"), *proofs])

    def proved(by: ProofKey = key, at: str = url, **claims: Any) -> str:
        return by.proof("GET", at, **{"token": token, "nonce": nonce, **claims})

    good, now = proved(), kit.clock()
    forger.jwk = key.jwk
    raw = unbase64url(good.rpartition(".")[2]) or b""
    in_asn1 = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    with acting_as(kit.security.blocking.sessions.authenticate(unbound), of=kit):
        ticket = kit.security.blocking.sessions.ticket(path="/me")
    late = FakeClock(now=kit.clock() + 30)
    root = new_root()

    def socket(path: str, clock: FakeClock) -> Case:
        one = Kit(secrets=[root])
        principal = one.security.blocking.sessions.authenticate(one.token(org="org_1", subject="cons_1"))
        with acting_as(principal, of=one):
            text = one.security.blocking.sessions.ticket(path="/live")
        gate = Kit(secrets=[root], clock=clock).security.gate([Rule("WEBSOCKET /{what}", allow.consumer())])
        return Case(gate, "WEBSOCKET", path, [("Sec-WebSocket-Protocol", f"bartizan, {text}")])

    return {
        "wrong_token_type 5": me(None, token=ticket, scheme="Bearer"),
        "forged 1": socket("/other", FakeClock()),
        "expired 1": socket("/live", late),
        "token_bound 1": me(None, scheme="Bearer"),
        "token_not_bound 1": me(proved(token=unbound), token=unbound),
        "token_not_bound 2": me(proved(token=unbound), token=unbound, scheme="Bearer"),
        "session_misbound 2": me(proved(other)),
        "proof_malformed 1": me(pair.access_token),
        "proof_malformed 2": me(proved(jti=None)),
        "proof_malformed 3": me(f"{good}, {good}"),
        "proof_forged 1": me(f"{good.rpartition('.')[0]}.{base64url(in_asn1)}"),
        "proof_forged 2": me(proved(forger)),
        "proof_other_request 1": me(proved(at="https://api.shop.example/me")),
        "proof_other_request 2": me(proved(at="https://shop.example/v1/me")),
        "proof_other_request 3": me(proved(at="https://shop.example/you")),
        "proof_other_token 1": me(proved(token="another")),
        "proof_other_token 2": me(proved(ath=None)),
        "proof_out_of_time 1": me(proved(iat=now + 6)),
        "proof_out_of_time 2": me(proved(iat=now - 61)),
        "proof_without_nonce 1": me(proved(nonce=None)),
    }


def _stores() -> dict[str, Case]:
    class Broken(MemoryBackend):
        async def get(self, *_: Any) -> Any:
            raise Unavailable(Reason.STORE_FAILED)

    backend = MemoryBackend(FakeClock())
    key = Bartizan(backend, environment="test", secrets=[new_root()]).blocking.keys.create(org="org_1", kind="secret")
    rule = Rule("/a", allow.secret_key())

    def over(store: Any) -> Case:
        gate = Bartizan(store, environment="test", secrets=[new_root()]).gate([rule])
        return Case(gate, "GET", "/a", [bearer(key.key)])

    revoking = Kit(browser_leak="revoke")
    leaked = [bearer(revoking.key(org="org_1").key), ("Origin", "https://a.example")]
    return {
        "secret_missing 3": over(backend),
        "store_failed 1": over(Broken(FakeClock())),
        "would_write 1": Case(revoking.security.gate([rule]), "GET", "/a", leaked),
    }


CASES = _requests() | _keys() | _doors() | _tokens() | _members() | _sessions() | _proofs() | _stores()
