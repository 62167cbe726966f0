"""K9: secrets planted in twenty places that print, and none of them printed."""

import asyncio
import base64
import copy
import dataclasses
import io
import json
import logging
import logging.config
import pickle
import traceback
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, ConfigDict
from servers import ask, serving

from bartizan import KeyFormat, NamedSecret, Rule, TokenVerifier, WebhookSigner, WebhookVerifier, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.ports import fresh
from bartizan.core.redact import MARK, REDACTOR
from bartizan.core.request import Request
from bartizan.core.ring import SecretRing, new_root
from bartizan.errors import BartizanError, InvalidKey, Misuse
from bartizan.integrations.logging import RedactedStream, RedactingFilter, install
from bartizan.integrations.structlog import Redact, redact
from bartizan.testing.kit import Kit, headers_of
from bartizan.webhooks.keys import new_secret

ROOT, WEBHOOK = new_root(), new_secret(fresh)
KIT = Kit(secrets=[ROOT])
ISSUED = KIT.key(org="org_1")
KEY, TOKEN = ISSUED.key, KIT.token(org="org_1", subject="cons_1")
FORM = KeyFormat([ROOT], environment="test")
OF_OWN, ROW = FORM.issue(org="org_1", kind="secret", now=1_800_000_000)
LINK = KIT.security.blocking.links.issue("invite", org="org_1", subject="cons_1", seconds=60)
PLANTED = [KEY, OF_OWN.key, ROOT, WEBHOOK, TOKEN, LINK]
SECRET = " | ".join(PLANTED)
CORES = [KEY[25:], OF_OWN.key[25:], ROOT[13:], WEBHOOK[6:], TOKEN.rpartition(".")[2], LINK.rpartition(".")[2]]

# Whatever of ours holds a secret, or came of one.
OBJECTS: dict[str, Any] = {
    "IssuedKey": ISSUED,
    "KeyRecord": ISSUED.record,
    "KeyRow": ROW,
    "ParsedKey": FORM.parse(OF_OWN.key),
    "KeyFormat": FORM,
    "entry": FORM.entry(ROW),
    "principal": KIT.security.blocking.keys.authenticate(KEY),
    "SecretRing": SecretRing([ROOT]),
    "Bartizan": KIT.security,
    "blocking": KIT.security.blocking,
    "gate": KIT.security.gate([Rule("/", allow.secret_key())]),
    "NamedSecret": NamedSecret(WEBHOOK, name="shop"),
    "WebhookVerifier": WebhookVerifier(WEBHOOK),
    "WebhookSigner": WebhookSigner([WEBHOOK]),
    "TokenVerifier": TokenVerifier(
        KIT.security.blocking.signing_keys.jwks(), issuer="kit", audience="a", environment="test"
    ),
    "Request": Request("GET", f"/{KEY}", [(b"authorization", f"Bearer {KEY}".encode())], None, "https"),
    "Kit": KIT,
}
each_object = pytest.mark.parametrize("name", OBJECTS)


def assert_clean(*texts: object) -> None:
    for text in texts:
        told = text.decode("latin-1") if isinstance(text, bytes) else str(text)
        assert [core for core in CORES if core in told] == []
        assert [core for core in CORES if core[:16] in told] == []


REFUSALS = (Misuse, TypeError, AttributeError, ValueError, pickle.PicklingError)


def refused_or(make: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What came out, or nothing where the object refuses."""
    try:
        return make()
    except (*REFUSALS, *errors):  # type: ignore[misc]
        return ""


# --- objects ---


@each_object
def test_surface_repr(name: str) -> None:
    assert_clean(repr(OBJECTS[name]), repr([OBJECTS[name]]), ascii(OBJECTS[name]), f"{OBJECTS[name]!r}")


@each_object
def test_surface_str(name: str) -> None:
    assert_clean(str(OBJECTS[name]), "%s" % OBJECTS[name], "{}".format(OBJECTS[name]))  # noqa: UP031, UP032


@each_object
def test_surface_f_string(name: str) -> None:
    thing = OBJECTS[name]
    assert_clean(f"{thing}", f"{thing=}", f"{thing!s:>100}")


@each_object
def test_surface_pickle(name: str) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_clean(refused_or(lambda: pickle.dumps(OBJECTS[name], protocol)))  # noqa: B023
    if name in {"IssuedKey", "ParsedKey", "Request"}:
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(Misuse):
                copied(OBJECTS[name])


@each_object
def test_surface_json(name: str) -> None:
    assert_clean(refused_or(lambda: json.dumps(OBJECTS[name])), json.dumps({"a": OBJECTS[name]}, default=str))
    assert_clean(json.dumps([OBJECTS[name]], default=repr))
    assert_clean(refused_or(lambda: json.dumps(OBJECTS[name], default=vars)))


@each_object
def test_surface_asdict(name: str) -> None:
    assert_clean(refused_or(lambda: dataclasses.asdict(OBJECTS[name])), refused_or(lambda: vars(OBJECTS[name])))


@each_object
def test_surface_pydantic_dump(name: str) -> None:
    class Model(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        thing: Any

    model = Model(thing=OBJECTS[name])
    assert_clean(repr(model), str(model), model.model_dump())
    assert_clean(refused_or(model.model_dump_json, Exception), refused_or(lambda: model.model_dump_json(fallback=str)))


def test_the_objects_do_hold_what_was_planted() -> None:
    assert ISSUED.key == KEY
    assert FORM.parse(OF_OWN.key)._secret.decode() == OF_OWN.key[25:-6]


# --- logging ---


@pytest.fixture
def logged() -> tuple[logging.Logger, io.StringIO]:
    """A logger whose handler shows all that a record has, with the filter on it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Everything())
    logger = logging.Logger("leaks", logging.DEBUG)  # noqa: LOG001 - nobody else listens to it
    logger.addHandler(handler)
    install(handler)
    return logger, out


class Everything(logging.Formatter):
    """What formatters print, in text and in JSON, all together: variables of frames, too."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.exc_info:
            told = traceback.TracebackException(*record.exc_info, capture_locals=True)
            text += "".join(told.format())
        return text + repr(record.__dict__) + json.dumps(record.__dict__, default=str)


def test_surface_logging_args(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = logged
    logger.info("%s", SECRET)
    logger.info(SECRET)
    logger.info("%r and %d", [SECRET], 5)
    logger.info("%s%s", KEY[:40], KEY[40:])  # split over two
    logger.info("%s%s%s%s", "Bearer ", TOKEN[:50], TOKEN[50:90], TOKEN[90:])
    logger.info("%(a)s", {"a": 1, "unused": SECRET})
    logger.info("%.10s", SECRET)
    logger.info("%-30.3s and %5.*s", SECRET, 2, SECRET)
    logger.info(ValueError("%s"), SECRET)
    logger.info("%s", httpx.URL("https://a.example/", params={"key": KEY}))
    logger.info("%s", KEY.encode())
    logger.info({"event": SECRET})
    logger.info(ValueError(SECRET))
    assert_clean(out.getvalue())
    assert out.getvalue().count(MARK) >= 10


def test_surface_logging_wrong_args(
    logged: tuple[logging.Logger, io.StringIO], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard library prints template and arguments where they do not fit together."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    logger, out = logged
    logger.info("%d " + KEY, SECRET)  # noqa: G003
    logger.info("%s %s", SECRET)  # noqa: PLE1206
    told = capsys.readouterr().err
    assert "Logging error" in told
    # The variables and source lines of this very test are printed by nobody, but its constants are not planted in it.
    assert_clean(out.getvalue(), told)


def test_surface_logging_extra(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = logged
    extra = {"plain": SECRET, "nested": {"a": [{"b": (SECRET,)}]}, "data": SECRET.encode(), "password": "hunter2"}
    logger.info("x", extra=extra)
    logger.info("x", extra={"url": httpx.URL(f"https://a.example/?key={KEY}"), "error": ValueError(SECRET)})
    assert_clean(out.getvalue())
    assert "hunter2" not in out.getvalue()
    assert extra["plain"] == SECRET


def fails(key: str) -> None:
    try:
        FORM.verify(key + "x", None, now=1)
    except InvalidKey:
        raise RuntimeError(f"no such key: {key}") from ValueError(SECRET)


def test_surface_exc_info(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = logged
    try:
        fails(SECRET)
    except RuntimeError as error:
        error.add_note(SECRET)
        logger.exception("failed")
        logger.error("failed", exc_info=error)
    logger.error("nothing", exc_info=True)  # noqa: LOG014
    assert_clean(out.getvalue())
    assert "RuntimeError: no such key: " in out.getvalue()
    assert "Traceback" in out.getvalue()


def test_surface_stack_info(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = logged
    logger.info("here", stack_info=True)
    record = logging.makeLogRecord({"msg": "x", "levelno": 20, "stack_info": f"Stack\n  {SECRET}", "exc_text": SECRET})
    logger.handle(record)
    assert_clean(out.getvalue())
    assert "Stack (most recent call last)" in out.getvalue()


def test_surface_traceback_locals(logged: tuple[logging.Logger, io.StringIO]) -> None:
    """The filter leaves no frames to ask; and what a program formats by itself goes through the redactor."""
    logger, out = logged
    try:
        fails(SECRET)
    except RuntimeError as error:
        logger.exception("failed")
        told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert KEY in told
        assert_clean(REDACTOR.text(told))
        for line in told.splitlines():  # cut off after so many characters by whoever shows variables
            assert_clean(REDACTOR.text(line[:120]))
    assert_clean(out.getvalue())


def test_our_errors_hold_nothing_that_was_presented() -> None:
    for call in (
        lambda: FORM.verify(KEY, None, now=1),
        lambda: FORM.parse(SECRET),
        lambda: KIT.security.blocking.keys.authenticate(OF_OWN.key),
        lambda: KIT.security.blocking.links.redeem(LINK, purpose="other", org="org_1"),
        lambda: SecretRing([ROOT[:-1]]),
        lambda: NamedSecret(WEBHOOK, name=WEBHOOK * 100),
        lambda: WebhookVerifier(f"x{WEBHOOK}").verify(b"", {}),
    ):
        with pytest.raises(BartizanError) as caught:
            call()
        error = caught.value
        assert_clean(error, repr(error), error.args, vars(error), error.__cause__, error.problem)


def test_surface_httpx_log_lines(logged: tuple[logging.Logger, io.StringIO]) -> None:
    """httpx writes the whole URL of every request at INFO, httpcore all headers at DEBUG."""
    _, out = logged
    handler = logging.StreamHandler(out)
    install(handler)
    names = ("httpx", "httpcore.http11", "httpcore.connection")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        with serving(app) as port, httpx.Client(trust_env=False) as client:
            client.get(f"http://127.0.0.1:{port}/{KEY}", params={"a": SECRET}, headers=headers_of(ISSUED))
    finally:
        for name in names:
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(before[name])
    assert "HTTP Request: GET http://127.0.0.1" in out.getvalue()
    assert "send_request_headers" in out.getvalue()
    assert_clean(out.getvalue(), urllib.parse.unquote(out.getvalue()))


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_token_in_log_redacted() -> None:
    """Whatever a client puts where: the server's access log and ours show no token."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    kit = Kit()
    token = kit.token(org="org_1", subject="cons_1")
    loggers = [logging.getLogger(name) for name in ("uvicorn.access", "uvicorn.error", "bartizan.audit")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    try:
        gated = GateMiddleware(app, kit.security.gate([Rule("GET /me", allow.consumer())]))
        with serving(gated, access_log=True) as port:
            for logger in loggers:  # uvicorn has set its own up by now
                logger.addHandler(handler)
                logger.setLevel(logging.DEBUG)
            install(handler)
            bearer = ("Authorization", f"Bearer {token}")
            answers = [
                ask(port, f"/me?access_token={token}", bearer).status, ask(port, f"/{token}", bearer).status,
                ask(port, "/me", bearer).status, ask(port, f"/me?x={urllib.parse.quote(token)}.", bearer).status,
            ]  # fmt: skip
        kit.security._shared.journal.drain()
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
    assert answers[:3] == [400, 404, 200]
    told = out.getvalue()
    assert "/me?access_token=[redacted]" in told
    assert token.rpartition(".")[2] not in told
    assert token.split(".")[1] not in told
    assert "request.refused" in told


# --- structlog ---


def chain(*processors: Any) -> tuple[Any, io.StringIO]:
    out = io.StringIO()
    return structlog.wrap_logger(structlog.PrintLogger(out), processors=list(processors)), out


@pytest.mark.parametrize(
    "processors",
    [
        [redact, structlog.processors.JSONRenderer(default=str)],
        [structlog.processors.format_exc_info, redact, structlog.processors.LogfmtRenderer()],
        [redact, structlog.dev.ConsoleRenderer(colors=False)],
        [structlog.processors.dict_tracebacks, Redact(), structlog.processors.JSONRenderer()],
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(), redact],
        [structlog.processors.StackInfoRenderer(), redact, structlog.processors.KeyValueRenderer()],
    ],
)
def test_surface_structlog(processors: list[Any]) -> None:
    log, out = chain(*processors)
    log = log.bind(bound=SECRET, nested_=[{"deep": [{"deeper": SECRET}]}])
    log.info(SECRET, data=KEY.encode(), authorization="Basic hunter2hunter2", url=httpx.URL(f"https://a/?key={KEY}"))
    log.info("x", stack_info=True)
    try:
        fails(SECRET)
    except RuntimeError as error:
        log.exception("failed")
        log.info("failed", exc_info=error)
        log.info("failed", exc_info=(type(error), error, error.__traceback__))
    assert_clean(out.getvalue())
    assert "hunter2" not in out.getvalue()
    assert "RuntimeError" in out.getvalue()


def test_structlog_is_stopped_by_nothing() -> None:
    class Hostile(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError(SECRET)

    log, out = chain(redact, structlog.processors.JSONRenderer())
    log.info("x", hostile=Hostile(a=SECRET))
    assert json.loads(out.getvalue()) == {"event": "[an event that could not be read: RuntimeError]"}


def test_structlog_through_the_standard_library(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = logged
    formatter = structlog.stdlib.ProcessorFormatter(processors=[redact, structlog.processors.JSONRenderer(default=str)])
    logger.handlers[0].setFormatter(formatter)
    log = structlog.wrap_logger(logger, processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter])
    log.info(SECRET, key=SECRET)
    logger.info("%s", SECRET)
    assert_clean(out.getvalue())
    assert out.getvalue().count(MARK) >= 3


# --- the rest ---


def test_surface_a_file_split_over_two_writes(tmp_path: Any) -> None:
    path = tmp_path / "out.log"
    for cut in range(0, len(KEY) + 1, 7):
        with path.open("w", encoding="utf-8") as file, RedactedStream(file) as stream:
            print(f"a {KEY[:cut]}", end="", file=stream, flush=True)
            assert_clean(path.read_text("utf-8"))
            print(f"{KEY[cut:]} {SECRET} b", file=stream)
        assert_clean(path.read_text("utf-8"))
        assert path.read_text("utf-8").endswith(" b\n")


def test_many_threads_write_to_one_stream() -> None:
    below = io.StringIO()
    stream = RedactedStream(below)
    lines = [f"{number} {KEY} {number}\n" for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(stream.write, lines * 20))
    stream.close()
    assert_clean(below.getvalue())
    assert sorted(set(below.getvalue().splitlines())) == sorted(REDACTOR.text(line[:-1]) for line in lines)


def test_surface_url_encoded() -> None:
    assert_clean(*[urllib.parse.unquote(REDACTOR.text(urllib.parse.urlencode({"a": text}))) for text in PLANTED])


def test_surface_base64() -> None:
    for text in (KEY, ROOT, WEBHOOK):
        out = REDACTOR.text(base64.b64encode(f"user:{text}".encode()).decode())
        assert out == MARK
    for text in PLANTED:
        header = base64.b64encode(f"user:{text}1".encode()).decode()
        assert REDACTOR.text(f"Authorization: Basic {header}") == f"Authorization: Basic {MARK}"


def test_surface_json_escaped() -> None:
    for text in PLANTED:
        assert_clean(REDACTOR.text(json.dumps({"a": "\n" + text + "\n"})))
        assert_clean(REDACTOR.text(json.dumps(json.dumps("\n\t" + text))))
        assert_clean(json.loads(REDACTOR.text('"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"')))


def test_surface_bytes() -> None:
    assert_clean(REDACTOR.bytes(SECRET.encode()), REDACTOR.text(repr(SECRET.encode())))
    assert_clean(repr(REDACTOR.value([SECRET.encode(), bytearray(SECRET.encode())])))
    assert REDACTOR.bytes(b"\xff\x00 clean") == b"\xff\x00 clean"


def test_surface_opentelemetry_attributes() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    attributes = {
        "url.full": f"https://a.example/?key={KEY}", "http.request.header.authorization": (f"Bearer {TOKEN}",), "n": 5,
        "key": SECRET,
    }  # fmt: skip
    with provider.get_tracer("test").start_as_current_span("request") as span:
        span.set_attributes(REDACTOR.value(attributes))
        span.add_event("leak", REDACTOR.value({"text": SECRET}))
    (told,) = spans.get_finished_spans()
    assert_clean(told.to_json())
    assert "[redacted]" in told.to_json()
    assert told.attributes is not None
    assert told.attributes["n"] == 5


# --- how the filter is put in place ---


def test_install_finds_every_handler_and_none_twice() -> None:
    logger = logging.getLogger("leaks.of.somebody")
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    try:
        install()
        install()
        assert [type(known) for known in handler.filters] == [RedactingFilter]
    finally:
        logger.removeHandler(handler)
        for other in [*logging.root.handlers, logging.lastResort]:
            if other is not None:
                other.filters = [known for known in other.filters if not isinstance(known, RedactingFilter)]


def test_the_filter_is_named_in_a_configuration() -> None:
    filters = {"secrets": {"()": "bartizan.integrations.logging.RedactingFilter"}}
    made = logging.config.DictConfigurator({"version": 1}).configure_filter(filters["secrets"])
    assert type(made) is RedactingFilter


def test_install_before_there_is_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.INFO))
    logging.root.manager = logging.Manager(logging.root)
    with pytest.raises(Misuse, match="no logger has a handler"):
        install()


def test_the_filter_stops_nothing_and_changes_no_clean_record() -> None:
    class Hostile(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError(SECRET)

    clean = logging.makeLogRecord({"msg": "%s of %d", "args": ("a", 2), "extra": {"b": 1}})
    before = dict(clean.__dict__)
    assert RedactingFilter().filter(clean)
    assert clean.__dict__ == before
    broken = logging.makeLogRecord({"msg": SECRET, "extra": Hostile(a=SECRET), "exc_text": SECRET})
    assert RedactingFilter().filter(broken)
    assert_clean(broken.getMessage(), repr(broken.__dict__))


def test_async_code_logs_alike(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = logged

    async def work() -> None:
        logger.info("in a task %s", SECRET)

    asyncio.run(work())
    assert_clean(out.getvalue())
