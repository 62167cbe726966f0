"""The strict reader and the loading of keys: Wycheproof, the vectors of the RFCs, and the attacks on keys by name."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from bartizan import Misuse
from bartizan.core.encoding import base64url, unbase64url
from bartizan.credentials.jwks import MOST_KEYS, key_set, published_key_set
from bartizan.credentials.jws import ALGORITHMS, KeySet, Reader, new_signing_key, signing_key, verification_key
from bartizan.credentials.weak_keys import UnusableKey
from bartizan.errors import InvalidToken, Reason

VECTORS = Path(__file__).parent / "vectors"
WYCHEPROOF = VECTORS / "wycheproof"

# Overrides of USE.md: lost upstream; outside the alphabet; one key, one algorithm.
UNUSABLE = {367, 370}
REFUSED = {372, 373, 346, 350}


def groups(name: str) -> Iterator[dict[str, Any]]:
    content = json.loads((WYCHEPROOF / f"{name}.json").read_text("utf-8"))
    assert sum(len(group["tests"]) for group in content["testGroups"]) == content["numberOfTests"] > 0
    yield from content["testGroups"]


def reader() -> Reader:
    return Reader(algorithms=ALGORITHMS, typ=None, max_bytes=100_000, max_header=10_000)


def verdict(token: str, keys: KeySet) -> bool:
    try:
        reader().read(token, keys)
    except InvalidToken:
        return False
    return True


def test_wycheproof_json_web_signature() -> None:
    seen = {True: 0, False: 0}
    for group in groups("json_web_signature_test"):
        jwk = dict(group.get("public") or group["private"])
        if jwk.get("alg") == "ES521":
            jwk["alg"] = "ES512"
        try:
            keys = KeySet([verification_key(jwk, ALGORITHMS)])
        except UnusableKey:
            keys = KeySet()
        for test in group["tests"]:
            if test["tcId"] in UNUSABLE:
                continue
            good = test["result"] == "valid" and test["tcId"] not in REFUSED
            token = test["jws"] if isinstance(test["jws"], str) else json.dumps(test["jws"])
            assert verdict(token, keys) is good, (test["tcId"], test["comment"])
            seen[good] += 1
    assert seen == {True: 42, False: 357}


def test_wycheproof_jwe_is_refused_whole() -> None:
    count = 0
    for group in groups("json_web_encryption_test"):
        with pytest.raises(UnusableKey):
            verification_key(group.get("private") or group["public"], ALGORITHMS)
        signing = new_signing_key("HS256", os.urandom)
        for test in group["tests"]:
            token = test["jwe"] if isinstance(test["jwe"], str) else json.dumps(test["jwe"])
            assert not verdict(token, KeySet([signing.verification]))
            count += 1
    assert count == 139


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("ed25519_test", "EdDSA"),
        ("ecdsa_secp256r1_sha256_p1363_test", "ES256"),
        ("ecdsa_secp384r1_sha384_p1363_test", "ES384"),
        ("rsa_signature_2048_sha256_test", "RS256"),
        ("rsa_pss_2048_sha256_mgf1_32_test", "PS256"),
    ],
)
def test_wycheproof_primitives(name: str, algorithm: str) -> None:
    count = 0
    for group in groups(name):
        if algorithm == "RS256" and int(group["publicKey"]["publicExponent"], 16) < 65537:
            with pytest.raises(Misuse, match="exponent"):
                key_set([group["publicKeyPem"]], {algorithm})
            count += len(group["tests"])
            continue
        (key,) = key_set([group["publicKeyPem"]], {algorithm})
        for test in group["tests"]:
            try:
                key.check(bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
                good = True
            except InvalidToken:
                good = False
            if test["result"] != "acceptable":
                assert good is (test["result"] == "valid"), (test["tcId"], test["comment"])
            count += 1
    assert count > 100


def test_wycheproof_hmac() -> None:
    count = 0
    for group in groups("hmac_sha256_test"):
        for test in group["tests"]:
            jwk = {"kty": "oct", "k": base64url(bytes.fromhex(test["key"]))}
            if len(bytes.fromhex(test["key"])) < 32:
                with pytest.raises(UnusableKey):
                    verification_key(jwk, {"HS256"})
                continue
            key = verification_key(jwk, {"HS256"})
            good = test["result"] == "valid" and group["tagSize"] == 256
            try:
                key.check(bytes.fromhex(test["msg"]), bytes.fromhex(test["tag"]))
                assert good, test["tcId"]
            except InvalidToken:
                assert not good, test["tcId"]
            count += 1
    assert count > 50


def test_wycheproof_secp256k1_is_no_curve_of_ours() -> None:
    for group in groups("ecdsa_secp256k1_sha256_p1363_test"):
        point = bytes.fromhex(group["publicKey"]["uncompressed"])
        jwk = {"kty": "EC", "crv": "secp256k1", "x": base64url(point[1:33]), "y": base64url(point[33:])}
        for alg in ({}, {"alg": "ES256K"}, {"alg": "ES256"}):
            with pytest.raises(UnusableKey):
                verification_key({**jwk, **alg}, ALGORITHMS)
        with pytest.raises(Misuse):
            key_set([group["publicKeyPem"]], {"ES256"})


# --- RFC 7515, 7520, 7638, 7797, 8037 ---

RFC: dict[str, dict[str, Any]] = json.loads((VECTORS / "rfc" / "rfc7515_8037_7638.json").read_text("utf-8"))
COOKBOOK = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((VECTORS / "rfc").glob("cookbook_*.json"))
}


@pytest.mark.parametrize("name", [name for name, vector in RFC.items() if "jws" in vector])
def test_rfc_signatures(name: str) -> None:
    algorithm = name.rpartition(" ")[2]
    key = verification_key(RFC[name]["key"], {algorithm})
    found, payload = reader().read(RFC[name]["jws"], KeySet([key]))
    assert found is key
    assert payload
    signing = signing_key(RFC[name]["key"], {algorithm})
    if algorithm in {"HS256", "RS256", "EdDSA"}:  # the same signature every time
        message, _, third = RFC[name]["jws"].rpartition(".")
        assert base64url(signing.sign(message.encode())) == third


@pytest.mark.parametrize("name", [name for name, vector in RFC.items() if "thumbprint" in vector])
def test_rfc_7638(name: str) -> None:
    key = verification_key({k: v for k, v in RFC[name]["key"].items() if k not in {"alg", "kid"}}, {"RS256", "EdDSA"})
    assert key.thumbprint == key.kid == RFC[name]["thumbprint"]


def test_the_cookbook() -> None:
    seen = {"good": 0, "refused": 0}
    for vector in COOKBOOK.values():
        if "output" not in vector:
            continue
        algorithm = vector["input"]["alg"] if isinstance(vector["input"]["alg"], str) else "HS256"
        key = vector["input"]["key"]
        plain = "detached" not in vector["title"].lower() and '"b64"' not in json.dumps(vector["signing"])
        for form, output in vector["output"].items():
            token = output if isinstance(output, str) else json.dumps(output)
            if form == "compact" and plain:
                keys = KeySet([verification_key({k: v for k, v in key.items() if k != "alg"}, {algorithm})])
                payload = reader().read(token, keys)[1]
                assert payload == vector["input"]["payload"].encode()
                seen["good"] += 1
            else:
                one = key if isinstance(key, Mapping) else key[-1]
                keys = KeySet([verification_key({k: v for k, v in one.items() if k != "alg"}, {algorithm, "HS256"})])
                assert not verdict(token, keys)
                seen["refused"] += 1
    assert seen["good"] >= 5
    assert seen["refused"] >= 10


def test_cookbook_keys() -> None:
    for name, jwk in COOKBOOK.items():
        if "_jwk_" not in name:
            continue
        if "encryption" in name:
            with pytest.raises(UnusableKey):
                verification_key(jwk, ALGORITHMS)
        else:
            algorithm = {"EC": "ES512", "RSA": "PS384", "oct": "HS256"}[jwk["kty"]]
            assert verification_key(jwk, {algorithm}).kid == jwk["kid"]


# --- attacks on keys ---


def jwk_of(algorithm: str, *, private: bool = False) -> dict[str, Any]:
    key = new_signing_key(algorithm, os.urandom)
    return key.private_jwk() if private else dict(key.verification.public or key.private_jwk())


def rsa_jwk(bits: int = 2048, e: int = 65537) -> dict[str, Any]:
    numbers = rsa.generate_private_key(e, bits).public_key().public_numbers()
    return {
        "kty": "RSA",
        "n": base64url(numbers.n.to_bytes(bits // 8)),
        "e": base64url(numbers.e.to_bytes(3).lstrip(b"\0")),
    }


LOW_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_ed25519_low_order_key(point: str) -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(bytes.fromhex(point))}
    with pytest.raises(UnusableKey):
        verification_key(jwk, ALGORITHMS)


def test_the_points_of_low_order_are_those_of_the_curve() -> None:
    """By the curve's own arithmetic (RFC 8032 section 5.1): eight times each of them is the neutral one."""
    from bartizan.credentials.weak_keys import _LOW_ORDER

    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        k = d * a[0] * b[0] * a[1] * b[1] % p
        return (a[0] * b[1] + b[0] * a[1]) * pow(1 + k, -1, p) % p, (a[1] * b[1] + a[0] * b[0]) * pow(1 - k, -1, p) % p

    def x_of(y: int) -> int:
        square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        roots = [
            root
            for root in (pow(square, (p + 3) // 8, p), pow(square, (p + 3) // 8, p) * pow(2, (p - 1) // 4, p) % p)
            if root * root % p == square
        ]
        return roots[0]

    points = {(x, y) for y in _LOW_ORDER for x in {x_of(y), -x_of(y) % p}}
    assert len(points) == 8
    for point in points:
        double = add(point, point)
        assert add(add(double, double), add(double, double)) == (0, 1)


def without(jwk: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in jwk.items() if k not in names}


EC = jwk_of("ES256", private=True)
OKP = jwk_of("EdDSA", private=True)
RSA = rsa_jwk()
SECRET = {"kty": "oct", "k": base64url(os.urandom(32))}
OTHER_EC, OTHER_OKP = jwk_of("ES256", private=True), jwk_of("EdDSA", private=True)
E1 = base64url(b"\x01")

BAD: dict[str, Any] = {
    "not_an_object": [],
    "text": "key",
    "empty": {},
    "kty_missing": without(RSA, "kty"),
    "kty_list": {**RSA, "kty": ["RSA"]},
    "kty_other": {**RSA, "kty": "EC"},
    "hs_key_empty": {"kty": "oct", "k": ""},
    "hs_key_missing": {"kty": "oct"},
    "hs_key_1b": {"kty": "oct", "k": base64url(b"a")},
    "hs_key_31b": {"kty": "oct", "k": base64url(bytes(31))},
    "hs_key_ascii_password": {"kty": "oct", "k": "correct horse battery staple!!!!!!!"},
    "hs_key_is_a_pem": {"kty": "oct", "k": base64url(rsa.generate_private_key(65537, 2048).public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo))},
    "hs_key_is_a_jwk": {"kty": "oct", "k": base64url(json.dumps(RSA).encode())},
    "rsa_1024": rsa_jwk(1024),
    "rsa_e_1": {**RSA, "e": E1},
    "rsa_e_3": {**RSA, "e": base64url(b"\x03")},
    "rsa_e_even": {**RSA, "e": base64url(b"\x01\x00\x02")},
    "rsa_e_huge": {**RSA, "e": base64url(b"\x01" + bytes(15) + b"\x01")},
    "rsa_n_even": {**RSA, "n": base64url(bytes([0x80]) + bytes(255))},
    "rsa_n_leading_zero": {**RSA, "n": base64url(b"\0" + (unbase64url(RSA["n"]) or b""))},
    "rsa_n_16k": {**RSA, "n": base64url(b"\xff" * 2048)},
    "rsa_n_padded": {**RSA, "n": RSA["n"] + "=="},
    "rsa_n_number": {**RSA, "n": 12345},
    "rsa_n_missing": without(RSA, "n"),
    "rsa_no_alg_and_two_allowed": RSA,
    "rsa_three_primes": {**jwk_of("RS256", private=True), "oth": []},
    "ec_point_off_curve": {**without(EC, "d"), "y": EC["x"]},
    "ec_point_infinity": {**without(EC, "d"), "x": base64url(bytes(32)), "y": base64url(bytes(32))},
    "ec_x_short": {**without(EC, "d"), "x": base64url((unbase64url(EC["x"]) or b"")[:31])},
    "ec_crv_alg_mismatch": {**without(EC, "d"), "alg": "ES384"},
    "ec_crv_missing": without(EC, "d", "crv"),
    "ec_crv_secp256k1": {**without(EC, "d"), "crv": "secp256k1"},
    "ec_x_d_mismatch": {**EC, "d": OTHER_EC["d"]},
    "ec_y_missing": without(EC, "d", "y"),
    "okp_x_d_mismatch": {**OKP, "d": OTHER_OKP["d"]},
    "okp_x25519": {**without(OKP, "d"), "crv": "X25519"},
    "okp_ed448": {"kty": "OKP", "crv": "Ed448", "x": base64url(ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw())},
    "okp_x_short": {**without(OKP, "d"), "x": base64url(bytes(31))},
    "alg_none": {**without(OKP, "d"), "alg": "none"},
    "alg_null": {**without(OKP, "d"), "alg": None},
    "alg_of_another_type": {**without(OKP, "d"), "alg": "HS256"},
    "alg_of_encryption": {**RSA, "alg": "RSA-OAEP"},
    "use_enc": {**without(OKP, "d"), "use": "enc"},
    "use_null": {**without(OKP, "d"), "use": None},
    "key_ops_encrypt": {**without(OKP, "d"), "key_ops": ["verify", "encrypt"]},
    "key_ops_sign_alone": {**without(OKP, "d"), "key_ops": ["sign"]},
    "key_ops_twice": {**without(OKP, "d"), "key_ops": ["verify", "verify"]},
    "key_ops_empty": {**without(OKP, "d"), "key_ops": []},
    "key_ops_text": {**without(OKP, "d"), "key_ops": "verify"},
    "key_ops_number": {**without(OKP, "d"), "key_ops": 1},
    "key_ops_nested": {**without(OKP, "d"), "key_ops": [["verify"]]},
    "kid_int": {**without(OKP, "d"), "kid": 1},
    "kid_empty": {**without(OKP, "d"), "kid": ""},
    "kid_long": {**without(OKP, "d"), "kid": "a" * 300},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_key(name: str) -> None:
    """As a key, and in both kinds of set: ours is refused whole, of somebody else's it alone is left out."""
    bad = BAD[name]
    with pytest.raises(UnusableKey):
        verification_key(bad, ALGORITHMS)
    good = {**jwk_of("EdDSA"), "kid": "good"}
    with pytest.raises(Misuse):
        key_set({"keys": [good, bad]}, ALGORITHMS)
    left = published_key_set({"keys": [bad, good]}, ALGORITHMS)  # jwks_one_bad_key
    assert [key.kid for key in left] == ["good"]


def test_rsa_roca() -> None:
    from bartizan.credentials.weak_keys import _ROCA_PRIMES

    product = 2
    for prime in _ROCA_PRIMES:
        product *= prime
    # An odd number that is a power of 65537 modulo every small prime, as the broken generator's are.
    n = pow(65537, 7, product // 2)
    n += product // 2 * (2**2047 // (product // 2) + 1)
    n += product // 2 * (1 - n % 2)
    assert n.bit_length() == 2048
    jwk = {"kty": "RSA", "n": base64url(n.to_bytes(256)), "e": "AQAB"}
    with pytest.raises(UnusableKey, match="ROCA"):
        verification_key(jwk, {"RS256"})
    assert verification_key(RSA, {"RS256"}).algorithm == "RS256"


def test_rsa_public_private_mismatch() -> None:
    a, b = jwk_of("RS256", private=True), jwk_of("RS256", private=True)
    for name in ("d", "p", "q", "dp", "dq", "qi", "n"):
        with pytest.raises(UnusableKey):
            signing_key({**a, name: b[name]}, {"RS256"})
    assert signing_key(a, {"RS256"}).verification.algorithm == "RS256"


def test_oct_in_public_jwks_and_private_member_in_published_jwks() -> None:
    document = {"keys": [SECRET, {**OKP, "kid": "private"}, {**jwk_of("EdDSA"), "kid": "good"}]}
    assert [key.kid for key in published_key_set(document, ALGORITHMS)] == ["good"]
    assert len(published_key_set(json.dumps({"keys": [SECRET]}).encode(), ALGORITHMS)) == 0


def test_mixed_symmetry_set() -> None:
    with pytest.raises(Misuse, match="secret and public"):
        key_set({"keys": [SECRET, jwk_of("EdDSA")]}, ALGORITHMS)


def test_kid_duplicate_in_set() -> None:
    a, b = {**jwk_of("EdDSA"), "kid": "a"}, {**jwk_of("ES256"), "kid": "a"}
    with pytest.raises(Misuse, match="same kid"):
        key_set({"keys": [a, b]}, ALGORITHMS)
    left = published_key_set({"keys": [a, b, {**jwk_of("EdDSA"), "kid": "b"}]}, ALGORITHMS)
    assert [key.kid for key in left] == ["b"]
    assert [key.kid for key in published_key_set({"keys": [a, {**b, "kty": "?"}]}, ALGORITHMS)] == []


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]', b"\xff", b'{"keys":[],"keys":[]}', b"[" * 100_000],
)
def test_no_jwks(document: bytes) -> None:
    with pytest.raises(UnusableKey):
        published_key_set(document, ALGORITHMS)


def test_a_set_has_a_limit() -> None:
    with pytest.raises(UnusableKey):
        published_key_set({"keys": [jwk_of("EdDSA")] * (MOST_KEYS + 1)}, ALGORITHMS)
    assert len(published_key_set({"keys": [*[{}] * 50, 1, None, "x", [], jwk_of("EdDSA")]}, ALGORITHMS)) == 1


@pytest.mark.parametrize(
    "keys",
    [
        {}, {"keys": []}, [], "text", b"bytes", [b"bytes"], ["password"], ["correct horse battery staple, thirty-two"],
        ["-----BEGIN CERTIFICATE-----\n"], ["-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"], ["[]"], [None], ["{}"],
    ],
)  # fmt: skip
def test_no_keys_is_misuse(keys: Any) -> None:
    with pytest.raises(Misuse, match="keys"):
        key_set(keys, ALGORITHMS)


def test_pem_and_jwk_texts() -> None:
    made: dict[str, Any] = {
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "RS256": rsa.generate_private_key(65537, 2048),
    }
    for algorithm, private in made.items():
        pem = private.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo).decode()
        (key,) = key_set([pem], {algorithm})
        (again,) = key_set([json.dumps(dict(key.public or {}))], {algorithm})
        assert again.thumbprint == key.thumbprint == key.kid
        # A private key is not what verifies, and neither is the other algorithm's.
        secret = private.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()).decode()
        for bad in ([secret], [pem.replace("PUBLIC", "RSA PUBLIC")]):
            with pytest.raises(Misuse):
                key_set(bad, {algorithm})
        with pytest.raises(Misuse):
            key_set([pem], {"EdDSA"})
    p256k1 = ec.generate_private_key(ec.SECP256K1()).public_key()
    with pytest.raises(Misuse):
        key_set([p256k1.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo).decode()], ALGORITHMS)


@pytest.mark.parametrize("algorithms", [(), "EdDSA", {"none"}, {"EdDSA", "None"}, {"HS512"}, {"ES256K"}])
def test_an_allow_list_is_not_empty_and_holds_what_is_known(algorithms: Any) -> None:
    from bartizan.credentials.jws import checked_algorithms

    with pytest.raises(Misuse):
        checked_algorithms(algorithms)


def test_the_allow_list_is_held_against_the_key_too() -> None:
    key = new_signing_key("ES256", os.urandom)
    head = base64url(json.dumps({"alg": "ES256", "kid": key.verification.kid}).encode())
    token = f"{head}.e30.{base64url(key.sign(f'{head}.e30'.encode()))}"
    keys = KeySet([key.verification])
    assert reader().read(token, keys)[1] == b"{}"
    narrow = Reader(algorithms={"EdDSA"}, typ=None, max_bytes=8192, max_header=256)
    with pytest.raises(InvalidToken) as caught:
        narrow.read(token, keys)
    assert caught.value.reason is Reason.WRONG_ALGORITHM


def test_key_alg_mismatch_ps384_on_ps256() -> None:
    key = verification_key({**RSA, "alg": "PS256", "kid": "a"}, ALGORITHMS)
    for alg in ("PS384", "RS256", "PS512", "HS256"):
        head = base64url(json.dumps({"alg": alg, "kid": "a"}).encode())
        with pytest.raises(InvalidToken) as caught:
            reader().read(f"{head}.e30.AAAA", KeySet([key]))
        assert caught.value.reason is Reason.WRONG_ALGORITHM


def test_a_kid_finds_its_key_and_no_other() -> None:
    a, b = (new_signing_key("EdDSA", os.urandom).verification for _ in range(2))
    named = verification_key({**dict(b.public or {}), "kid": "b"}, {"EdDSA"})
    both = KeySet([a, named])
    assert both.find("b") is named
    assert both.find(a.kid) is a
    assert both.find(None) is both.find("c") is None
    assert KeySet([named]).find(None) is named
    assert KeySet([named]).find("c") is None
    unnamed = verification_key(without(dict(b.public or {}), "kid"), {"EdDSA"})
    assert KeySet([unnamed]).find("whatever its issuer calls it") is unnamed
    assert KeySet([a, unnamed]).find("whatever its issuer calls it") is None


def test_a_kid_that_names_other_numbers_is_another_key() -> None:
    a, b = ({**jwk_of("EdDSA"), "kid": "same"} for _ in range(2))
    first, again, other = (KeySet([verification_key(jwk, {"EdDSA"})]) for jwk in (a, a, b))
    (key,) = first
    assert first.holds(key)
    assert again.holds(key)
    assert not other.holds(key)
    assert not KeySet().holds(key)


def test_keys_show_nothing() -> None:
    import copy
    import pickle

    for algorithm in ("EdDSA", "HS256"):
        key = new_signing_key(algorithm, os.urandom)
        secret = key.private_jwk()["k" if algorithm == "HS256" else "d"]
        assert secret not in f"{key!r} {key.verification!r} {KeySet([key.verification])!r}"
        for value in (key, key.verification):
            for act in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(Misuse):
                    act(value)
    assert new_signing_key("HS256", os.urandom).verification.public is None
    assert (
        not {"d", "p", "q", "dp", "dq", "qi", "k"}
        & (new_signing_key("RS256", os.urandom).verification.public or {"k": ""}).keys()
    )


@pytest.mark.parametrize("given", [None, 1, b"a.b.c", ["a"], "\ud800.a.b", "é.é.é"])
def test_whatever_is_given_is_read_or_refused(given: Any) -> None:
    with pytest.raises(InvalidToken):
        reader().read(given, KeySet())


def test_headers_are_remembered_only_of_tokens_that_verified() -> None:
    key = new_signing_key("EdDSA", os.urandom)
    keys, one = KeySet([key.verification]), reader()
    for i in range(200):
        head = base64url(json.dumps({"alg": "EdDSA", "kid": key.verification.kid, "x": i}).encode())
        with pytest.raises(InvalidToken):
            one.read(f"{head}.e30.AAAA", keys)
        assert not one._known
    for i in range(200):
        head = base64url(json.dumps({"alg": "EdDSA", "kid": key.verification.kid, "x": i}).encode())
        one.read(f"{head}.e30.{base64url(key.sign(f'{head}.e30'.encode()))}", keys)
        assert len(one._known) <= 64
