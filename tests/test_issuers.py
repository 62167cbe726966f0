"""What an outside issuer may assert. Each test carries the name of its attack."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st
from outside import NOW, URL, Provider

from bartizan.core.drive import run
from bartizan.core.encoding import base64url
from bartizan.core.events import AuditEvent
from bartizan.core.ports import SteppedClock
from bartizan.core.principal import MemberPrincipal
from bartizan.credentials.issuer_keys import MENTIONS, Issuers, Outside, named_in
from bartizan.credentials.issuers import Issuer
from bartizan.errors import InvalidToken, Misuse, Reason
from bartizan.stores.waits import BlockingWaits
from bartizan.testing import FakeClock


class Silent:
    def note(self, event: AuditEvent, /) -> str:
        """Nobody listens."""
        return ""

    def within(self, event: AuditEvent, /) -> tuple[()]:
        return ()


def outside(*issuers: Issuer, now: int = NOW) -> Outside:
    clock = SteppedClock(FakeClock(now=now))
    return Outside(issuers, environment="live", clock=clock, journal=Silent(), wake=lambda: None)


def service(*issuers: Issuer, now: int = NOW) -> Issuers:
    return outside(*issuers, now=now).form(None, BlockingWaits())


def trusting(provider: Provider, **fields: Any) -> Issuer:
    given: dict[str, Any] = {"organizations": {"org_1"}, "audience": "dashboard", "jwks": provider.document, **fields}
    return Issuer(provider.url, **given)


def member(token: str, *issuers: Issuer, now: int = NOW) -> MemberPrincipal:
    return run(service(*issuers, now=now).authenticate(token.encode()))


def refused(token: str, *issuers: Issuer, now: int = NOW) -> Reason:
    with pytest.raises(InvalidToken) as caught:
        member(token, *issuers, now=now)
    assert caught.value.status == 401
    return caught.value.reason


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "ES384", "RS256"])
def test_a_member(algorithm: str) -> None:
    provider = Provider(algorithm=algorithm)
    issuer = trusting(provider, roles={"Admins": "owner", "viewer": "viewer"}, factors={"mfa": "otp"})
    token = provider.token(roles=["Admins", "unknown"], amr=["pwd", "mfa"], auth_time=NOW - 60)
    found = member(token, issuer)
    assert (found.kind, found.org, found.environment, found.issuer, found.subject) == (
        "member",
        "org_1",
        "live",
        URL,
        "user_1",
    )
    assert (found.roles, dict(found.factors), found.expires_at) == (frozenset({"owner"}), {"otp": NOW - 60}, NOW + 600)
    assert (found.scopes, found.actor) == (frozenset(), f"member:{URL} user_1")


# Threats 14


def test_issuer_a_asserts_org_b() -> None:
    """Each tenant's provider signs what it likes: it speaks for its own organizations alone."""
    a, b = Provider("https://a.example"), Provider("https://b.example")
    both = trusting(a, organizations={"org_a"}), trusting(b, organizations={"org_b"})
    assert member(a.token(org_id="org_a"), *both).org == "org_a"
    assert refused(a.token(org_id="org_b"), *both) is Reason.FOREIGN_ORGANIZATION
    assert member(a.token(org_id=None), *both).org == "org_a"
    others: list[Any] = [["org_a"], 1, True, {}, "", "org_a "]
    for value in others:
        assert refused(a.token(org_id=value), *both) is Reason.FOREIGN_ORGANIZATION


def test_an_issuer_of_several_organizations_names_one(provider: Provider) -> None:
    issuer = trusting(provider, organizations={"org_1", "org_2"}, organization_claim="tenant")
    assert member(provider.token(tenant="org_2"), issuer).org == "org_2"
    assert refused(provider.token(), issuer) is Reason.FOREIGN_ORGANIZATION


def test_issuer_unknown_role(provider: Provider) -> None:
    """An unknown role is none, and nobody is an owner whom the program did not name one."""
    issuer = trusting(provider, roles={"viewer": "viewer"})
    for roles in (["owner"], "owner", ["viewer", "owner", 1, None, ["viewer"]], {"viewer": True}, 1, None):
        assert member(provider.token(roles=roles), issuer).roles <= {"viewer"}
    assert not member(provider.token(roles=["owner"]), trusting(provider)).roles
    assert member(provider.token(roles="viewer"), issuer).roles == {"viewer"}
    assert member(
        provider.token(groups=["viewer"]), trusting(provider, roles={"viewer": "viewer"}, role_claim="groups")
    ).roles == {"viewer"}


def test_same_kid_two_issuers() -> None:
    """Keys are looked up inside the issuer that `iss` names, so another's key of the same name is of no use."""
    a, b = Provider("https://a.example"), Provider("https://b.example")
    documents = []
    for each in (a, b):
        documents.append({"keys": [{**each.document["keys"][0], "kid": "key-1"}]})
    both = trusting(a, jwks=documents[0]), trusting(b, jwks=documents[1])
    named: Mapping[str, Any] = {"kid": "key-1"}
    assert member(a.token(header=named), *both).issuer == a.url
    assert member(b.token(header=named), *both).issuer == b.url
    assert refused(a.token(header=named, iss=b.url), *both) is Reason.WRONG_SIGNATURE
    assert refused(a.token(header=named, iss="https://c.example"), *both) is Reason.WRONG_ISSUER


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "n"},
        {"at_hash": "h"},
        {"c_hash": "h"},
        {"s_hash": "h"},
        {"token_use": "id"},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": ["Bearer"]},
        {"events": {}},
    ],
)
def test_id_token_at_api(provider: Provider, claims: dict[str, Any]) -> None:
    """An ID token tells its client who signed in; for some issuers its audience is ours all the same."""
    lenient = trusting(provider, typ="JWT")
    header: Mapping[str, Any] = {"typ": "JWT"}
    member(provider.token(header=header), lenient)
    assert refused(provider.token(header=header, **claims), lenient) in {Reason.CLAIM_INVALID, Reason.WRONG_TOKEN_TYPE}


@pytest.mark.parametrize("typ", ["JWT", None, "rt+jwt", "id_token", "logout+jwt", ""])
def test_id_token_without_a_type_policy(provider: Provider, typ: str | None) -> None:
    """Nothing but `at+jwt` is an access token, unless the program says that this issuer has no such type."""
    assert refused(provider.token(header={"typ": typ}), trusting(provider)) is Reason.WRONG_TOKEN_TYPE
    if typ in {"JWT", None, ""}:
        member(provider.token(header={"typ": typ}), trusting(provider, typ="JWT"))
    member(provider.token(header={"typ": "application/AT+jwt"}), trusting(provider))


def test_clerk_without_aud_needs_azp(provider: Provider) -> None:
    with pytest.raises(Misuse, match="audience= or authorized_parties="):
        trusting(provider, audience=None)
    issuer = trusting(provider, audience=None, authorized_parties={"https://dash.example"})
    member(provider.token(aud=None, azp="https://dash.example"), issuer)
    for azp in (None, "https://evil.example", ["https://dash.example"], True):
        assert refused(provider.token(aud=None, azp=azp), issuer) is Reason.WRONG_AUDIENCE
    both = trusting(provider, authorized_parties={"app"})
    assert refused(provider.token(azp="app", aud="other"), both) is Reason.WRONG_AUDIENCE
    assert refused(provider.token(), both) is Reason.WRONG_AUDIENCE
    member(provider.token(azp="app", aud=["other", "dashboard"]), both)


# Organizations by a function


def test_a_function_gives_the_organization(provider: Provider) -> None:
    issuer = trusting(provider, organizations=lambda claims: "org_" + claims["tenant"]["id"])
    assert member(provider.token(tenant={"id": "7"}), issuer).org == "org_7"


def test_a_function_sees_verified_claims_and_changes_none(provider: Provider) -> None:
    seen: list[Mapping[str, Any]] = []

    def mapping(claims: Any) -> str:
        seen.append(claims)
        claims["sub"] = "admin"
        return "org_1"

    assert refused(provider.token(), trusting(provider, organizations=mapping)) is Reason.MAPPING_FAILED
    forged = provider.token()[:-4] + "AAAA"
    assert refused(forged, trusting(provider, organizations=mapping)) is Reason.WRONG_SIGNATURE
    assert len(seen) == 1


@pytest.mark.parametrize("given", ["", None, 7, b"org_1", ["org_1"], True, "a" * 129, "org\n1"])
def test_mapping_failed(provider: Provider, given: Any) -> None:
    assert refused(provider.token(), trusting(provider, organizations=lambda _: given)) is Reason.MAPPING_FAILED


def test_mapping_raises(provider: Provider) -> None:
    with pytest.raises(InvalidToken) as caught:
        member(provider.token(), trusting(provider, organizations=lambda claims: claims["no"]))
    assert caught.value.reason is Reason.MAPPING_FAILED
    assert caught.value.__suppress_context__


# Factors


def test_factors_only_through_the_map(provider: Provider) -> None:
    token = provider.token(amr=["otp", "hwk", 1], auth_time=NOW - 5)
    assert dict(member(token, trusting(provider)).factors) == {}
    assert dict(member(token, trusting(provider, factors={"otp": "otp"})).factors) == {"otp": NOW - 5}
    assert dict(member(provider.token(amr=["otp"]), trusting(provider, factors={"otp": "otp"})).factors) == {"otp": 0}
    assert dict(member(provider.token(amr="otp"), trusting(provider, factors={"otp": "otp"})).factors) == {"otp": 0}


@pytest.mark.parametrize("when", [NOW + 6, -1, 1.5, True, "1", [NOW]])
def test_auth_time_that_is_none(provider: Provider, when: Any) -> None:
    assert refused(provider.token(auth_time=when), trusting(provider)) is Reason.CLAIM_INVALID


# Everything else that a token must not be


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": URL + "/"}, Reason.WRONG_ISSUER),
        ({"iss": [URL]}, Reason.WRONG_ISSUER),
        ({"iss": None}, Reason.WRONG_ISSUER),
        ({"aud": "other"}, Reason.WRONG_AUDIENCE),
        ({"aud": []}, Reason.WRONG_AUDIENCE),
        ({"aud": None}, Reason.WRONG_AUDIENCE),
        ({"sub": None}, Reason.CLAIM_INVALID),
        ({"sub": 7}, Reason.CLAIM_INVALID),
        ({"exp": None}, Reason.CLAIM_INVALID),
        ({"exp": NOW - 5}, Reason.CLAIM_INVALID),
        ({"iat": NOW - 100, "exp": NOW - 5}, Reason.TOKEN_EXPIRED),
        ({"nbf": NOW + 6}, Reason.TOKEN_NOT_YET),
        ({"exp": NOW + 86401}, Reason.TOKEN_LIVES_TOO_LONG),
        ({"cnf": {"jkt": "x"}}, Reason.TOKEN_BOUND),
    ],
)
def test_claims(provider: Provider, claims: dict[str, Any], reason: Reason) -> None:
    assert refused(provider.token(**claims), trusting(provider)) is reason


@pytest.mark.parametrize(
    "mangle",
    [
        lambda t: t[:-1],
        lambda t: t + ".",
        lambda t: t + "=",
        lambda t: " " + t,
        lambda t: t.replace(".", "..", 1),
        lambda t: "a" * 9000,
        lambda t: t.split(".")[0],
        lambda t: "eyJ.e30.",
        lambda t: "eyJ.W10.",
        lambda t: "é" + t,
        lambda t: "",
    ],
)
def test_what_is_no_token(provider: Provider, mangle: Any) -> None:
    refused(mangle(provider.token()), trusting(provider))


@pytest.mark.parametrize("payload", ["e30", "W10", "bnVsbA", "eyJpc3MiOjF9", "_w", "ey", "e30=", "*"])
def test_what_names_no_issuer(provider: Provider, payload: str) -> None:
    several = trusting(provider), trusting(Provider("https://b.example"))
    header, _, signature = provider.token().split(".")
    assert refused(f"{header}.{payload}.{signature}", *several) is Reason.WRONG_ISSUER
    assert refused(f"{'A' * 513}.e30.{signature}", *several) is Reason.WRONG_ISSUER
    assert refused(f"{header}.{payload}.{signature}.", *several) is Reason.WRONG_ISSUER


def test_a_key_in_the_header_is_not_read(provider: Provider) -> None:
    evil = Provider()
    for header in (
        {"jwk": evil.document["keys"][0]},
        {"jku": "https://evil.example/"},
        {"x5u": "https://evil.example/"},
    ):
        assert refused(evil.token(header={**header, "kid": provider.kid}), trusting(provider)) is Reason.WRONG_SIGNATURE


def test_the_header_may_be_twice_as_long_as_ours(provider: Provider) -> None:
    document = {"keys": [{**provider.document["keys"][0], "kid": "k" * 150}]}
    token = provider.token(header={"kid": "k" * 150, "x5t#S256": "a" * 43, "x": "b" * 60})
    assert 256 < len(token.split(".")[0]) < 512
    member(token, trusting(provider, jwks=document))
    assert refused(provider.token(header={"x": "b" * 400}), trusting(provider)) is Reason.MALFORMED_TOKEN


def test_a_token_is_over_when_it_ends(provider: Provider) -> None:
    token = provider.token()
    member(token, trusting(provider), now=NOW + 604)
    assert refused(token, trusting(provider), now=NOW + 605) is Reason.TOKEN_EXPIRED


def test_the_signature_that_is_remembered_is_not_the_token(provider: Provider) -> None:
    """Whoever keeps a good signature and changes the rest gets what any forger gets."""
    a = Provider("https://a.example")
    both = service(trusting(provider), trusting(a))
    good = provider.token()
    assert run(both.authenticate(good.encode())).issuer == provider.url
    header, _, signature = good.split(".")
    for other in (provider.token(sub="admin"), a.token(), a.token(sub="admin")):  # each with the tail that is known
        forged = ".".join([header, other.split(".")[1], signature])
        with pytest.raises(InvalidToken):
            run(both.authenticate(forged.encode()))


A, B, C = (Provider(f"https://{name}.example") for name in "abc")


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ('{"iss":"https://a.example"}', "a"),
        ('{"iss":"https://b.example","sub":"x"}', "b"),
        ('{ "sub" : 1,\n\t"iss" :\r "https://a.example" }', "a"),
        ('{"iss":"https:\\/\\/a.example"}', "a"),
        ('{"act":{"iss":"https://b.example","act":{"iss":"https://b.example"}},"iss":"https://a.example"}', "a"),
        ('{"iss":"https://a.example","act":{"iss":"https://b.example"}}', "a"),
        ('{"act":[{"iss":"https://b.example"}],"iss":"https://a.example"}', "a"),
        ('{"jti":"}{{","iss":"https://a.example"}', "a"),
        ('{"act":{"iss":"https://z.example"},"iss":"https://b.example"}', "b"),
        ('{"txt":"}","act":{"iss":"https://b.example"},"iss":"https://a.example"}', "a"),
        ('{"act":{"iss":"https://a.example"},"iss":"https://a.example"}', "a"),
        ('{"act":{"iss":"https://b.example"},"act":{"iss":"https://a.example"}}', None),
        ('{"act":{"iss":"https://b.example"},"iss":["https://a.example"],"x":{"iss":"https://a.example"}}', None),
        ('{"x":[' + "{}," * 100 + '{"iss":"https://b.example"}],"iss":"https://a.example"}', "a"),
        ('{"x":[' + "1," * 100 + '{"iss":"https://b.example"},{"iss":"https://a.example"}]}', None),
        ('{"x":[' + "{}," * 400 + '{"iss":"https://a.example"}],"iss":"https://a.example"}', "a"),
        ('{"x":"\\"iss\\":\\"https://b.example\\"","iss":"https://a.example"}', "a"),
        ('{"x":"iss","iss":"https://a.example"}', "a"),
        ('{"iss":"https://z.example"}', None),
        ('{"iss":"https://a.example/"}', None),
        ('{"iss":["https://a.example"]}', None),
        ('{"\\u0069ss":"https://a.example"}', None),
        ("{}", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("extra", range(3))
def test_the_issuer_that_a_payload_names(payload: str, named: str | None, extra: int) -> None:
    both = service(trusting(A), trusting(B))
    text = f"e30.{base64url(payload.encode() + b' ' * extra)}.AA".encode()
    found = both.named(text)
    assert (found and found.issuer.url) == (named and f"https://{named}.example")
    assert both.named(text) is found  # asked again for the very same bytes


urls = st.sampled_from([A.url, B.url, C.url])
values = st.recursive(
    st.none() | st.integers(0, 9) | st.text(st.characters(codec="utf-8"), max_size=5) | urls,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["iss", "act", "x", '"iss":', "\\"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["sub", "act", "may_act", "z"]), values), urls, st.booleans(), st.data())
def test_the_issuer_is_found_as_a_reader_of_json_finds_it(
    claims: dict[str, Any], url: str, escaped: bool, data: st.DataObject
) -> None:
    names = data.draw(st.permutations([*claims, "iss"]))
    said = {**claims, "iss": url}
    text = json.dumps({name: said[name] for name in names}, indent=data.draw(st.sampled_from([None, 1])))
    text = text.replace("/", "\\/") if escaped else text
    known = {url.encode(): keys for url, keys in outside(trusting(A), trusting(B)).known.items()}
    if text.count('"iss"') <= MENTIONS:
        found = named_in(f"e30.{base64url(text.encode())}.AA".encode(), known)
        assert found is known.get(url.encode()) or (url == C.url and found is not None)  # which refuses it


@given(st.binary(max_size=200))
def test_whatever_is_presented_names_an_issuer_or_none(presented: bytes) -> None:
    known = {url.encode(): keys for url, keys in outside(trusting(A), trusting(B)).known.items()}
    assert named_in(presented, known) is None


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("inner", ["[],", "{},", '"iss":"https://a.example",', '{"iss":"https://b.example"},'])
def test_no_json_is_read_before_a_signature_holds(several: bool, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 KiB of brackets cost a stranger's token hundreds of microseconds in a reader of JSON."""
    known = service(trusting(A), trusting(B)) if several else service(trusting(A))
    run(known.authenticate(A.token().encode()))  # the header is known from now on, and that token's signature
    head, _, signature = A.token(sub="another").split(".")
    body = base64url(('{"iss":"https://a.example","x":[' + inner * (5500 // len(inner)) + "1]}").encode())
    read: list[bytes] = []
    for module in ("tokens", "jws", "issuer_keys"):
        monkeypatch.setattr(f"bartizan.credentials.{module}.parsed", lambda data: read.append(data))
    with pytest.raises(InvalidToken) as caught:
        run(known.authenticate(f"{head}.{body}.{signature}".encode()))
    assert (caught.value.reason, read) == (Reason.WRONG_SIGNATURE, [])


def test_a_remembered_member_is_held_against_clock_and_keys() -> None:
    provider = Provider()
    clock = SteppedClock(fake := FakeClock(now=NOW))
    held = Outside([trusting(provider)], environment="live", clock=clock, journal=Silent(), wake=lambda: None)
    members, token = held.form(None, BlockingWaits()), provider.token().encode()
    first = run(members.authenticate(token))
    assert run(members.authenticate(token)) is first
    fake.advance(605)
    with pytest.raises(InvalidToken):
        run(members.authenticate(token))


def test_a_function_is_asked_each_time() -> None:
    """What it answers may change: a tenant that has left is out at once."""
    gone: set[str] = set()

    def tenant(claims: Mapping[str, Any]) -> str:
        return "" if claims["org_id"] in gone else str(claims["org_id"])

    provider = Provider()
    members, token = service(trusting(provider, organizations=tenant)), provider.token().encode()
    assert run(members.authenticate(token)).org == run(members.authenticate(token)).org == "org_1"
    gone.add("org_1")
    with pytest.raises(InvalidToken) as caught:
        run(members.authenticate(token))
    assert caught.value.reason is Reason.MAPPING_FAILED


def test_many_members_are_remembered_and_not_more(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bartizan.credentials.issuer_keys.MANY_ROUTES", 2)
    both = service(trusting(provider))
    for n in range(5):
        assert run(both.authenticate(provider.token(sub=f"user_{n}").encode())).subject == f"user_{n}"
    assert len(both._routes) <= 2


# Misuse


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://login.example"},
        {"url": "https://login.example?tenant=1"},
        {"url": "https://login.example#a"},
        {"url": "login.example"},
        {"url": 7},
        {"jwks": "http://login.example/keys"},
        {"jwks": "https://u:p@login.example/keys"},
        {"jwks": {}},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}},
        {"organizations": ()},
        {"organizations": "org_1"},
        {"organizations": {""}},
        {"organizations": None},
        {"audience": ()},
        {"audience": ""},
        {"audience": [""]},
        {"authorized_parties": ()},
        {"roles": ["viewer"]},
        {"roles": {"viewer": ""}},
        {"roles": {"viewer": 1}},
        {"factors": {1: "otp"}},
        {"algorithms": ()},
        {"algorithms": ("HS256",)},
        {"algorithms": ("none",)},
        {"algorithms": "RS256"},
        {"typ": ""},
        {"max_lifetime": 0},
    ],
)
def test_misuse(provider: Provider, fields: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "url": URL,
        "organizations": {"org_1"},
        "audience": "dashboard",
        "jwks": provider.document,
        **fields,
    }
    with pytest.raises(Misuse):
        Issuer(given.pop("url"), **given)


def test_an_async_function_is_misuse(provider: Provider) -> None:
    async def mapping(_: Any) -> str:
        return "org_1"

    with pytest.raises(Misuse, match="plain"):
        trusting(provider, organizations=mapping)


def test_the_same_issuer_twice_is_misuse(provider: Provider) -> None:
    with pytest.raises(Misuse, match="same url"):
        service(trusting(provider), trusting(provider))
    with pytest.raises(Misuse, match="sequence"):
        outside("https://login.example")  # type: ignore[arg-type]


def test_nothing_of_a_token_or_key_is_printed(provider: Provider) -> None:
    issuer = trusting(provider)
    assert provider.kid not in repr(issuer)
    assert repr(next(iter(service(issuer).known.values()))) == f"<IssuerKeys of {URL}>"
    assert "user_1" in repr(member(provider.token(), issuer))
