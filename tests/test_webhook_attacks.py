"""One test for each bug that the field had in verifying webhooks, under the bug's name.

Redirects, rebinding, transition addresses and odd literals (rows 22 to 27) are attacks on sending: see test_outbound.
"""

import ast
import hmac
import json
import pickle
from base64 import b64decode, b64encode
from collections.abc import Callable
from copy import copy
from functools import partial
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from webhook_vectors import BY_ID, message_of, verifier_of

import bartizan
from bartizan import InvalidWebhook, MalformedWebhook, Misuse, NamedSecret, WebhookEvent, WebhookSigner, WebhookVerifier
from bartizan.errors import BartizanError, Reason
from bartizan.webhooks.keys import new_key_pair
from bartizan.webhooks.providers import HOOK0, Provider

NOW = 1_614_265_330
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = b64decode(SECRET[6:])
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'
CODE = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
TEXT = "a text of sixteen"
ORDER = ("webhook-id", "webhook-timestamp", "webhook-signature")

HOOKS = WebhookVerifier(SECRET, clock=lambda: NOW)


def headers(signature: str = f"v1,{CODE}", time: str = str(NOW), identity: str = ID) -> dict[str, str]:
    return dict(zip(ORDER, (identity, time, signature), strict=True))


def signed(time: str, identity: str = ID, body: bytes = BODY) -> dict[str, str]:
    """With a right code over whatever time and id are: only strictness refuses it."""
    code = hmac.digest(KEY, f"{identity}.{time}.".encode() + body, "sha256")
    return headers("v1," + b64encode(code).decode(), time, identity)


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidWebhook) as refused:
        call()
    assert refused.value.__context__ is None
    assert refused.value.__cause__ is None
    return refused.value.reason.value


def test_the_reference_verifies() -> None:
    event = HOOKS.verify(BODY, headers())
    assert (event.id, event.timestamp, event.body) == (ID, NOW, BODY)


# 1, 6, 8: signatures that are cut off, junk, or written another way


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("v1,", "malformed_signature"),
        ("v1,g0hM9", "malformed_signature"),
        ("v1," + b64encode(b64decode(CODE)[:31]).decode(), "malformed_signature"),
        ("v1," + b64encode(b64decode(CODE)[:16]).decode(), "malformed_signature"),
        ("v1", "no_supported_signature"),
        ("", "no_supported_signature"),
        ("a,b,c", "no_supported_signature"),
        (f"V1,{CODE}", "no_supported_signature"),
        (f"v1a,{CODE}", "no_supported_signature"),
        (f"v2,{CODE}", "no_supported_signature"),
        (f"v1,v1,{CODE}", "malformed_signature"),
        (f"v1,{CODE[:-1]}", "malformed_signature"),
        (f"v1,{CODE}=", "malformed_signature"),
        (f"v1,{CODE[:-2]}F=", "malformed_signature"),  # sw-sig-noncanonical-bits: a lenient reader drops them
        (f"v1,{CODE[:20]}!{CODE[20:]}", "malformed_signature"),  # sw-sig-inner-garbage
        (f"v1,{CODE[:20]}\n{CODE[20:]}", "malformed_signature"),
        (f"v1,{CODE.replace('+', '-').replace('/', '_')}", "malformed_signature"),
        (f"v1,{b64decode(CODE).hex()}", "malformed_signature"),
        ("v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "malformed_signature"),
        ("v1," + "A" * 43 + "=", "signature_mismatch"),
        ("v1," + "ä" * 44, "malformed_header"),
        ("v1," + "٣" * 44, "malformed_header"),
        (f"v1,{CODE}" * 100, "malformed_header"),
    ],
)
def test_sw_sig(signature: str, reason: str) -> None:
    assert reason_of(lambda: HOOKS.verify(BODY, headers(signature))) == reason


@pytest.mark.parametrize(
    "signature",
    [
        f"garbage v1,{CODE}",
        f" v1,{CODE}",
        f"v1,{CODE} ",
        f"v1,, v1,{CODE}",
        f"v9,{'x' * 99} v1,{CODE}",
        f"v1,{CODE} v1,{CODE}",
    ],
)
def test_junk_beside_a_right_signature_is_passed_over(signature: str) -> None:
    assert HOOKS.verify(BODY, headers(signature)).id == ID


# 2, 3, 4: secrets that anybody could sign with


@pytest.mark.parametrize("secret", ["", " ", "\n", "whsec_", "whsk_", "whpk_"])
def test_sw_empty(secret: str) -> None:
    for short in (False, True):
        with pytest.raises(Misuse):
            WebhookVerifier(secret, unsafe_short_secret=short)
        with pytest.raises(Misuse):
            WebhookSigner(secret)


@pytest.mark.parametrize("make", ["stripe", "github", "slack", "shopify", "hook0", "convoy", "fanfare", "discord"])
@pytest.mark.parametrize("secret", ["", "   ", "\t"])
def test_empty_secret(make: str, secret: str) -> None:
    with pytest.raises(Misuse):
        getattr(WebhookVerifier, make)(secret, unsafe_short_secret=True)


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_!!!!",
        "whsec_A",
        "whsec_AA=",
        "whsec_====",
        "whsec_AAAA====",
        "whsec_" + "A" * 33,
        "whsec_-_-_" * 9,
        "whsk_" + "A" * 43,
    ],
)
def test_sw_secret(secret: str) -> None:
    with pytest.raises(Misuse):
        WebhookVerifier(secret, unsafe_short_secret=True)


@pytest.mark.parametrize(("secret", "minimum"), [("whsec_" + b64encode(bytes(23)).decode(), 24), ("QQ==", 24)])
def test_sw_secret_short(secret: str, minimum: int) -> None:
    with pytest.raises(Misuse, match=f"at least {minimum}"):
        WebhookVerifier(secret)
    WebhookVerifier(secret, unsafe_short_secret=True)


def test_text_secret_short() -> None:
    with pytest.raises(Misuse, match="at least 16"):
        WebhookVerifier.github("x" * 15)
    WebhookVerifier.github("x" * 16)


@pytest.mark.parametrize("secrets", [[], (), None, 7, [None], [b"x" * 30], ["a" * 20, "a" * 20]])
def test_unset_secret_is_no_switch(secrets: Any) -> None:
    with pytest.raises((Misuse, TypeError)):
        WebhookVerifier.github(secrets)


@pytest.mark.parametrize("tolerance", [0, -1, 86_401, True, 1.5, float("nan"), None])
def test_tolerance_is_no_switch(tolerance: Any) -> None:
    with pytest.raises(Misuse):
        WebhookVerifier(SECRET, tolerance=tolerance)


@pytest.mark.parametrize("missing", ORDER)
def test_missing_header_is_refused(missing: str) -> None:
    given = headers()
    del given[missing]
    wire = [(name.encode(), value.encode()) for name, value in given.items()]
    for form in (given, wire, list(given.items())):
        assert reason_of(lambda form=form: HOOKS.verify(BODY, form)) == "header_missing"  # type: ignore[misc]


# 5, 6: bytes that nobody expected, in every header and in the body

NONASCII = ["é", "\udcff", "٣", "\x00", "\xff" * 50]


@pytest.mark.parametrize("text", NONASCII)
@pytest.mark.parametrize(
    "name", ["standard", "stripe", "slack", "github", "shopify", "discord", "hook0", "twilio", "convoy", "fanfare"]
)
def test_nonascii(name: str, text: str) -> None:
    row = getattr(WebhookVerifier, name)
    more = {"url": "https://shop.example"} if name == "twilio" else {}
    secret = {"standard": SECRET, "discord": "ab" * 32}.get(name, TEXT)
    hooks: WebhookVerifier = row(secret, clock=lambda: NOW, **more)
    provider = hooks.scheme.provider
    for header in filter(None, (provider.signature, provider.timestamp, provider.id)):
        good = {provider.signature: f"{provider.label}{'0' * 64}"}
        if provider.timestamp:
            good[provider.timestamp] = str(NOW)
        if provider.id:
            good[provider.id] = ID
        good[header] = text
        with pytest.raises(InvalidWebhook):
            hooks.verify(b"{}", good, target="/")
        wire = [(key.encode(), value.encode("utf-8", "surrogateescape")) for key, value in good.items()]
        with pytest.raises(InvalidWebhook):
            hooks.verify(b"{}", wire, target="/")


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"\x00", b"not json", "日本".encode("shift-jis"), b"[" * 100_000])
def test_sw_body_of_any_bytes(body: bytes) -> None:
    event = HOOKS.verify(body, signed(str(NOW), body=body))
    assert event.body == body
    assert event.type is None
    with pytest.raises(MalformedWebhook):
        event.json()


# 7: a time that is not written as it was signed


@pytest.mark.parametrize(
    "time",
    [f" {NOW}", f"{NOW} ", f"+{NOW}", f"{NOW}.9", f"{NOW}.0", "1614265330e0", "1_614_265_330", f"0{NOW}", f"-{NOW}", "",
     "١٦١٤٢٦٥٣٣٠", "0x60379132", "Infinity", "nan", "1" * 5000, f"{NOW}\n", str(NOW) * 3],
)  # fmt: skip
def test_sw_ts(time: str) -> None:
    assert reason_of(lambda: HOOKS.verify(BODY, signed(time) if time.isascii() else headers(time=time))) in {
        "malformed_timestamp",
        "malformed_header",
    }


# 9: the boundary between id, time and body


def test_sw_id_with_dot_splice() -> None:
    spliced = headers(time=str(NOW), identity="msg_1")
    body = b"x.y"
    good = signed(str(NOW), "msg_1", body)
    assert HOOKS.verify(body, good).id == "msg_1"
    spliced = {**good, "webhook-id": f"msg_1.{NOW}"}
    assert reason_of(lambda: HOOKS.verify(b"y", spliced)) == "malformed_header"
    assert reason_of(lambda: HOOKS.verify(BODY, signed(str(NOW), "a.b"))) == "malformed_header"


@pytest.mark.parametrize("identity", ["", "a b", "a\tb", "a\nb", "\x7f", "a" * 257, "é"])
def test_sw_id_of_odd_characters(identity: str) -> None:
    given = signed(str(NOW), identity) if identity.isascii() else headers(identity=identity)
    assert reason_of(lambda: HOOKS.verify(BODY, given)) == "malformed_header"


@pytest.mark.parametrize(
    "row",
    [
        {"signed": "{id}{body}", "id": "x-id"},
        {"signed": "{id}{timestamp}{body}", "id": "x-id", "timestamp": "x-time"},
        {"signed": "{body}.{timestamp}", "timestamp": "x-time"},
        {"signed": "{timestamp}.{timestamp}.{body}", "timestamp": "x-time"},
        {"signed": "{body}", "timestamp": "x-time"},
        {"signed": "{body}", "id": "x-id"},
        {"signed": "{path}.{body}"},
        {"signed": "{timestamp}.{body}"},
        {"signed": "no parts"},
        {"signed": "{body}", "signature": "x sig"},
        {"signed": "{body}", "layout": "fields"},
        {"signed": "{body}", "unsigned": ("x-sig",)},
        {"signed": "é{body}"},
    ],
)
def test_a_scheme_that_could_be_spliced_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        WebhookVerifier.custom(TEXT, **{"signature": "x-sig", **row})


# 10: what is signed is what was given


def test_sign_is_no_matter_of_zones_and_texts() -> None:
    signer = WebhookSigner(SECRET)
    assert signer.sign(BODY, id=ID, now=NOW) == headers()
    for wrong in (BODY.decode(), bytearray(BODY), None):
        with pytest.raises(Misuse):
            signer.sign(wrong, id=ID, now=NOW)  # type: ignore[arg-type]
    for now in (-1, True, 1.0, None, 10**12):
        with pytest.raises(Misuse):
            signer.sign(BODY, id=ID, now=now)  # type: ignore[arg-type]
    for identity in ("", "a.b", "a b", "é", 7):
        with pytest.raises(Misuse):
            signer.sign(BODY, id=identity, now=NOW)  # type: ignore[arg-type]


# 11: the weaker algorithm


def test_github_sha1_only() -> None:
    vector = BY_ID["github-sha1-only"]
    body, given, _ = message_of(vector)
    assert reason_of(lambda: verifier_of(vector).verify(body, given)) == "header_missing"


def test_github_256_header_carrying_sha1() -> None:
    hooks = WebhookVerifier.github(TEXT)
    sha1 = hmac.new(TEXT.encode(), BODY, "sha1").hexdigest()
    for value in (f"sha1={sha1}", f"sha256={sha1}"):
        assert reason_of(lambda value=value: hooks.verify(BODY, {"X-Hub-Signature-256": value})) in {  # type: ignore[misc]
            "no_supported_signature",
            "malformed_signature",
        }


def test_github_upper_case_is_another_text() -> None:
    hooks = WebhookVerifier.github(TEXT)
    given = hooks.test_request(BODY).headers
    value = given["x-hub-signature-256"].replace("sha256=", "")
    assert (
        reason_of(lambda: hooks.verify(BODY, {"x-hub-signature-256": "sha256=" + value.upper()}))
        == "malformed_signature"
    )


# 12: Stripe's time


def stripe_header(time: int, body: bytes = BODY) -> str:
    return f"t={time},v1=" + hmac.new(TEXT.encode(), f"{time}.".encode() + body, "sha256").hexdigest()


def test_stripe_future() -> None:
    hooks = WebhookVerifier.stripe(TEXT, clock=lambda: NOW)
    for off, reason in ((301, "timestamp_in_future"), (-301, "timestamp_too_old")):
        value = {"stripe-signature": stripe_header(NOW + off)}
        assert reason_of(lambda value=value: hooks.verify(BODY, value)) == reason  # type: ignore[misc]
    for off in (300, -300):
        assert hooks.verify(BODY, {"stripe-signature": stripe_header(NOW + off)}).timestamp == NOW + off


def test_stripe_t_twice() -> None:
    hooks = WebhookVerifier.stripe(TEXT, clock=lambda: NOW)
    good = stripe_header(NOW)
    for value in (f"t={NOW - 999},{good}", f"{good},t={NOW}", f"{good},t={NOW - 999}", good.replace("t=", "t=t=")):
        with pytest.raises(MalformedWebhook):
            hooks.verify(BODY, {"stripe-signature": value})


# 13: nothing reads the body before it is verified


def test_verify_comes_before_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(json, "loads", never)
    for given in (headers(), headers("v1," + "A" * 43 + "=")):
        try:
            HOOKS.verify(BODY, given)
        except InvalidWebhook:
            continue


# 14: comparing in constant time


def test_codes_are_compared_by_compare_digest_alone() -> None:
    room = Path(bartizan.__file__).parent / "webhooks"
    tree = ast.parse((room / "matching.py").read_text("utf-8"))
    judged = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "judged")
    compared = [node for node in ast.walk(judged) if isinstance(node, ast.Compare)]
    assert {ast.unparse(node) for node in compared} == {
        "keys is None", "key.until is not None", "now >= key.until", "begun is None", "instead is None",
        "self.decoded(presented) is not None",
    }  # fmt: skip
    assert "compare_digest(presented, text)" in ast.unparse(judged)


# 16: what is signed, by sender


@pytest.mark.parametrize(
    ("name", "replay"),
    [("standard", "id and time"), ("svix", "id and time"), ("openai", "id and time"), ("anthropic", "id and time"),
     ("stripe", "time"), ("slack", "time"), ("discord", "time"), ("hook0", "time"), ("convoy", "time"), ("fanfare", "time"),
     ("github", "none"), ("shopify", "none"), ("unsafe_fanfare_c", "none"), ("unsafe_fanfare_d", "none")],
)  # fmt: skip
def test_replay_strength(name: str, replay: str) -> None:
    secret = {"discord": "ab" * 32, "standard": SECRET, "svix": SECRET, "openai": SECRET, "anthropic": SECRET}
    provider = getattr(WebhookVerifier, name)(secret.get(name, TEXT)).scheme.provider
    assert provider.replay == replay
    assert provider.keep >= (
        7 * 86_400 if replay == "none" else 86_400 if provider.retried_for is not None else 7 * 86_400
    )


def test_unsigned_headers_are_told_apart() -> None:
    hooks = WebhookVerifier.github(TEXT)
    request = hooks.test_request(BODY, type="push")
    forged = {**request.headers, "X-GitHub-Event": "deploy", "X-GitHub-Delivery": "other"}
    del forged["x-github-event"]
    event = hooks.verify(BODY, list(forged.items()))
    assert event.unsigned == {"x-github-event": "deploy", "x-github-delivery": "other"}
    assert event.type is None
    again = hooks.verify(BODY, request.headers)
    assert (event.id, event.once_key) == (again.id, again.once_key), "no unsigned header is part of what is claimed"


# 17: bodies that the signature does not cover


def test_twilio_json_without_bodysha256() -> None:
    hooks = WebhookVerifier.twilio(TEXT, url="https://shop.example")
    code = b64encode(hmac.digest(TEXT.encode(), b"https://shop.example/hook", "sha1")).decode()
    for body in (b'{"a": 1}', b"[]", b"&", b"\xff"):
        call = partial(hooks.verify, body, {"x-twilio-signature": code}, target="/hook")
        assert reason_of(call) == "body_not_signed"
    assert hooks.verify(b"", {"x-twilio-signature": code}, target="/hook").body == b""


def test_twilio_body_is_not_that_of_bodysha256() -> None:
    vector = BY_ID["twilio-json-bodySHA256"]
    body, given, target = message_of(vector)
    assert reason_of(lambda: verifier_of(vector).verify(body + b" ", given, target=target)) == "signature_mismatch"


# 18: a thousand signatures


def test_sw_sig_many_then_good() -> None:
    junk = "v1," + "A" * 43 + "="
    assert HOOKS.verify(BODY, headers(" ".join([junk] * 31 + [f"v1,{CODE}"]))).id == ID
    for count in (32, 1000):
        many = headers(" ".join([junk] * count + [f"v1,{CODE}"]))
        assert reason_of(partial(HOOKS.verify, BODY, many)) == "malformed_header"


# 19: parameters that run into each other


def test_twilio_param_splice() -> None:
    """The scheme signs both alike; both are one event, so the second is not handled."""
    hooks = WebhookVerifier.twilio(TEXT, url="https://shop.example")
    request = hooks.test_request(b"ab=c&d=", target="/hook")
    first = hooks.verify(b"ab=c&d=", request.headers, target="/hook")
    second = hooks.verify(b"a=bc&d=", request.headers, target="/hook")
    assert first.once_key == second.once_key


# 20: a raw key is a raw key


def test_raw_key_is_not_decoded_again() -> None:
    text = b64encode(bytes(range(30))).decode()
    as_text = WebhookVerifier.stripe(text).test_request(BODY).headers["stripe-signature"]
    assert hmac.new(text.encode(), f"{as_text[2:12]}.".encode() + BODY, "sha256").hexdigest() in as_text


# 21: nothing of the message, the headers and the secret in an error


def everything(error: BaseException) -> str:
    """What a reporter of errors sees: text, arguments, attributes, causes, and the locals of our frames."""
    told = [
        str(error),
        repr(error),
        repr(error.args),
        repr(vars(error)),
        repr(error.__context__),
        repr(error.__cause__),
    ]
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if "bartizan" in trace.tb_frame.f_globals.get("__name__", ""):
            told += [repr(value) for value in trace.tb_frame.f_locals.values()]
        trace = trace.tb_next
    return "\n".join(told)


def test_nothing_of_it_in_an_error() -> None:
    canary = b'{"canary":"canary"}'
    forged = {**headers("v1,canary" + "A" * 38), "canary": "canary"}
    calls: list[Callable[[], object]] = [
        lambda: HOOKS.verify(canary, forged),
        lambda: HOOKS.verify(canary, headers("v1," + "A" * 43 + "=")),
        lambda: HOOKS.verify(canary, {}),
        lambda: HOOKS.verify(canary, headers("canaryé")),
        lambda: HOOKS.verify(canary * 100_000, headers()),
        lambda: HOOKS.verify(canary, headers(time="1")),
        lambda: HOOKS.begin({**forged, "webhook-id": "canary.canary"}),
        lambda: HOOKS.begin(headers()).end(canary),
        lambda: HOOKS.verify(canary, {"webhook-signature": object(), "canary": 1}),
        lambda: HOOKS.verify(canary, signed(str(NOW), body=canary)).parse(int),
        lambda: HOOKS.verify(canary[:-1], signed(str(NOW), body=canary[:-1])).json(),
        lambda: WebhookVerifier.twilio(TEXT, url="https://shop.example").verify(
            canary, {"x-twilio-signature": "A" * 28}, target="/canary"
        ),
    ]
    for call in calls:
        with pytest.raises(BartizanError) as refused:
            call()
        assert "canary" not in everything(refused.value)
    for make in (
        lambda: WebhookVerifier.github(NamedSecret("canary", name="new")),
        lambda: WebhookSigner("whsec_canary!"),
    ):
        with pytest.raises(Misuse) as misused:
            make()
        assert "canary" not in f"{misused.value!r} {vars(misused.value)}"
        assert misused.value.__context__ is None


def test_nothing_of_it_in_a_repr_or_a_pickle() -> None:
    event = HOOKS.verify(BODY, headers())
    named = NamedSecret(SECRET, name="new")
    values: list[Any] = [HOOKS, WebhookSigner(SECRET), named, event, *HOOKS.keys]
    for value in values:
        assert "MfKQ" not in repr(value)
        assert "2432232314" not in repr(value)
    for value in (named, event, *HOOKS.keys):
        with pytest.raises(Misuse):
            pickle.dumps(value)
        with pytest.raises(Misuse):
            copy(value)


def test_nobody_else_makes_an_event() -> None:
    with pytest.raises((Misuse, TypeError)):
        WebhookEvent(id="x")  # type: ignore[call-arg]
    event = HOOKS.verify(BODY, headers())
    with pytest.raises(Misuse):
        event.body = b"x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        event.unsigned["x"] = "y"  # type: ignore[index]


# beyond the table: keys of the other kind, and headers that came twice


def test_a_public_key_is_no_hmac_key() -> None:
    _, public = new_key_pair(bytes)
    hooks = WebhookVerifier(public, clock=lambda: NOW)
    for key in (public.encode(), b64decode(public[5:]), b64decode(public[5:] + "==")):
        code = b64encode(hmac.digest(key, f"{ID}.{NOW}.".encode() + BODY, "sha256")).decode()
        assert reason_of(lambda code=code: hooks.verify(BODY, headers(f"v1,{code}"))) == "no_supported_signature"  # type: ignore[misc]


def test_ed25519_s_plus_l() -> None:
    """Adding the group's order to S gives another text that a lenient verifier takes."""
    private, public = new_key_pair(bytes)
    hooks = WebhookVerifier(public, clock=lambda: NOW)
    good = WebhookSigner(private).sign(BODY, id=ID, now=NOW)
    assert hooks.verify(BODY, good).id == ID
    raw = b64decode(good["webhook-signature"][4:])
    order = 2**252 + 27742317777372353535851937790883648493
    more = (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    bad = {**good, "webhook-signature": "v1a," + b64encode(raw[:32] + more).decode()}
    assert reason_of(lambda: hooks.verify(BODY, bad)) == "signature_mismatch"
    assert reason_of(lambda: HOOKS.verify(BODY, good)) == "no_supported_signature"


def test_both_halves_of_a_private_key_belong_together() -> None:
    private, _ = new_key_pair(bytes)
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(Misuse, match="belong"):
        WebhookSigner("whsk_" + b64encode(b64decode(private[5:])[:32] + other).decode())


@pytest.mark.parametrize("name", ORDER)
def test_repeated_header(name: str) -> None:
    pairs = list(headers().items())
    for spelling in (name, name.title(), name.upper()):
        again = [*pairs, (spelling, headers()[name])]
        wire = [(key.encode(), value.encode()) for key, value in again]
        assert reason_of(lambda again=again: HOOKS.verify(BODY, again)) == "repeated_header"  # type: ignore[misc]
        assert reason_of(lambda again=again: HOOKS.verify(BODY, iter(again))) == "repeated_header"  # type: ignore[misc]
        if spelling == name:
            assert reason_of(lambda wire=wire: HOOKS.verify(BODY, wire)) == "repeated_header"  # type: ignore[misc]


def test_hook0_downgrade() -> None:
    """Where the stronger code came, the weaker one is never looked at, whatever stands around it."""
    strong = BY_ID["hook0-the-header-scheme-is-the-one-verified-when-both-are-offered"]
    body, given, _ = message_of(strong)
    hooks = verifier_of(strong)
    assert hooks.verify(body, given).id == "evt-1"
    assert "x-event-id" not in hooks.verify(body, given).unsigned
    weak = given["X-Hook0-Signature"].replace(",v1=19", ",v1=20")
    assert reason_of(lambda: hooks.verify(body, {**given, "X-Hook0-Signature": weak})) == "signature_mismatch"


def test_hook0_covered_values_with_the_separator_are_not_called_signed() -> None:
    hooks = WebhookVerifier.hook0(TEXT, clock=lambda: NOW)

    def message(event_id: str, kind: str) -> dict[str, str]:
        content = f"{NOW}.x-event-id x-event-type.{event_id}.{kind}.".encode() + BODY
        code = hmac.new(TEXT.encode(), content, "sha256").hexdigest()
        value = f"t={NOW},h=x-event-id x-event-type,v1={code}"
        return {"x-hook0-signature": value, "x-event-id": event_id, "x-event-type": kind}

    good = hooks.verify(BODY, message("e1", "order.paid"))
    spliced = {**message("e1", "order.paid"), "x-event-id": "e1.order", "x-event-type": "paid"}
    other = hooks.verify(BODY, spliced)
    assert good.once_key == other.once_key
    assert set(other.unsigned) == {"x-event-id", "x-event-type"}
    assert HOOK0.covered_id == "x-event-id"


def test_a_row_is_checked_where_it_is_made() -> None:
    with pytest.raises(Misuse):
        Provider(name="x", signature="x-sig", signed="{body}", type_header="x-type")
    assert Reason.BODY_NOT_SIGNED


def outcome(read: Callable[..., Any], given: Any) -> Any:
    try:
        prefix, codes, signatures, identity, moment, unsigned = read(given, NOW, 300)
    except InvalidWebhook as refused:
        return refused.reason
    return prefix, list(codes), list(signatures), identity, moment, dict(unsigned)


def test_no_message_is_read_otherwise_for_being_a_usual_one() -> None:
    """There is one way for what a message mostly is, and one with care: they never disagree."""
    scheme, careful, usual = HOOKS.scheme, WebhookVerifier(SECRET).scheme, 0
    careful._usual = 0
    times = [str(NOW), str(NOW - 300), str(NOW + 301), "", "0", f"0{NOW}", f"+{NOW}", f"{NOW}.0", "1" * 9, "1_614265330", "１６１４２６５３３０",
             f" {NOW}", "-614265330", "1614٢65330", "1" * 11, "0614265330"]  # fmt: skip
    identities = [ID, "a", "", "a.b", "a b", "msg-1", "1", "é", "a\n", "a" * 256, "a" * 257, "ª", "a\x00"]
    codes = [f"v1,{CODE}", f"v1a,{CODE}", f"v1,{CODE} v1,{CODE}", f"v1,{CODE[:-1]}é", f"V1,{CODE}", CODE, "", "v1,", f"v1,{CODE}x", "v1," + "é" * 44,
             f"v2,{CODE}", f"v1,{CODE[1:]}", f"v1,v1,{CODE[3:]}", "x" * 47, f" v1,{CODE[1:]}"]  # fmt: skip
    for time, identity, code in product(times, identities, codes):
        given = headers(code, time, identity)
        wire = [(name.encode(), value.encode()) for name, value in given.items()]
        for form in (given, wire):
            read = outcome(scheme.read, form)
            assert read == outcome(careful.read, form), form
            usual += isinstance(read, tuple)
    assert usual > 50
