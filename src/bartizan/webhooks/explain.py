"""For developers: which mistake would explain that a message is refused. It is never part of an answer to a client."""

from collections.abc import Callable, Iterator
from json import JSONDecodeError, dumps, loads
from typing import Any

from bartizan.errors import BartizanError, InvalidWebhook, Misuse, Reason
from bartizan.webhooks.keys import HmacKey, Key, NamedSecret, key_of
from bartizan.webhooks.matching import Matcher
from bartizan.webhooks.providers import Provider
from bartizan.webhooks.schemes import Headers

_HINTS = {
    Reason.HEADER_MISSING: "A header is missing: another sender's scheme, a proxy that drops it, or no webhook at all.",
    Reason.REPEATED_HEADER: "A header of the signature came twice.",
    Reason.MALFORMED_HEADER: "A header is not of the sender's form.",
    Reason.MALFORMED_TIMESTAMP: "The time is not written as whole UTC seconds.",
    Reason.NO_SUPPORTED_SIGNATURE: "There is no signature that a secret of yours could have made: another version or"
    " algorithm, or a public key where the sender uses a shared secret.",
    Reason.MALFORMED_SIGNATURE: "The signature is cut off, or not written as this sender writes it.",
    Reason.BODY_NOT_SIGNED: "The body is not covered: it is no form, and the address has no bodySHA256.",
    Reason.BODY_TOO_LARGE: "The body is larger than max_bytes.",
}


def explained(verifier: Matcher, body: bytes, headers: Headers, target: str | None) -> str:
    """A finding in a few sentences, for the person who set the receiver up."""
    pairs: Any = headers
    if not isinstance(headers, dict) and not hasattr(headers, "items"):
        pairs = list(headers)  # it is read more than once
    try:
        event = verifier.verify(body, pairs, target=target)
    except Misuse as error:
        return str(error)
    except BartizanError as error:
        return " ".join([f"Refused: {error.reason.value}.", *_findings(verifier, body, pairs, target, error)])
    return f"It verifies, with the secret {event.key!r}."


def _findings(
    verifier: Matcher, body: bytes, headers: Headers, target: str | None, error: BartizanError
) -> Iterator[str]:
    if error.reason in {Reason.TIMESTAMP_TOO_OLD, Reason.TIMESTAMP_IN_FUTURE}:
        moment = _timeless(verifier, headers)
        if moment is not None:
            off = verifier.now - moment
            yield f"The signed time is {abs(off)} seconds {'before' if off > 0 else 'after'} this machine's clock."
            if abs(off) >= 1800 and min(abs(off) % 900, 900 - abs(off) % 900) <= 60:
                yield "That is close to a whole number of quarter-hours: a clock is set in local time."
            elif off > 0:
                yield "It was captured and sent again, or it waited in a queue: verify before queueing."
        return
    if error.reason is not Reason.SIGNATURE_MISMATCH:
        yield _HINTS.get(error.reason, "")
        return
    if verifier.scheme.provider.signed == "{url}{params}":
        yield "The sender signs the address that it called: behind a proxy, url= is the public one, with its port if it"
        yield f"has one. This was checked against {verifier.public_url(target)!r}."
    for text, other, keys in _guesses(verifier, body):
        if _verifies(verifier, other, headers, target, keys):
            yield text
            return
    yield "No usual mistake explains it: another secret (test or live, another endpoint), or a body that was changed."


def _guesses(verifier: Matcher, body: bytes) -> Iterator[tuple[str, bytes, list[Key]]]:
    keys = list(verifier.keys)
    yield "It was signed with a secret that has expired here.", body, keys
    for text, other in _bodies(body):
        yield text, other, keys
    for text, made in _readings(verifier):
        yield text, body, made


def _bodies(body: bytes) -> Iterator[tuple[str, bytes]]:
    trimmed = body.rstrip(b"\r\n")
    if trimmed != body:
        yield "It verifies without the newline at its end: something added one.", trimmed
    yield "It verifies with a newline at its end: something took it away.", body + b"\n"
    yield "It verifies with CRLF newlines: something changed them.", body.replace(b"\n", b"\r\n")
    yield "It verifies with LF newlines: something changed them.", body.replace(b"\r\n", b"\n")
    try:
        value = loads(body)
    except (JSONDecodeError, UnicodeDecodeError, RecursionError):
        return
    again = "It verifies when the JSON is written anew: it was parsed and serialised on its way; pass the raw bytes."
    for separators in ((",", ":"), (", ", ": ")):
        for ascii_only in (True, False):
            yield again, dumps(value, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _readings(verifier: Matcher) -> Iterator[tuple[str, list[Key]]]:
    provider = verifier.scheme.provider
    forms: tuple[tuple[str, Callable[[str], str], Provider], ...]
    if provider.key_form == "standard":
        said = "It verifies with the secret taken as text: this sender does not decode it, as Stripe does not."
        forms = ((said, str, provider._replace(key_form="text")),)
    else:
        said = "It verifies with the secret decoded as base64: this sender follows Standard Webhooks."
        forms = ((said, str, provider._replace(key_form="standard")),)
    trimmed = "It verifies with the secret without the white space around it."
    for text, read, row in (*forms, (trimmed, str.strip, provider)):
        made: list[Key] = []
        for secret in verifier.secrets:
            try:
                made.append(key_of(NamedSecret(read(secret.secret), name=secret.name), row, unsafe_short_secret=True))
            except Misuse:
                continue
        yield text, made


def _verifies(verifier: Matcher, body: bytes, headers: Headers, target: str | None, keys: list[Key]) -> bool:
    try:
        verifier.tried(body, headers, target, [key for key in keys if isinstance(key, HmacKey)])
    except (InvalidWebhook, Misuse):
        return False
    return True


def _timeless(verifier: Matcher, headers: Headers) -> int | None:
    """The signed time, however far away it is."""
    try:
        return verifier.scheme.read(headers, 0, 10**12)[4]
    except BartizanError:
        return None
