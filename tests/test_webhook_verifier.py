"""Forms of headers, senders, keys and their rotation, models, explanations, and what an import costs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest
from django.http import HttpHeaders  # type: ignore[import-untyped]
from starlette.datastructures import Headers
from test_imports import loaded_by
from werkzeug.datastructures import EnvironHeaders, Headers as WerkzeugHeaders

import bartizan
from bartizan import InvalidWebhook, MalformedWebhook, Misuse, NamedSecret, WebhookSigner, WebhookVerifier
from bartizan.errors import StaleWebhook, TooLarge
from bartizan.fanfare import WEBHOOK_A, WEBHOOK_SCHEDULE, webhook_signer
from bartizan.webhooks.keys import new_key_pair, new_secret
from bartizan.webhooks.providers import STANDARD, STANDARD_SCHEDULE

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TEXT = "whsec_a_text_of_enough_bytes"
NOW = 1_800_000_000
BODY = b'{"type":"order.created","id":"evt_1","total":12}'
HOOKS = WebhookVerifier(SECRET, clock=lambda: NOW)
GOOD = HOOKS.test_request(BODY, id="msg_1").headers
OTHERS = {"Host": "shop.example", "Content-Type": "application/json", "X-Webhook-I": "x"}
ENVIRON = {
    "REQUEST_METHOD": "POST",
    "CONTENT_TYPE": "application/json",
    "wsgi.version": (1, 0),
    **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in GOOD.items()},
}


class OwnMapping(Mapping[str, str]):
    def __init__(self, inner: dict[str, str]) -> None:
        self._inner = inner

    def __getitem__(self, name: str) -> str:
        return self._inner[name]

    def __iter__(self) -> Any:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)


FORMS: dict[str, Any] = {
    "dict": {**OTHERS, **GOOD},
    "dict in title case": {name.title(): value for name, value in GOOD.items()},
    "dict of bytes": {name.encode(): value.encode() for name, value in GOOD.items()},
    "mapping proxy": MappingProxyType(GOOD),
    "own mapping": OwnMapping({name.upper(): value for name, value in GOOD.items()}),
    "pairs": list({**OTHERS, **GOOD}.items()),
    "pairs of bytes": [(name.encode(), value.encode()) for name, value in {**OTHERS, **GOOD}.items()],
    "tuple of pairs of bytes": tuple((name.encode(), value.encode()) for name, value in GOOD.items()),
    "generator": None,
    "werkzeug": WerkzeugHeaders(list({**OTHERS, **GOOD}.items())),
    "werkzeug environ": EnvironHeaders(ENVIRON),
    "starlette": Headers(GOOD),
    "django": HttpHeaders(ENVIRON),
    "WSGI environment": ENVIRON,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_headers(form: str) -> None:
    given = iter(GOOD.items()) if form == "generator" else FORMS[form]
    event = HOOKS.verify(BODY, given)
    assert (event.id, event.type, event.timestamp, event.unsigned) == ("msg_1", "order.created", NOW, {})


@pytest.mark.parametrize(
    "headers",
    [
        None,
        7,
        "text",
        b"bytes",
        [1],
        [("a",)],
        [("webhook-signature", 7)],
        {"webhook-signature": 7},
        {"webhook-id": ["x"], "webhook-signature": ["x"]},
        {1: 2},
    ],
)
def test_what_is_no_headers_is_a_mistake_or_no_webhook(headers: Any) -> None:
    with pytest.raises((Misuse, InvalidWebhook)):
        HOOKS.verify(BODY, headers)


@pytest.mark.parametrize("body", ["text", bytearray(BODY), memoryview(BODY), None, {"type": "x"}])
def test_a_body_is_bytes(body: Any) -> None:
    with pytest.raises(Misuse, match="bytes"):
        HOOKS.verify(body, GOOD)


def test_a_body_has_a_cap() -> None:
    hooks = WebhookVerifier(SECRET, max_bytes=10, clock=lambda: NOW)
    assert hooks.verify(b"x" * 10, hooks.test_request(b"x" * 10).headers).body == b"x" * 10
    with pytest.raises(TooLarge):
        hooks.verify(b"x" * 11, {})
    check = hooks.begin(GOOD)
    check.update(b"x" * 10)
    with pytest.raises(TooLarge):
        check.update(b"x")
    for size in (0, True, 1.0):
        with pytest.raises(Misuse):
            WebhookVerifier(SECRET, max_bytes=size)  # type: ignore[arg-type]


def test_tolerance_and_clock() -> None:
    for now, good in (
        (NOW + 10, True),
        (NOW - 10, True),
        (NOW + 11, False),
        (NOW - 11, False),
        (NOW + 9.9, True),
        (NOW + 10.1, False),
        (float("nan"), False),
    ):
        hooks = WebhookVerifier(SECRET, tolerance=10, clock=lambda now=now: now)  # type: ignore[misc]
        if good:
            assert hooks.verify(BODY, GOOD).id == "msg_1"
        else:
            with pytest.raises(StaleWebhook):
                hooks.verify(BODY, GOOD)


SENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": (SECRET, {}), "svix": (SECRET, {}), "openai": (SECRET, {}), "anthropic": (SECRET, {}),
    "stripe": (TEXT, {}), "github": (TEXT, {}), "slack": (TEXT, {}), "shopify": (TEXT, {}), "hook0": (TEXT, {}),
    "convoy": (TEXT, {}), "fanfare": (TEXT, {}), "unsafe_fanfare_c": (TEXT, {}), "unsafe_fanfare_d": (TEXT, {}),
    "discord": ((bytes(32) + bytes.fromhex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")).hex(), {}),
    "twilio": (TEXT, {"url": "https://shop.example"}),
}  # fmt: skip


@pytest.mark.parametrize("sender", SENDERS)
def test_test_requests_of_every_sender(sender: str) -> None:
    secret, more = SENDERS[sender]
    hooks: WebhookVerifier = getattr(WebhookVerifier, sender)(secret, clock=lambda: NOW, **more)
    body = b"a=b&c=d" if sender == "twilio" else BODY
    request = hooks.test_request(body, type="order.created", id="msg_1", target="/hook")
    event = hooks.verify(request.body, request.headers, target="/hook")
    assert event.body == body
    assert event.key == hooks.secrets[0].name
    assert repr(event) == f"<WebhookEvent of {hooks.scheme.provider.name} by {event.key}>"
    for place in range(0, len(body), 3):
        changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        with pytest.raises(InvalidWebhook):
            hooks.verify(changed, request.headers, target="/hook")
    assert hooks.explain(body, request.headers, target="/hook") == f"It verifies, with the secret {event.key!r}."


def test_fanfare_a_and_its_own_vector() -> None:
    hooks = WebhookVerifier.fanfare("whsec_test", unsafe_short_secret=True, clock=lambda: 1_701_424_800)
    body = b'{"type":"test","data":{}}'
    code = "34287eeaf15e2f8d0593c087cc2d472f9e4ed64c2dea37e7b44ca96956dfdb9a"
    headers = {
        "X-Fanfare-Signature": f"sha256={code}",
        "X-Fanfare-Timestamp": "1701424800",
        "X-Fanfare-Delivery-Id": "d",
    }
    event = hooks.verify(body, headers)
    assert (event.type, event.unsigned) == ("test", {"x-fanfare-delivery-id": "d"})
    guide = WebhookVerifier.fanfare("whsec_test", scheme="B", unsafe_short_secret=True, clock=lambda: 1_701_424_800)
    assert guide.verify(body, {"x-fanfare-signature": f"time=1701424800,code={code}"}).timestamp == 1_701_424_800
    for value in (f"{code},t=1701424800", f"t=1701424800,v1={code},v1={code}", "t=1701424800", f"t=,v1={code}"):
        with pytest.raises(InvalidWebhook):
            guide.verify(body, {"x-fanfare-signature": value})
    replayable = WebhookVerifier.unsafe_fanfare_c("whsec_test", unsafe_short_secret=True)
    body_only = "4cf1f9161d218d4ad9e4c6a6a1277598737dea8a8670b14350df610511847423"
    assert replayable.verify(body, {"x-fanfare-signature": body_only}).timestamp is None
    late = WebhookVerifier.unsafe_fanfare_d("whsec_test", unsafe_short_secret=True)
    event = late.verify(body, {"x-fanfare-signature": f"sha256={body_only}", "x-fanfare-timestamp": "1"})
    assert event.unsigned == {"x-fanfare-timestamp": "1"}
    assert sum(WEBHOOK_SCHEDULE) == WEBHOOK_A.retried_for == 160_560
    signed = webhook_signer(TEXT).sign(body, id="evt_1", now=NOW)
    assert WebhookVerifier.fanfare(TEXT, clock=lambda: NOW).verify(body, signed).type == "test"


def test_custom() -> None:
    hooks = WebhookVerifier.custom(
        TEXT, signature="X-Sig", signed="v9:{timestamp}:{id}:{body}", timestamp="X-Time", id="X-Id", label="hmac ",
        algorithm="sha512", encoding="base64", unsigned=("X-Kind",), retried_for=3600, clock=lambda: NOW,
    )  # fmt: skip
    request = hooks.test_request(BODY, id="evt_9")
    event = hooks.verify(BODY, {**request.headers, "x-kind": "k"})
    assert (event.id, event.unsigned, event.once_keep) == ("evt_9", {"x-kind": "k"}, 3600 + 86_400)
    with pytest.raises(Misuse, match="same header"):
        WebhookVerifier.custom(TEXT, signature="X-Sig", signed="{timestamp}.{body}", timestamp="x-sig")
    with pytest.raises(Misuse, match="url"):
        WebhookVerifier(TEXT, url="https://shop.example")
    with pytest.raises(Misuse, match="target"):
        WebhookVerifier.twilio(TEXT, url="https://shop.example").verify(b"", {"x-twilio-signature": "A" * 27 + "="})


def test_keep_is_the_whole_schedule_and_a_day() -> None:
    assert STANDARD.keep == sum(STANDARD_SCHEDULE) + 86_400 == 358_505


# --- keys ---


def test_several_secrets_and_which_one_matched() -> None:
    new, old = NamedSecret(new_secret(lambda n: b"n" * n), name="2027"), NamedSecret(SECRET, name="2026")
    hooks = WebhookVerifier([new, old], clock=lambda: NOW)
    assert hooks.verify(BODY, GOOD).key == "2026"
    assert hooks.verify(BODY, WebhookSigner([new]).sign(BODY, id="m", now=NOW)).key == "2027"
    assert hooks.verify(BODY, WebhookSigner([old, new]).sign(BODY, id="m", now=NOW)).key == "2027", "newest first"


def test_a_secret_ends() -> None:
    clock = [NOW]
    hooks = WebhookVerifier([NamedSecret(SECRET, name="old", until=NOW + 5)], clock=lambda: clock[0])
    assert hooks.verify(BODY, GOOD).key == "old"
    clock[0] += 5
    with pytest.raises(InvalidWebhook) as refused:
        hooks.verify(BODY, GOOD)
    assert refused.value.reason == "signature_mismatch"
    assert "expired" in hooks.explain(BODY, GOOD)
    with pytest.raises(Misuse, match="live"):
        hooks.test_request(BODY)


def test_v1_and_v1a_together() -> None:
    private, public = new_key_pair(lambda n: b"s" * n)
    headers = WebhookSigner([private, SECRET]).sign(BODY, id="m", now=NOW)
    assert [part.split(",")[0] for part in headers["webhook-signature"].split(" ")] == ["v1a", "v1"]
    assert WebhookVerifier(public, clock=lambda: NOW).verify(BODY, headers).id == "m"
    assert WebhookVerifier(private, clock=lambda: NOW).verify(BODY, headers).id == "m"
    assert HOOKS.verify(BODY, headers).id == "m"
    check = WebhookVerifier([public, SECRET], clock=lambda: NOW).begin(headers)
    check.update(BODY)
    assert check.end(BODY).id == "m"
    with pytest.raises(Misuse, match="does not sign"):
        WebhookSigner(public).sign(BODY, id="m", now=NOW)


def test_rotation_is_a_value() -> None:
    signer = WebhookSigner([NamedSecret(SECRET, name="first")])
    rotated = signer.rotate(NamedSecret(new_secret(lambda n: b"2" * n), name="second"), now=NOW, grace=100)
    assert [(s.name, s.until) for s in signer.secrets] == [("first", None)]
    assert [(s.name, s.until) for s in rotated.secrets] == [("second", None), ("first", NOW + 100)]
    for now, names in ((NOW, {"first", "second"}), (NOW + 99, {"first", "second"}), (NOW + 100, {"second"})):
        headers = rotated.sign(BODY, id="m", now=now)
        for secret in rotated.secrets:
            hooks = WebhookVerifier(NamedSecret(secret.secret, name=secret.name), clock=lambda now=now: now)  # type: ignore[misc]
            if secret.name in names:
                assert hooks.verify(BODY, headers).key == secret.name
            else:
                with pytest.raises(InvalidWebhook):
                    hooks.verify(BODY, headers)
    again = rotated.rotate(now=NOW + 50, grace=1000)
    assert [s.until for s in again.secrets] == [None, NOW + 1050, NOW + 100], "none lives longer than before"
    at_once = rotated.rotate(now=NOW + 50, grace=0)
    assert [s.name for s in at_once.secrets][1:] == []
    assert "MfKQ" not in repr(again)


def test_at_most_ten_old_secrets() -> None:
    signer = WebhookSigner(SECRET)
    for number in range(10):
        signer = signer.rotate(now=NOW + number)
    assert len(signer.secrets) == 11
    with pytest.raises(Misuse, match=str(NOW + 86_400)):
        signer.rotate(now=NOW + 10)
    assert len(signer.rotate(now=NOW + 86_400).secrets) == 11
    with pytest.raises(Misuse):
        WebhookSigner([new_secret(lambda n, i=i: bytes([i]) * n) for i in range(12)])  # type: ignore[misc]
    for grace in (-1, 7 * 86_400 + 1, True):
        with pytest.raises(Misuse):
            signer.rotate(now=NOW + 999_999, grace=grace)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "\n"},
        {"name": 7},
        {"name": "x", "until": "1"},
        {"name": "x", "until": True},
    ],
)
def test_named_secrets_are_checked(fields: Any) -> None:
    with pytest.raises(Misuse):
        NamedSecret(SECRET, **fields)


def test_named_secrets_do_not_change() -> None:
    named = NamedSecret(SECRET, name="x")
    with pytest.raises(Misuse):
        named.until = 7
    with pytest.raises(Misuse):
        NamedSecret(7, name="x")  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="same name"):
        WebhookVerifier([named, named])
    with pytest.raises(Misuse, match="UTF-8"):
        WebhookVerifier.github("\udcff" * 20)


# --- models ---


class Order(TypedDict):
    type: str
    total: int
    note: NotRequired[str]


@dataclass
class Line:
    sku: str
    price: float = 0.0


@dataclass
class Cart:
    type: Literal["order.created"]
    lines: list[Line]
    more: dict[str, Any] | None = None
    tags: list[str] = field(default_factory=list)


class PydanticOrder(pydantic.BaseModel, strict=True):
    type: str
    total: int


class MsgspecOrder(msgspec.Struct):
    type: str
    total: int


@dataclass
class Loop:
    inner: "Loop | None"


@dataclass
class Odd:
    value: complex


def event_of(body: bytes) -> Any:
    return HOOKS.verify(body, HOOKS.test_request(body).headers)


def test_parse() -> None:
    event = event_of(BODY)
    assert event.json() == {"type": "order.created", "id": "evt_1", "total": 12}
    assert event.parse(Order) == {"type": "order.created", "total": 12}
    assert event.parse(PydanticOrder) == PydanticOrder(type="order.created", total=12)
    assert event.parse(MsgspecOrder) == MsgspecOrder("order.created", 12)
    assert event.parse(lambda value: value["total"]) == 12
    assert event.parse(dict[str, Any])["total"] == 12
    assert event_of(b"[1]").parse(list[float]) == [1.0]
    cart = event_of(b'{"type":"order.created","lines":[{"sku":"a","price":1}],"more":{"x":null}}').parse(Cart)
    assert cart == Cart("order.created", [Line("a", 1.0)], {"x": None})


@pytest.mark.parametrize("model", [Order, Cart, PydanticOrder, MsgspecOrder, int, list[int]])
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"7", b"[]x", b'{"type":7}', b'{"type":"order.created","lines":[{}]}', b'{"type":"x","lines":[],"total":"1"}',
     b'{"type":"x","total":true}', b'{"type":NaN}', b"\xff", b"[" * 99_999, b'{"total":1e999}', '{"type":"x"}'.encode("utf-16")],
)  # fmt: skip
def test_what_does_not_fit_is_malformed(model: Any, body: bytes) -> None:
    if (model, body) == (int, b"7"):
        return
    with pytest.raises(MalformedWebhook) as refused:
        event_of(body).parse(model)
    assert refused.value.reason == "unreadable_body"
    assert refused.value.__context__ is None


def test_whatever_a_model_raises_is_malformed() -> None:
    def model(_: Any) -> Any:
        raise bartizan.NotFound

    with pytest.raises(MalformedWebhook):
        event_of(BODY).parse(model)


@pytest.mark.parametrize("model", [7, None, Loop, Odd, list[complex], dict[int, str]])
def test_a_type_that_json_has_no_value_for_is_a_mistake(model: Any) -> None:
    with pytest.raises(Misuse):
        event_of(b"{}").parse(model)


# --- explanations ---


def test_explain() -> None:
    def said(body: bytes, headers: Any, hooks: WebhookVerifier = HOOKS) -> str:
        return hooks.explain(body, headers)

    def at(now: int) -> WebhookVerifier:
        return WebhookVerifier(SECRET, clock=lambda: now)

    assert "header_missing" in said(BODY, {})
    assert "newline" in said(BODY + b"\n", GOOD)
    assert "newline at its end" in said(b"{}", HOOKS.test_request(b"{}\n").headers)
    assert "raw bytes" in said(b'{"type": "x", "n": 1}', HOOKS.test_request(b'{"type":"x","n":1}').headers)
    assert "CRLF" in said(b"a\nb", HOOKS.test_request(b"a\r\nb").headers)
    assert "LF newlines" in said(b"a\r\nb", HOOKS.test_request(b"a\nb").headers)
    assert "3600 seconds before" in said(BODY, GOOD, at(NOW + 3600))
    assert "local time" in said(BODY, GOOD, at(NOW - 7 * 3600 + 20))
    assert "queue" in said(BODY, GOOD, at(NOW + 400))
    assert "another secret" in said(b"changed", GOOD)
    assert "another version" in said(BODY, {**GOOD, "webhook-signature": "v2,x"})
    assert "cut off" in said(BODY, list({**GOOD, "webhook-signature": "v1,x"}.items()))
    assert "bytes" in HOOKS.explain("text", GOOD)  # type: ignore[arg-type]
    text = WebhookVerifier.custom(
        SECRET, signature="webhook-signature", signed="{id}.{timestamp}.{body}", layout="spaced", label="v1",
        encoding="base64", timestamp="webhook-timestamp", id="webhook-id", clock=lambda: NOW,
    )  # fmt: skip
    assert "taken as text" in said(BODY, text.test_request(BODY).headers)
    assert "decoded as base64" in said(BODY, GOOD, text)
    spaced = WebhookVerifier.github(TEXT + "\n")
    assert "white space" in said(BODY, WebhookVerifier.github(TEXT).test_request(BODY).headers, spaced)
    twilio = WebhookVerifier.twilio(TEXT, url="http://10.0.0.1:8000")
    public = WebhookVerifier.twilio(TEXT, url="https://shop.example").test_request(b"a=b", target="/hook").headers
    assert "proxy" in twilio.explain(b"a=b", public, target="/hook")
    assert "max_bytes" in WebhookVerifier(SECRET, max_bytes=1).explain(BODY, GOOD)


# --- imports ---


def test_the_import_is_small() -> None:
    loaded = loaded_by("from bartizan import WebhookVerifier", before="import hmac, hashlib, base64, time")
    assert len(loaded) <= 30
    foreign = {name.partition(".")[0] for name in loaded} & {
        "cryptography",
        "itsdangerous",
        "starlette",
        "pydantic",
        "jwt",
    }
    assert not foreign
    used = loaded_by(f"from bartizan import WebhookVerifier; h = WebhookVerifier({SECRET!r})", before="import hmac")
    assert not any(name.startswith("cryptography") for name in used)


def test_the_default_clock_is_the_machines() -> None:
    headers = WebhookSigner(SECRET).sign(BODY, id="m", now=int(time.time()))
    assert WebhookVerifier(SECRET).verify(BODY, headers).id == "m"
    assert repr(HOOKS) == "<WebhookVerifier of standard>"
