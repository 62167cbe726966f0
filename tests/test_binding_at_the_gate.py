"""Sessions that are bound to a key or a cookie, and whoever has only their tokens, through both adapters."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bound_places import Client, bound, wants_nonce
from cookie_places import ORG, ORIGIN, RULES, Browser, Reply, Site
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey
from session_places import ROOT

from bartizan import Misuse, Rule, SessionPolicy, allow
from bartizan.core.cookies import BIND
from bartizan.core.drive import run
from bartizan.core.once import ONCE
from bartizan.core.principal import current_unit
from bartizan.core.request import Request
from bartizan.credentials.jws import VerificationKey
from bartizan.endpoints import session_app
from bartizan.errors import InvalidProof, InvalidSession, Reason, Unavailable
from bartizan.testing import FakeClock, Kit, ProofKey, acting_as
from bartizan.types import Identity

ALGS = 'algs="ES256 EdDSA Ed25519"'
DAY = 86_400


@pytest.fixture(params=["asgi", "wsgi"])
def adapter(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


@pytest.fixture
def site(adapter: str) -> Site:
    return bound(adapter)


@pytest.fixture
def client(site: Site) -> Client:
    found = Client(site, ProofKey(site.clock))
    assert found.sign_in().status == 200
    return found


def claims_of(site: Site) -> int:
    return len(run(site.backend.find(ONCE, (), limit=10_000)))


def refused(site: Site, reply: Reply, reason: Reason, error: str | None = "invalid_dpop_proof") -> None:
    assert (reply.status, site.reason) == (401, reason)
    assert reply.cookies == {}
    if error is not None:
        assert reply.json["code"] == "invalid_proof"
        assert reply.header("www-authenticate") == f'DPoP error="{error}", {ALGS}'


# --- a good client ---


def test_who_has_the_key_signs_in_refreshes_and_is_served(client: Client) -> None:
    for _ in range(3):
        assert client.get().json["who"] == "cons_anna"
        assert client.get("/me", method="POST").status == 200
        client.site.clock.advance(400)
        told = client.refresh()
        assert (told.status, told.json["tokenType"], told.cookies) == (200, "DPoP", {})
        assert told.header("dpop-nonce") == client.nonce
    row = client.site.row(client.session)
    assert client.key is not None
    assert row.binding == f"key {client.key.thumbprint}"


def test_a_guest_who_signs_in_keeps_the_key(site: Site) -> None:
    client = Client(site, ProofKey(site.clock))
    assert client.guest().json["tokenType"] == "DPoP"
    assert claims_of(site) == 0, "nothing is written for a guest"
    guest = client.session
    client.site.clock.advance(20)
    asked = client.ask("POST", "/auth/otp/request", body={"address": "anna@shop.example"})
    sent = {"requestId": asked.json["requestId"], "code": site.code(), "address": "anna@shop.example"}
    path = "/auth/otp/verify"
    headers = ("Authorization", f"DPoP {client.access}"), ("DPoP", client.proof("POST", path, token=client.access))
    assert client.keep(client.ask("POST", path, *headers, body=sent)).status == 200
    assert client.session != guest
    assert client.get().json["who"] == "cons_anna"
    assert client.copy().get().status == 401


def test_a_client_chooses_to_be_bound(adapter: str) -> None:
    site = bound(adapter, "none")
    client, other = Client(site, ProofKey(site.clock)), Client(site)
    assert client.sign_in().json["tokenType"] == "DPoP"
    assert other.sign_in("ben@shop.example").json["tokenType"] == "Bearer"
    assert (client.get().status, other.get().status) == (200, 200)
    assert client.copy().get().status == 401
    assert other.refresh().status == 200


def test_without_a_proof_no_session_begins(site: Site) -> None:
    nobody = Client(site)
    refused(site, nobody.guest(), Reason.PROOF_MISSING)
    with pytest.raises(Misuse, match="proof="):
        site.blocking.start(org="org_1", subject="s")
    assert site.rows() == []


def test_a_rule_asks_for_a_proof(site: Site) -> None:
    assert site.ask("GET", "/me", []).header("www-authenticate") == f"DPoP {ALGS}"
    assert bound(site.adapter, "none").ask("GET", "/me", []).header("www-authenticate") == "Bearer"
    wrong = site.ask("GET", "/me", [("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")])
    assert wrong.header("www-authenticate") == f'DPoP {ALGS}, error="invalid_token"'


# --- tokens without the key: threats 2 and 6 ---


def test_dpop_bound_token_as_bearer(client: Client) -> None:
    site = client.site
    before = claims_of(site)
    refused(site, client.copy().get(), Reason.TOKEN_BOUND, "invalid_token")
    proof = client.proof("GET", "/me", token=client.access)
    for headers in ([("DPoP", proof)], [("DPoP", "")], [("DPoP", "x")]):
        thief = client.copy()
        refused(site, thief.ask("GET", "/me", ("Authorization", f"Bearer {client.access}"), *headers),
            Reason.TOKEN_BOUND, "invalid_token")  # fmt: skip
    refused(site, client.copy().ask("GET", "/me", ("Authorization", f"DPoP {client.access}")),
        Reason.TOKEN_BOUND, "invalid_token")  # fmt: skip
    assert site.events("session.misbound") == 5
    assert claims_of(site) == before
    assert client.get().status == 200


def test_dpop_other_key(client: Client) -> None:
    site = client.site
    thief = client.copy(key=ProofKey(site.clock))
    before = claims_of(site)
    refused(site, thief.get(), Reason.SESSION_MISBOUND, "invalid_token")
    told = [event for event in site.kit.events if event.name == "session.misbound"]
    assert [(event.org, event.target, event.outcome) for event in told] == [("org_1", client.session, "refused")]
    assert claims_of(site) == before
    assert client.get().status == 200


def test_dpop_proof_with_unbound_token(adapter: str) -> None:
    site = bound(adapter, "none")
    client = Client(site)
    client.sign_in()
    proved = client.copy(key=ProofKey(site.clock))
    refused(site, proved.get(), Reason.TOKEN_NOT_BOUND, "invalid_token")
    bearer = ("Authorization", f"Bearer {client.access}")
    refused(site, client.ask("GET", "/me", bearer, ("DPoP", "x")), Reason.TOKEN_NOT_BOUND, "invalid_token")
    refused(site, proved.refresh(), Reason.TOKEN_NOT_BOUND, "invalid_token")
    assert client.refresh().status == 200


def test_refresh_stolen_without_binding(client: Client) -> None:
    site = client.site
    before = site.row(client.session)
    for thief in (client.copy(), client.copy(key=ProofKey(site.clock))):
        for wait in (0, 20, 2000):
            site.clock.advance(wait)
            refused(site, thief.refresh(), Reason.SESSION_MISBOUND, None)
    assert site.row(client.session) == before
    assert client.refresh().status == 200


def test_refresh_grace_without_binding(client: Client) -> None:
    site = client.site
    thief = client.copy()
    site.clock.advance(400)
    assert client.refresh().status == 200
    refused(site, thief.refresh(), Reason.SESSION_MISBOUND, None)
    assert client.get().status == 200


def test_refresh_misbound_does_not_rotate_or_revoke(client: Client) -> None:
    """Not in the window, not late, and not where it would be reuse either: the owner goes on."""
    site = client.site
    thief = client.copy(key=ProofKey(site.clock))
    for _ in range(3):
        site.clock.advance(400)
        assert client.refresh().status == 200
        assert client.get().status == 200
        row = site.row(client.session)
        refused(site, thief.refresh(), Reason.SESSION_MISBOUND, None)
        assert site.row(client.session) == row
    assert site.events("session.misbound") == 3
    assert site.events("session.reused") == 0
    assert client.get().status == 200


def test_a_guest_s_first_refresh_is_bound_too(site: Site) -> None:
    client = Client(site, ProofKey(site.clock))
    client.guest()
    refused(site, client.copy().refresh(), Reason.SESSION_MISBOUND, None)
    assert site.rows() == []
    assert client.refresh().status == 200
    assert client.key is not None
    assert site.row(client.session).binding == f"key {client.key.thumbprint}"
    refused(site, client.copy().refresh(), Reason.SESSION_MISBOUND, None)


def test_a_code_that_two_keys_bring_begins_one_session(site: Site) -> None:
    """Whoever has seen the code and not the key gets no tokens for it, though they come within the same seconds."""
    key = ProofKey(site.clock)
    client = Client(site, key)
    client.guest()
    security = site.kit.security.blocking
    code = security.signin.authorize(Identity(provider="p", issuer="i", subject="s", org=ORG))
    identity = security.signin.exchange(code, org=ORG)

    def begun(proving: ProofKey) -> Any:
        proof = proving.request("POST", f"{ORIGIN}/in")
        return security.sessions.start(subject="s", identity=identity, proof=proof, org=ORG)

    first = begun(key)
    assert begun(key).session.id == first.session.id
    with pytest.raises(InvalidSession) as caught:
        begun(ProofKey(site.clock))
    assert caught.value.reason is Reason.SESSION_MISBOUND


# --- proofs that are not for this request: threat 22 ---


def test_dpop_replayed_jti(client: Client) -> None:
    site = client.site
    proof = client.proof("GET", "/me", token=client.access, jti="once")
    headers = ("Authorization", f"DPoP {client.access}"), ("DPoP", proof)
    assert client.ask("GET", "/me", *headers).status == 200
    refused(site, client.ask("GET", "/me", *headers), Reason.PROOF_REPLAYED)
    anew = client.proof("GET", "/me", token=client.access, jti="once", iat=site.clock() - 1)
    refused(site, client.ask("GET", "/me", headers[0], ("DPoP", anew)), Reason.PROOF_REPLAYED)
    site.clock.advance(59)
    refused(site, client.ask("GET", "/me", *headers), Reason.PROOF_REPLAYED)
    site.clock.advance(2)
    refused(site, client.ask("GET", "/me", *headers), Reason.PROOF_OUT_OF_TIME)


def test_a_proof_from_ahead_is_remembered_as_long_as_it_is_good(client: Client) -> None:
    site = client.site
    proof = client.proof("GET", "/me", token=client.access, iat=site.clock() + 5)
    headers = ("Authorization", f"DPoP {client.access}"), ("DPoP", proof)
    assert client.ask("GET", "/me", *headers).status == 200
    site.clock.advance(65)
    run(site.backend.purge(ONCE))
    refused(site, client.ask("GET", "/me", *headers), Reason.PROOF_REPLAYED)
    site.clock.advance(400)
    assert claims_of(site) == 1
    run(site.backend.purge(ONCE))
    assert claims_of(site) == 0, "what no proof needs is not kept"


def test_a_replayed_refresh(client: Client) -> None:
    proof = client.proof("POST", "/auth/refresh")
    for status in (200, 401):
        client.site.clock.advance(20)
        sent = {"refreshToken": client.refresh_token}
        assert client.keep(client.ask("POST", "/auth/refresh", ("DPoP", proof), body=sent)).status == status
    assert client.site.reason == Reason.PROOF_REPLAYED
    assert client.refresh().status == 200


def test_dpop_same_jti_other_key(client: Client) -> None:
    """A stranger who knows an id that will come cannot use it up."""
    site = client.site
    stranger = Client(site, ProofKey(site.clock))
    stranger.nonce = client.nonce
    stranger.sign_in("ben@shop.example")
    proof = stranger.proof("GET", "/me", token=stranger.access, jti="the-next")
    answer = stranger.ask("GET", "/me", ("Authorization", f"DPoP {stranger.access}"), ("DPoP", proof))
    assert answer.status == 200
    proof = client.proof("GET", "/me", token=client.access, jti="the-next")
    assert client.ask("GET", "/me", ("Authorization", f"DPoP {client.access}"), ("DPoP", proof)).status == 200


def test_dpop_htu_from_host_header(client: Client) -> None:
    site = client.site
    for host in ("evil.example", "shop.example:8443"):
        proof = client.proof("GET", "/me", token=client.access, url=f"https://{host}/me")
        headers = ("Authorization", f"DPoP {client.access}"), ("DPoP", proof), ("Host", host)
        refused(site, client.ask("GET", "/me", *headers), Reason.PROOF_OTHER_REQUEST)
    proof = client.proof("GET", "/me", token=client.access)
    headers = ("Authorization", f"DPoP {client.access}"), ("DPoP", proof), ("Host", "10.0.0.7:8000")
    assert client.ask("GET", "/me", *headers).status == 200


@pytest.mark.parametrize(("method", "claims", "reason"), [
    ("GET", {"url": f"{ORIGIN}/card"}, Reason.PROOF_OTHER_REQUEST),
    ("GET", {"url": f"{ORIGIN}/me/"}, Reason.PROOF_OTHER_REQUEST),
    ("GET", {"url": f"{ORIGIN}/m%2565"}, Reason.PROOF_OTHER_REQUEST),
    ("GET", {"url": "http://shop.example/me"}, Reason.PROOF_OTHER_REQUEST),
    ("GET", {"htm": "POST"}, Reason.PROOF_OTHER_REQUEST),
    ("POST", {"htm": "GET"}, Reason.PROOF_OTHER_REQUEST),
    ("GET", {"iat": -61}, Reason.PROOF_OUT_OF_TIME),
    ("GET", {"iat": 6}, Reason.PROOF_OUT_OF_TIME),
    ("GET", {"ath": None}, Reason.PROOF_OTHER_TOKEN),
    ("GET", {"ath": "0" * 43}, Reason.PROOF_OTHER_TOKEN),
    ("GET", {"jti": "j" * 129}, Reason.PROOF_MALFORMED),
    ("GET", {"jti": None}, Reason.PROOF_MALFORMED),
])  # fmt: skip
def test_dpop_wrong_htu(client: Client, method: str, claims: dict[str, Any], reason: Reason) -> None:
    if isinstance(claims.get("iat"), int):
        claims = {"iat": client.site.clock() + claims["iat"]}
    before = claims_of(client.site)
    proof = client.proof(method, "/me", token=client.access, **claims)
    reply = client.ask(method, "/me", ("Authorization", f"DPoP {client.access}"), ("DPoP", proof))
    refused(client.site, reply, reason)
    assert claims_of(client.site) == before
    assert client.get().status == 200


@pytest.mark.parametrize("url", [f"{ORIGIN}/%6de", f"{ORIGIN}/me?next=1#x", "HTTPS://SHOP.example:443/me"])
def test_one_url_in_another_spelling(client: Client, url: str) -> None:
    proof = client.proof("GET", "/me", token=client.access, url=url)
    assert client.ask("GET", "/me?next=2", ("Authorization", f"DPoP {client.access}"), ("DPoP", proof)).status == 200


def test_two_proofs_are_none(client: Client) -> None:
    proofs = [("DPoP", client.proof("GET", "/me", token=client.access)) for _ in range(2)]
    if client.site.adapter == "wsgi":  # a server has joined them
        proofs = [("DPoP", ",".join(value for _, value in proofs))]
    reply = client.ask("GET", "/me", ("Authorization", f"DPoP {client.access}"), *proofs)
    assert reply.status == (400 if client.site.adapter == "asgi" else 401)


def test_dpop_ath(client: Client) -> None:
    """A proof that was made for one token of the session does not go with the next one."""
    old = client.access
    client.site.clock.advance(20)
    client.refresh()
    proof = client.proof("GET", "/me", token=old)
    reply = client.ask("GET", "/me", ("Authorization", f"DPoP {client.access}"), ("DPoP", proof))
    refused(client.site, reply, Reason.PROOF_OTHER_TOKEN)


def test_one_proof_costs_one_signature_and_one_write(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    check = VerificationKey.check

    def counted(self: VerificationKey, message: bytes, signature: bytes) -> None:
        checked.append(message)
        check(self, message, signature)

    assert client.get().status == 200
    before = claims_of(client.site)
    monkeypatch.setattr(VerificationKey, "check", counted)
    assert client.get().status == 200
    assert len(checked) == 1
    assert claims_of(client.site) == before + 1
    thief = client.copy(key=ProofKey(client.site.clock))
    thief.nonce = client.nonce
    assert thief.get().status == 401
    assert len(checked) == 1, "another key's proof is refused before its signature"


def test_dpop_jti_flood_unauthenticated_writes_nothing(client: Client) -> None:
    """10^5 of them in both forms: of strangers who have no token, a forged one, another's, and refresh tokens that are none."""
    site = client.site
    before = claims_of(site), site.rows()
    stranger = Client(site, ProofKey(site.clock))
    stranger.nonce = client.nonce
    head, payload, _ = client.access.split(".")
    forged = f"{head}.{payload}.{'A' * 86}"
    proof = stranger.proof("GET", "/me", token=client.access)
    of_refresh = stranger.proof("POST", "/auth/refresh")
    journal: Any = site.kit.security._shared.journal
    gate = site.gate
    for number in range(12_500):
        for path, headers in (
            ("/me", [(b"dpop", proof.encode())]),
            ("/me", [(b"authorization", f"DPoP {forged}".encode()), (b"dpop", proof.encode())]),
            ("/me", [(b"authorization", f"DPoP {client.access}".encode()), (b"dpop", proof.encode())]),
            ("/auth/refresh", [(b"authorization", b"DPoP rt_x"), (b"dpop", of_refresh.encode())]),
        ):
            verdict = gate.blocking.check(Request("GET", path, headers, None, "https"))
            assert verdict.__class__.__name__ == "Refuse"
        if not number % 1000:
            journal.seen.clear()
    assert stranger.ask("POST", "/auth/refresh", ("DPoP", of_refresh), body={"refreshToken": "rt_x"}).status == 401
    assert (claims_of(site), site.rows()) == before


# --- nonces ---


def test_use_dpop_nonce(client: Client) -> None:
    site = client.site
    told: str | None = None
    for nonce in (None, "", "nonce_x", 7, str(client.nonce).swapcase()):
        proof = client.proof("GET", "/me", token=client.access, nonce=nonce)
        reply = client.ask("GET", "/me", ("Authorization", f"DPoP {client.access}"), ("DPoP", proof))
        refused(site, reply, Reason.PROOF_WITHOUT_NONCE, "use_dpop_nonce")
        told = reply.header("dpop-nonce")
        assert told is not None
        assert re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", told), "NQCHAR of RFC 9449 section 8.1"
    proof = client.proof("GET", "/me", token=client.access, nonce=told)
    assert client.ask("GET", "/me", ("Authorization", f"DPoP {client.access}"), ("DPoP", proof)).status == 200


def test_a_nonce_is_over_after_ten_minutes(client: Client) -> None:
    nonce = client.nonce
    client.site.clock.advance(280)
    assert client.get(again=False).status == 200
    client.site.clock.advance(330)
    assert client.nonce == nonce
    assert wants_nonce(client.post("/auth/refresh", again=False, refreshToken=client.refresh_token))
    assert client.refresh().status == 200


def test_proofs_that_were_made_beforehand(client: Client) -> None:
    """A script that was in the page for a moment makes proofs for a month, and the nonce ends all of them."""
    site = client.site
    proof = client.proof("POST", "/auth/refresh", iat=site.clock() + 3 * DAY)
    site.clock.advance(3 * DAY)
    thief = client.copy()
    reply = thief.ask("POST", "/auth/refresh", ("DPoP", proof), body={"refreshToken": client.refresh_token})
    refused(site, reply, Reason.PROOF_WITHOUT_NONCE, "use_dpop_nonce")
    without = bound(site.adapter, at=site.clock, dpop_nonces=False)
    other = Client(without, ProofKey(site.clock))
    other.sign_in()
    proof = other.proof("POST", "/auth/refresh", iat=site.clock() + DAY)
    site.clock.advance(DAY)
    sent = {"refreshToken": other.refresh_token}
    assert other.copy().ask("POST", "/auth/refresh", ("DPoP", proof), body=sent).status == 200


def processes(path: Path, adapter: str) -> list[Site]:
    clock = FakeClock()
    url = f"sqlite:///{path}/store.db"
    return [bound(adapter, at=clock, url=url, secrets=[ROOT]) for _ in range(2)]


def test_dpop_nonce_other_worker(tmp_path: Path, adapter: str) -> None:
    one, two = processes(tmp_path, adapter)
    client = Client(one, ProofKey(one.clock))
    assert client.sign_in().status == 200
    client.site = two
    assert client.get(again=False).status == 200
    assert client.get(again=False).status == 200
    client.site = one
    assert client.get(again=False).status == 200
    for site in (one, two):
        site.kit.security._shared.close()


def test_a_proof_that_another_worker_has_seen_is_refused(tmp_path: Path, adapter: str) -> None:
    one, two = processes(tmp_path, adapter)
    client = Client(one, ProofKey(one.clock))
    client.sign_in()
    headers = ("Authorization", f"DPoP {client.access}"), ("DPoP", client.proof("GET", "/me", token=client.access))
    assert client.ask("GET", "/me", *headers).status == 200
    client.site = two
    refused(two, client.ask("GET", "/me", *headers), Reason.PROOF_REPLAYED)
    for site in (one, two):
        site.kit.security._shared.close()


# --- other clients' proofs ---


@pytest.mark.parametrize("key", [ECKey.generate_key("P-256"), OKPKey.generate_key("Ed25519")], ids=["ES256", "EdDSA"])
def test_a_client_library_is_served(site: Site, key: Any) -> None:
    public = {name: value for name, value in key.as_dict(private=False).items() if name != "kid"}
    registry = jws.JWSRegistry(algorithms=["ES256", "Ed25519", "EdDSA"], strict_check_header=False)

    class Library(ProofKey):
        def proof(self, method: str, url: str, **more: Any) -> str:
            payload = json.loads(_payload(super().proof(method, url, **more)))
            head = {"typ": "dpop+jwt", "alg": "ES256" if key.key_type == "EC" else "Ed25519", "jwk": public}
            return jws.serialize_compact(head, json.dumps(payload), key, registry=registry)

    client = Client(site, Library(site.clock))
    assert client.sign_in().status == 200
    assert site.row(client.session).binding == f"key {key.thumbprint()}"
    assert client.get().status == 200
    site.clock.advance(20)
    assert client.refresh().status == 200


def _payload(token: str) -> bytes:
    from bartizan.core.encoding import loose_base64url

    return loose_base64url(token.split(".")[1].encode())


# --- the cookie ---


def test_a_session_bound_to_a_cookie(adapter: str) -> None:
    site = bound(adapter, "cookie")
    client = Client(site)
    told = client.sign_in()
    assert (told.json["tokenType"], set(told.cookies)) == ("Bearer", {BIND})
    assert (client.get().status, client.refresh().status, client.get().status) == (200, 200, 200)
    other = Client(site)
    other.sign_in("ben@shop.example")
    for jar in ({}, {BIND: "x"}, {BIND: client.jar[BIND].swapcase()}, other.jar):
        thief = client.copy(jar=jar)
        row = site.row(client.session)
        reply = thief.get()
        assert (reply.status, reply.json["code"], site.reason) == (401, "invalid_proof", Reason.SESSION_MISBOUND)
        assert reply.header("www-authenticate") == 'Bearer error="invalid_token"'
        refused(site, thief.refresh(), Reason.SESSION_MISBOUND, None)
        assert site.row(client.session) == row
    assert site.events("session.misbound") == 8
    assert client.ask("POST", "/auth/logout", ("Authorization", f"Bearer {client.access}")).cookies[BIND] == ""


def test_a_guest_bound_to_a_cookie_signs_in(adapter: str) -> None:
    site = bound(adapter, "cookie")
    client = Client(site)
    client.guest()
    first = client.jar[BIND]
    asked = client.ask("POST", "/auth/otp/request", body={"address": "anna@shop.example"})
    sent = {"requestId": asked.json["requestId"], "code": site.code(), "address": "anna@shop.example"}
    bearer = ("Authorization", f"Bearer {client.access}")
    assert client.copy().ask("POST", "/auth/otp/verify", bearer, body=sent).status == 401
    assert client.keep(client.ask("POST", "/auth/otp/verify", bearer, body=sent)).status == 200
    assert client.jar[BIND] != first
    assert client.get().status == 200


def test_a_site_of_pages_carries_the_cookie_along(adapter: str) -> None:
    site = Site(adapter, binding="cookie")
    browser = Browser(site)
    assert BIND in browser.sign_in().cookies
    assert browser.get("/me").status == 200
    site.clock.advance(400)
    assert browser.get("/me").status == 200, "renewed by the page that was asked for"
    assert browser.get("/me").status == 200
    del browser.jar[BIND]
    for _ in range(2):
        assert browser.get("/me").status == 401
        home = browser.get("/")
        assert (home.status, home.json, home.cookies) == (200, {}, {}), "where nobody has to be somebody it is nobody"
        site.clock.advance(400)
    assert browser.sign_in().status == 200, "whoever lost it signs in again"
    assert browser.get("/me").status == 200


def test_a_page_takes_no_proof(adapter: str) -> None:
    site = Site(adapter)
    reply = site.ask("POST", "/auth/guest", [("Origin", ORIGIN), ("DPoP", "x")])
    assert (reply.status, site.reason) == (401, Reason.TOKEN_NOT_BOUND)
    with pytest.raises(Misuse, match="navigated"):
        security = Kit(origins=[ORIGIN], sessions=SessionPolicy(binding="dpop")).security
        session_app(security, deliver=print, resolve=str, transport="cookie", org="o")


# --- the device, and what a program does wrong ---


def test_another_device_is_told_and_served(adapter: str) -> None:
    site = bound(adapter, "none")
    client = Client(site)
    agent = "User-Agent", "Mozilla/5.0 (one)"
    client.keep(client.ask("POST", "/auth/guest", agent, body={}))
    for name, expected in (("Mozilla/5.0 (one)", 0), ("curl/8", 1), ("Mozilla/5.0 (one)", 1)):
        site.clock.advance(20)
        sent = {"refreshToken": client.refresh_token}
        assert client.keep(client.ask("POST", "/auth/refresh", ("User-Agent", name), body=sent)).status == 200
        assert site.events("session.device_changed") == expected
    device = site.row(client.session).device
    assert device is not None
    assert "Mozilla" not in repr(site.rows()) + repr(site.kit.events)
    assert re.fullmatch(r"[0-9A-Za-z]{8} [0-9a-f]{32}", device)


def test_policy_is_checked() -> None:
    for wrong in ({"binding": "mtls"}, {"binding": None}):
        with pytest.raises(Misuse, match="binding"):
            SessionPolicy(**wrong)
    with pytest.raises(Misuse, match="origins"):
        _ = Kit(sessions=SessionPolicy(binding="dpop")).security.sessions
    with pytest.raises(Misuse, match="takes the request"):
        Kit().security.blocking.sessions.start(org="o", subject="s", proof=object())


def test_a_service_asks_for_the_proof_too(site: Site, client: Client) -> None:
    sessions = site.blocking
    with pytest.raises(InvalidProof) as caught:
        sessions.authenticate(client.access)
    assert caught.value.reason is Reason.TOKEN_BOUND
    proof = client.proof("GET", "/me", token=client.access)
    came = site.scope("GET", "/me", [("Authorization", f"DPoP {client.access}"), ("DPoP", proof)])
    assert sessions.authenticate(client.access, proof=came).subject == "cons_anna"
    with pytest.raises(InvalidProof):
        sessions.authenticate(client.access, proof=came)


def test_a_key_or_a_member_s_token_is_no_dpop_token(site: Site) -> None:
    gate_of = site.kit.security.gate
    key = site.kit.key(org="org_1")
    gate = gate_of([*RULES, Rule("/keys", allow.secret_key())])
    verdict: Any = gate.blocking.check(
        Request("GET", "/keys", [(b"authorization", f"DPoP {key.key}".encode())], None, "https")
    )
    assert (verdict.status, verdict.error.reason) == (401, Reason.MALFORMED_TOKEN)


def test_a_store_that_fails_lets_no_proof_pass(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    side = client.site.kit.security._shared
    backends = [side.side.backend, side.blocking_side.backend]

    async def failing(*_: Any, **__: Any) -> Any:
        raise Unavailable

    assert client.get().status == 200
    for backend in {id(each): each for each in backends}.values():
        monkeypatch.setattr(backend, "change", failing)
    assert client.get(again=False).status == 503
    monkeypatch.undo()
    assert client.get(again=False).status == 200


def test_the_key_of_a_test_makes_requests() -> None:
    with pytest.raises(Misuse, match="url"):
        ProofKey().request("GET", "shop.example/me")


def test_a_request_that_is_over_proves_nothing(client: Client) -> None:
    """Work that goes on after its answer begins no session by the key that the request had proved."""
    security = client.site.kit.security
    principal = client.site.blocking.authenticate(
        client.access,
        proof=client.key and client.key.request("GET", f"{ORIGIN}/me", token=client.access, nonce=client.nonce),
    )
    with acting_as(principal, of=client.site.kit):
        assert security.blocking.sessions.start(org="org_1", subject="s").token_type == "DPoP"
        unit = current_unit.get()
    before = current_unit.set(unit)
    try:
        with pytest.raises(Misuse):
            security.blocking.sessions.start(org="org_1", subject="s")
    finally:
        current_unit.reset(before)


def test_what_lacks_is_told_in_the_scheme_of_the_request(client: Client) -> None:
    site = client.site
    gate = site.kit.security.gate([
        Rule("/scope", allow.consumer("a:b")), Rule("/factor", allow.consumer(factors={"passkey"})),
        Rule("/either", allow.consumer("a:b") | allow.secret_key("a:b")),
        Rule("/both", allow.consumer("a:b") & allow.optional(allow.publishable_key())),
    ])  # fmt: skip
    assert client.key is not None
    for path, told in (
        ("/scope", 'DPoP error="insufficient_scope", scope="a:b"'),
        ("/factor", 'DPoP error="insufficient_user_authentication", acr_values="passkey"'),
        ("/both", 'DPoP error="insufficient_scope", scope="a:b"'),
        ("/either", 'Bearer error="insufficient_scope", scope="a:b"'),
    ):
        request = client.key.request("GET", ORIGIN + path, token=client.access, nonce=client.nonce)
        verdict: Any = gate.blocking.check(request)
        assert dict(verdict.headers)[b"www-authenticate"] == told.encode()


def test_a_proof_again_by_way_of_the_refresh_cookie(client: Client) -> None:
    """A used proof and a stolen refresh token: in our cookie it is no credential of a session that is bound to a key."""
    site, row = client.site, client.site.row(client.session)
    proof = client.proof("POST", "/me", token=client.access)
    assert client.ask("POST", "/me", ("Authorization", f"DPoP {client.access}"), ("DPoP", proof)).status == 200
    row = site.row(client.session)
    cookie = ("Cookie", f"__Host-refresh={client.refresh_token}")
    for headers in ((cookie, ("DPoP", proof)), (cookie,)):
        assert site.ask("POST", "/me", [*headers, ("Origin", ORIGIN)]).status == 401
    assert site.row(client.session) == row
    assert client.refresh().status == 200


def test_a_ticket_is_no_proof(client: Client) -> None:
    security = client.site.kit.security
    sessions, key = security.blocking.sessions, client.key
    assert key is not None
    came = key.request("GET", f"{ORIGIN}/me", token=client.access, nonce=client.nonce)
    with acting_as(sessions.authenticate(client.access, proof=came), of=client.site.kit):
        ticket = sessions.ticket(path="/live")
    principal, _ = security._shared.blocking_side.sessions._tickets.read(ticket, "/live")
    with acting_as(principal, of=client.site.kit):
        with pytest.raises(InvalidProof):
            sessions.ticket(path="/live")
        with pytest.raises(InvalidSession):
            sessions.refresh(client.refresh_token)


def test_an_upgrade_is_never_looser() -> None:
    for binding in ("none", "cookie"):
        site = bound("wsgi", binding)
        client = Client(site, ProofKey(site.clock))
        client.guest()
        assert client.key is not None
        came = client.key.request("GET", f"{ORIGIN}/me", token=client.access, nonce=client.nonce)
        me = site.blocking.authenticate(client.access, proof=came)
        assert site.blocking.upgrade(me, subject="anna").token_type == "DPoP"


def test_split_cookie_lines_and_a_page_of_a_stranger() -> None:
    site = bound("asgi", "cookie")
    client = Client(site)
    client.sign_in()
    bearer, bind = ("Authorization", f"Bearer {client.access}"), f"{BIND}={client.jar[BIND]}"
    assert site.ask("GET", "/me", [bearer, ("Cookie", "a=b"), ("Cookie", bind)]).status == 200
    form = ("Content-Type", "application/x-www-form-urlencoded")
    assert site.ask("POST", "/auth/guest", [form, ("Origin", "https://evil.example")]).status == 400


def test_a_long_device_is_cut(site: Site) -> None:
    client = Client(site, ProofKey(site.clock))
    assert client.guest().status == 200
    key = client.key
    assert key is not None
    pair = site.blocking.start(org="o", subject="s", device="d" * 5000, proof=key.request("POST", f"{ORIGIN}/in"))
    assert pair.token_type == "DPoP"
