"""Tokens as an attacker makes them: each under the name of its attack, from the keys and claims of a real issuer."""

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from bartizan.core.drive import run
from bartizan.core.encoding import base64url, unbase64url
from bartizan.credentials.jws import SigningKey
from bartizan.testing import Kit

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class Forge:
    """An issuer's signing key, a token of it that is good, and what is made of both."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.key: SigningKey = run(kit.security._shared.blocking_side.tokens.signing.signing())
        self.good = kit.token(org="org_1", subject="cons_1")
        head, body, _ = self.good.split(".")
        self.header: dict[str, Any] = json.loads(unbase64url(head) or b"")
        self.claims: dict[str, Any] = json.loads(unbase64url(body) or b"")

    @property
    def now(self) -> int:
        return self.kit.clock()

    def signed(self, head: str, body: str) -> str:
        return f"{head}.{body}.{base64url(self.key.sign(f'{head}.{body}'.encode()))}"

    def raw(self, header: Any, payload: Any) -> str:
        """A token of these bytes or values, with a signature that holds."""
        return self.signed(base64url(text(header)), base64url(text(payload)))

    def respelled(self, spell: Callable[[str], str], extra: str = "", *, standard: bool = False) -> str:
        """A good token but for the spelling of its payload, which is signed as it is spelled."""
        payloads = (text({**self.claims, "x": extra + "a" * width}) for width in range(3))
        payload = next(payload for payload in payloads if len(payload) % 3 == 1)  # there are bits to spare
        body = base64.b64encode(payload).decode().rstrip("=") if standard else base64url(payload)
        return self.signed(base64url(text(self.header)), spell(body))

    def with_header(self, **changes: Any) -> str:
        return self.raw({k: v for k, v in {**self.header, **changes}.items() if v is not ...}, self.claims)

    def with_claims(self, **changes: Any) -> str:
        return self.raw(self.header, {k: v for k, v in {**self.claims, **changes}.items() if v is not ...})

    def by_hmac(self, secret: bytes) -> str:
        """The confusion of algorithms: a public text as the secret of HMAC."""
        head = base64url(text({**self.header, "alg": "HS256"}))
        body = base64url(text(self.claims))
        return f"{head}.{body}.{base64url(hmac.digest(secret, f'{head}.{body}'.encode(), 'sha256'))}"

    def by_another(self, key: SigningKey, **header: Any) -> str:
        head = base64url(text({**self.header, "alg": key.verification.algorithm, **header}))
        body = base64url(text(self.claims))
        return f"{head}.{body}.{base64url(key.sign(f'{head}.{body}'.encode()))}"

    def unsigned(self, alg: Any, signature: str = "") -> str:
        head = {k: v for k, v in {**self.header, "alg": alg}.items() if v is not ...}
        return f"{base64url(text(head))}.{base64url(text(self.claims))}.{signature}"


def _public(forge: Forge) -> Any:
    return forge.key._key.public_key()


def confusions(forge: Forge) -> dict[str, bytes]:
    """The public key in every text that a library has taken for a secret."""
    public, jwk = _public(forge), dict(forge.key.verification.public or {})
    pem = public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(ser.Encoding.DER, ser.PublicFormat.SubjectPublicKeyInfo)
    found = {
        "pem": pem,
        "pem_stripped": pem.strip(),
        "pem_with_spaces": pem.replace(b"\n", b" \n"),
        "der": der,
        "ssh": public.public_bytes(ser.Encoding.OpenSSH, ser.PublicFormat.OpenSSH),
        "jwk": text(jwk),
        "jwks": text({"keys": [jwk]}),
        "nested_jwk": text({"cnf": {"jwk": jwk}}),
        "jwk_array": text([jwk]),
        "b64der": base64.b64encode(der),
        "hexder": der.hex().encode(),
        "kid": forge.key.verification.kid.encode(),
        "empty": b"",
    }
    for name, member in (("modulus", "n"), ("ec_point", "x"), ("ed25519_raw", "x")):
        if member in jwk:
            found[name] = unbase64url(jwk[member]) or b""
    if jwk["kty"] == "RSA":
        found["pkcs1"] = public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.PKCS1)
    return found


def _padded(token: str) -> str:
    return ".".join(part + "=" * (-len(part) % 4) for part in token.split("."))


def _unused_bits(token: str) -> str:
    """The last character with one of the bits that say nothing."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) ^ 1]


def _between(token: str, place: int, what: str) -> str:
    parts = token.split(".")
    parts[place] = parts[place][:4] + what + parts[place][4:]
    return ".".join(parts)


FORMS: Mapping[str, Callable[[Forge], str]] = {
    "alg_none": lambda f: f.unsigned("none"),
    "alg_None": lambda f: f.unsigned("None"),
    "alg_nOnE": lambda f: f.unsigned("nOnE"),
    "alg_NONE": lambda f: f.unsigned("NONE"),
    "alg_none_with_signature": lambda f: f.unsigned("none", f.good.split(".")[2]),
    "alg_none_blank_signature": lambda f: f.unsigned("none", "AA"),
    "alg_missing": lambda f: f.with_header(alg=...),
    "alg_null": lambda f: f.with_header(alg=None),
    "alg_int": lambda f: f.with_header(alg=1),
    "alg_list": lambda f: f.with_header(alg=[f.header["alg"]]),
    "alg_empty": lambda f: f.with_header(alg=""),
    "alg_lowercase": lambda f: f.with_header(alg=f.header["alg"].lower()),
    "alg_es256k": lambda f: f.with_header(alg="ES256K"),
    "alg_hs512": lambda f: f.with_header(alg="HS512"),
    "dup_header_member": lambda f: f.raw(b'{"alg":"none",' + text(f.header)[1:], f.claims),
    "dup_header_kid": lambda f: f.raw(text(f.header)[:-1] + b',"kid":"x"}', f.claims),
    "dup_claim": lambda f: f.raw(f.header, b'{"sub":"other",' + text(f.claims)[1:]),
    "dup_claim_escaped": lambda f: f.raw(f.header, b'{"s\\u0075b":"other",' + text(f.claims)[1:]),
    "header_utf16": lambda f: f.raw(json.dumps(f.header).encode("utf-16"), f.claims),
    "header_utf16le": lambda f: f.raw(json.dumps(f.header).encode("utf-16-le"), f.claims),
    "header_utf32": lambda f: f.raw(json.dumps(f.header).encode("utf-32"), f.claims),
    "header_bom": lambda f: f.raw(b"\xef\xbb\xbf" + text(f.header), f.claims),
    "header_latin1": lambda f: f.raw(text(f.header)[:-1] + b',"x":"\xe9"}', f.claims),
    "header_array": lambda f: f.raw([f.header], f.claims),
    "header_null": lambda f: f.raw(None, f.claims),
    "payload_utf16": lambda f: f.raw(f.header, json.dumps(f.claims).encode("utf-16")),
    "payload_utf32": lambda f: f.raw(f.header, json.dumps(f.claims).encode("utf-32-le")),
    "payload_bom": lambda f: f.raw(f.header, b"\xef\xbb\xbf" + text(f.claims)),
    "payload_array": lambda f: f.raw(f.header, [f.claims]),
    "payload_string": lambda f: f.raw(f.header, "sub"),
    "payload_number": lambda f: f.raw(f.header, 1),
    "payload_null": lambda f: f.raw(f.header, None),
    "payload_empty": lambda f: f.raw(f.header, b""),
    "payload_jwt": lambda f: f.raw(f.header, f.good.encode()),
    "lone_surrogate": lambda f: f.raw(f.header, text({**f.claims, "x": "?"}).replace(b"?", b"\\ud800")),
    "lone_surrogate_name": lambda f: f.raw(f.header, text({**f.claims, "?": 1}).replace(b"?", b"\\uDC00")),
    "nan": lambda f: f.raw(f.header, text({**f.claims, "x": float("nan")})),
    "inf": lambda f: f.raw(f.header, text({**f.claims, "x": float("-inf")})),
    "exp_1e400": lambda f: f.raw(f.header, text({**f.claims, "exp": 0}).replace(b'"exp": 0', b'"exp": 1e400')),
    "int_5000_digits": lambda f: f.raw(f.header, text({**f.claims, "x": "?"}).replace(b'"?"', b"9" * 5000)),
    "nested_33": lambda f: f.raw(f.header, text({**f.claims, "x": "?"}).replace(b'"?"', b"[" * 32 + b"]" * 32)),
    "nested_3k": lambda f: f.raw(f.header, b"[" * 5000),
    "nested_header": lambda f: f.raw(b'{"a":' * 35, f.claims),
    "nested_60k": lambda f: f.raw(f.header, b'{"a":' * 60_000),
    "pad_equals": lambda f: _padded(f.good),
    "pad_equals_signature": lambda f: f.good + "==",
    "std_b64_alphabet": lambda f: f.respelled(lambda part: part, "~~~???>>>", standard=True),
    "pad_equals_signed": lambda f: f.respelled(lambda part: part + "=" * (-len(part) % 4)),
    "pad_equals_twice_signed": lambda f: f.respelled(lambda part: part + "===="),
    "whitespace_in_segment_signed": lambda f: f.respelled(lambda part: part[:8] + " " + part[8:]),
    "newline_in_segment_signed": lambda f: f.respelled(lambda part: part[:76] + "\n" + part[76:]),
    "unused_bits_flipped_signed": lambda f: f.respelled(_unused_bits, "é"),
    "whitespace_in_segment": lambda f: _between(f.good, 1, " "),
    "newline_in_segment": lambda f: _between(f.good, 2, "\n"),
    "trailing_newline": lambda f: f.good + "\n",
    "unused_bits_flipped": lambda f: _unused_bits(f.good),
    "four_segments": lambda f: f.good + ".AA",
    "five_segments_jwe": lambda f: f.good + ".AA.AA",
    "json_serialization": lambda f: json.dumps(dict(zip(("protected", "payload", "signature"), f.good.split("."), strict=True))),
    "polyglot_json_compact": lambda f: '{"protected":"' + f.good.split(".")[0] + '","a":".' + f.good.split(".")[1] + '.","signature":"x"}',
    "empty_header": lambda f: "." + ".".join(f.good.split(".")[1:]),
    "empty_signature": lambda f: ".".join(f.good.split(".")[:2]) + ".",
    "empty_segments": lambda _: "..",
    "empty": lambda _: "",
    "one_segment": lambda f: f.good.replace(".", ""),
    "two_segments": lambda f: f.good.rpartition(".")[0],
    "non_ascii": lambda f: _between(f.good, 1, "é"),
    "full_width": lambda f: _between(f.good, 0, "\uff21"),
    "nul": lambda f: _between(f.good, 1, "\0"),
    "bearer_prefix": lambda f: "Bearer " + f.good,
    "size_8k_and_1": lambda f: f.with_claims(x="a" * 8192),
    "size_1mb_header": lambda f: f.raw({**f.header, "x": "a" * 1_000_000}, f.claims),
    "size_1mb_payload": lambda f: f.with_claims(x="a" * 1_000_000),
    "size_1mb_dots": lambda _: "." * 1_000_000,
    "header_of_objects": lambda f: f.with_header(x=[{}] * 8),
    "header_257": lambda f: f.with_header(x="a" * 120),
    "signature_of_another_token": lambda f: f.good.rpartition(".")[0] + "." + f.with_claims(sub="x").rpartition(".")[2],
    "payload_changed": lambda f: f.good.split(".")[0] + "." + base64url(text({**f.claims, "sub": "x"})) + "." + f.good.split(".")[2],
}  # fmt: skip

PARAMETERS: Mapping[str, Callable[[Forge], str]] = {
    "crit_empty": lambda f: f.with_header(crit=[]),
    "crit_unknown": lambda f: f.with_header(crit=["x"], x=1),
    "crit_string": lambda f: f.with_header(crit="exp"),
    "crit_dup": lambda f: f.with_header(crit=["x", "x"], x=1),
    "crit_names_alg": lambda f: f.with_header(crit=["alg"]),
    "crit_missing_member": lambda f: f.with_header(crit=["x"]),
    "b64_false_no_crit": lambda f: f.with_header(b64=False),
    "b64_false_with_crit": lambda f: f.with_header(b64=False, crit=["b64"]),
    "b64_true_with_crit": lambda f: f.with_header(b64=True, crit=["b64"]),
    "zip_on_jws": lambda f: f.with_header(zip="DEF"),
    "enc_on_jws": lambda f: f.with_header(enc="A256GCM"),
    "kid_int": lambda f: f.with_header(kid=1),
    "kid_null": lambda f: f.with_header(kid=None),
    "kid_list": lambda f: f.with_header(kid=[f.header["kid"]]),
    "kid_empty": lambda f: f.with_header(kid=""),
    "kid_10kb": lambda f: f.with_header(kid="a" * 10_000),
    "kid_path": lambda f: f.with_header(kid="../../../../dev/null"),
    "kid_sql": lambda f: f.with_header(kid="x' UNION SELECT 'key'; --"),
    "kid_ldap": lambda f: f.with_header(kid="*)(uid=*))(|(uid=*"),
    "kid_nul": lambda f: f.with_header(kid=f.header["kid"] + "\0"),
    "kid_missing_with_many_keys": lambda f: f.with_header(kid=...),
    "typ_rt_as_at": lambda f: f.with_header(typ="rt+jwt"),
    "typ_jwt": lambda f: f.with_header(typ="JWT"),
    "typ_missing": lambda f: f.with_header(typ=...),
    "typ_null": lambda f: f.with_header(typ=None),
    "typ_list": lambda f: f.with_header(typ=["at+jwt"]),
    "typ_other_prefix": lambda f: f.with_header(typ="text/at+jwt"),
    "typ_prefix_twice": lambda f: f.with_header(typ="application/application/at+jwt"),
    "cty_jwt_nested": lambda f: f.with_header(cty="JWT"),
}

CLAIMS: Mapping[str, Callable[[Forge], str]] = {
    "exp_missing": lambda f: f.with_claims(exp=...),
    "exp_bool": lambda f: f.with_claims(exp=True),
    "exp_string": lambda f: f.with_claims(exp=str(f.claims["exp"])),
    "exp_float_past": lambda f: f.with_claims(exp=f.now - 0.5),
    "exp_float": lambda f: f.with_claims(exp=f.now + 60.5),
    "exp_null": lambda f: f.with_claims(exp=None),
    "exp_list": lambda f: f.with_claims(exp=[f.claims["exp"]]),
    "exp_now_less_leeway": lambda f: f.with_claims(iat=f.now - 60, exp=f.now - 5),
    "exp_zero": lambda f: f.with_claims(exp=0),
    "exp_negative": lambda f: f.with_claims(exp=-1, iat=-2),
    "exp_huge": lambda f: f.with_claims(exp=2**70),
    "exp_beyond_max_ttl": lambda f: f.with_claims(exp=f.now + 3601),
    "exp_beyond_max_ttl_by_old_iat": lambda f: f.with_claims(iat=f.now - 3500, exp=f.now + 101),
    "nbf_future": lambda f: f.with_claims(nbf=f.now + 6),
    "nbf_bool": lambda f: f.with_claims(nbf=True),
    "nbf_string": lambda f: f.with_claims(nbf="0"),
    "nbf_null": lambda f: f.with_claims(nbf=None),
    "nbf_after_exp": lambda f: f.with_claims(nbf=f.claims["exp"] + 1),
    "iat_missing": lambda f: f.with_claims(iat=...),
    "iat_future": lambda f: f.with_claims(iat=f.now + 6),
    "iat_string": lambda f: f.with_claims(iat=str(f.now)),
    "iat_bool": lambda f: f.with_claims(iat=True),
    "iat_negative": lambda f: f.with_claims(iat=-1),
    "iat_after_exp": lambda f: f.with_claims(iat=f.now, exp=f.now - 1),
    "iss_missing": lambda f: f.with_claims(iss=...),
    "iss_list": lambda f: f.with_claims(iss=[f.claims["iss"]]),
    "iss_prefix": lambda f: f.with_claims(iss=f.claims["iss"][:-1]),
    "iss_longer": lambda f: f.with_claims(iss=f.claims["iss"] + ".evil.example"),
    "iss_slash": lambda f: f.with_claims(iss=f.claims["iss"] + "/"),
    "iss_case": lambda f: f.with_claims(iss=f.claims["iss"].upper()),
    "aud_missing": lambda f: f.with_claims(aud=...),
    "aud_other": lambda f: f.with_claims(aud="other-api"),
    "aud_prefix": lambda f: f.with_claims(aud=f.claims["aud"] + "-2"),
    "aud_chars": lambda f: f.with_claims(aud=list(f.claims["aud"])),
    "aud_dict": lambda f: f.with_claims(aud={f.claims["aud"]: 1}),
    "aud_mixed": lambda f: f.with_claims(aud=[f.claims["aud"], 1]),
    "aud_nested": lambda f: f.with_claims(aud=[[f.claims["aud"]]]),
    "aud_empty_list": lambda f: f.with_claims(aud=[]),
    "aud_empty": lambda f: f.with_claims(aud=""),
    "aud_null": lambda f: f.with_claims(aud=None),
    "sub_int": lambda f: f.with_claims(sub=1),
    "sub_missing": lambda f: f.with_claims(sub=...),
    "sub_empty": lambda f: f.with_claims(sub=""),
    "sub_nul": lambda f: f.with_claims(sub="cons\0_1"),
    "sub_newline": lambda f: f.with_claims(sub="cons_1\n"),
    "sub_long": lambda f: f.with_claims(sub="a" * 256),
    "jti_missing": lambda f: f.with_claims(jti=...),
    "jti_list": lambda f: f.with_claims(jti=["a"]),
    "jti_empty": lambda f: f.with_claims(jti=""),
    "jti_long": lambda f: f.with_claims(jti="a" * 256),
    "org_missing": lambda f: f.with_claims(org=...),
    "org_list": lambda f: f.with_claims(org=["org_1"]),
    "org_empty": lambda f: f.with_claims(org=""),
    "sid_missing": lambda f: f.with_claims(sid=...),
    "sid_int": lambda f: f.with_claims(sid=7),
    "sid_empty": lambda f: f.with_claims(sid=""),
    "sid_long": lambda f: f.with_claims(sid="a" * 256),
    "gen_missing": lambda f: f.with_claims(gen=...),
    "gen_bool": lambda f: f.with_claims(gen=True),
    "gen_negative": lambda f: f.with_claims(gen=-1),
    "gen_string": lambda f: f.with_claims(gen="0"),
    "env_missing": lambda f: f.with_claims(env=...),
    "env_live": lambda f: f.with_claims(env="live"),
    "env_list": lambda f: f.with_claims(env=["test"]),
    "cnf_mismatch": lambda f: f.with_claims(cnf={"jkt": "x"}),
    "scope_list": lambda f: f.with_claims(scope=["orders:read"]),
    "guest_string": lambda f: f.with_claims(guest="false"),
    "factors_list": lambda f: f.with_claims(factors=["otp"]),
    "factors_bool": lambda f: f.with_claims(factors={"otp": True}),
}


def es256_twins(token: str) -> dict[str, str]:
    """Signatures of ES256 that are none, beside a good one; and its second spelling, which is good too."""
    message, _, third = token.rpartition(".")
    raw = unbase64url(third) or b""
    r, s = raw[:32], raw[32:]

    def der_integer(number: bytes) -> bytes:
        data = number.lstrip(b"\0")
        data = (b"\0" if data[0] & 0x80 else b"") + data
        return b"\x02" + bytes([len(data)]) + data

    body = der_integer(r) + der_integer(s)
    der = b"\x30" + bytes([len(body)]) + body
    assert decode_dss_signature(der) == (int.from_bytes(r), int.from_bytes(s))
    zero = bytes(32)
    return {
        name: f"{message}.{base64url(signature)}"
        for name, signature in {
            "alg_es256_der_signature": der,
            "es256_r_zero": zero + s,
            "es256_s_zero": r + zero,
            "es256_r_and_s_zero": zero + zero,
            "es256_r_is_order": P256_ORDER.to_bytes(32) + s,
            "es256_sig_63": raw[:63],
            "es256_sig_65": raw + b"\0",
            "es256_sig_132": raw + bytes(68),
            "es256_high_s_twin": r + (P256_ORDER - int.from_bytes(s)).to_bytes(32),
        }.items()
    }
