"""What verification is, whoever the sender: bytes and headers in, an event out. No framework, no store."""

from binascii import Error as NotBase64, a2b_base64, b2a_base64
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from time import time
from typing import Any

from bartizan.errors import BartizanError, InvalidWebhook, MalformedWebhook, Misuse, Reason, TooLarge
from bartizan.webhooks.event import WebhookEvent, found, new_event
from bartizan.webhooks.keys import Ed25519Key, HmacKey, Key, NamedSecret, Secrets, WebhookSecrets
from bartizan.webhooks.providers import STANDARD, Provider
from bartizan.webhooks.schemes import Headers, Read, Scheme

MAX_BYTES = 1 << 20
LONGEST_TOLERANCE = 86_400


class Matcher:
    """Verifies the messages of one sender; `WebhookVerifier` is this with every sender's name."""

    __slots__ = ("_clock", "_hex", "_provider", "_read", "_tolerance", "_url", "keys", "max_bytes", "scheme", "secrets")

    def __init__(
        self,
        secrets: Secrets,
        *,
        provider: Provider = STANDARD,
        tolerance: int = 300,
        max_bytes: int = MAX_BYTES,
        unsafe_short_secret: bool = False,
        clock: Callable[[], float] = time,
        url: str | None = None,
    ) -> None:
        if not _whole(tolerance) or not 1 <= tolerance <= LONGEST_TOLERANCE:
            raise Misuse(f"tolerance is 1 to {LONGEST_TOLERANCE} seconds: there is no switch that turns it off")
        if not _whole(max_bytes) or max_bytes < 1:
            raise Misuse("max_bytes is the size of the largest body")
        if (url is not None) != (provider.signed == "{url}{params}"):
            raise Misuse("url is the public address that this sender calls, and for senders that sign it alone")
        ring = WebhookSecrets(secrets)
        self.secrets: tuple[NamedSecret, ...] = ring.secrets
        self.keys: tuple[Key, ...] = ring.keys(provider, unsafe_short_secret=unsafe_short_secret)
        kinds = {key.asymmetric for key in self.keys}
        self.scheme: Scheme = Scheme(provider, symmetric=False in kinds, asymmetric=True in kinds)
        self._hex = provider.encoding == "hex"
        self._provider = provider
        self._read = self.scheme.read
        self.max_bytes: int = max_bytes
        self._tolerance = tolerance
        self._clock = clock
        self._url = url

    def verify(self, body: bytes, headers: Headers, *, target: str | None = None) -> WebhookEvent:
        """The event, or `InvalidWebhook`, `MalformedWebhook`, `StaleWebhook` or `TooLarge`.

        `headers` is a dict or any other mapping, pairs of texts or of bytes, or a WSGI environment. `target` is path
        and query as they were requested, for a sender that signs the address.
        """
        try:
            if type(body) is not bytes:
                raise Misuse("the body is bytes, exactly as they came: written again after reading it is another text")
            if len(body) > self.max_bytes:
                raise TooLarge
            now = self._clock()
            if self._url is None:
                return self.judged(self._read(headers, now, self._tolerance), now, body)
            return self.judged(self._read(headers, now, self._tolerance), now, body, self.bare(body, target))
        except BartizanError as failed:
            error = failed
        # Outside the block, and without the frames that hold the message: what reports errors keeps their locals.
        del body, headers, target
        error.__context__ = error.__cause__ = None  # as `stripped`, without its call: a refusal is to cost little
        raise error.with_traceback(None)

    def begin(self, headers: Headers, *, target: str | None = None) -> "Check":
        """All that headers are enough for, refused here; then `update` with every chunk, and `end` with the body."""
        try:
            now = self._clock()
            return Check(self, self._read(headers, now, self._tolerance), now, target)
        except BartizanError as failed:
            error = failed
        del headers, target
        raise stripped(error)

    def tried(self, body: bytes, headers: Headers, target: str | None, keys: Sequence[Key]) -> WebhookEvent:
        """As `verify`, with other keys, whether they have ended or not: for `explain`."""
        return self.judged(self._read(headers, self.now, self._tolerance), 0, body, self.bare(body, target), keys)

    def judged(  # noqa: PLR0917 - one message in its parts, on the way of every one
        self,
        read: Read,
        now: float,
        body: bytes,
        instead: bytes | None = None,
        keys: Sequence[Key] | None = None,
        begun: Mapping[Key, Any] | None = None,
    ) -> WebhookEvent:
        """The event, if one of the keys made one of the codes; `begun` are hashes that were fed the body already.

        `instead` is what is signed in place of the body, where the scheme rewrites it.
        """
        prefix, codes, signatures, identity, moment, unsigned = read
        for key in self.keys if keys is None else keys:
            if key.until is not None and now >= key.until:
                continue
            if codes and isinstance(key, HmacKey):
                if begun is None:
                    inner = key.inner.copy()
                    inner.update(prefix)
                    inner.update(body if instead is None else instead)
                else:
                    inner = begun[key]
                outer = key.outer.copy()
                outer.update(inner.digest())
                text = outer.hexdigest() if self._hex else b2a_base64(outer.digest(), newline=False).decode()
                for presented in codes:
                    if compare_digest(presented, text):
                        event = new_event(WebhookEvent)
                        found(event, (self._provider, identity, moment, body, key.name, unsigned, instead))
                        return event
            elif signatures and isinstance(key, Ed25519Key) and self._signed(key, signatures, prefix + body):
                event = new_event(WebhookEvent)
                found(event, (self._provider, identity, moment, body, key.name, unsigned, None))
                return event
        if any(self.decoded(presented) is not None for presented in (*codes, *signatures)):
            raise InvalidWebhook(Reason.SIGNATURE_MISMATCH)
        raise MalformedWebhook(Reason.MALFORMED_SIGNATURE)

    def _signed(self, key: Ed25519Key, signatures: Sequence[str], message: bytes) -> bool:
        codes = [self.decoded(presented) for presented in signatures]
        return any(code is not None and key.verifies(code, message) for code in codes)

    def decoded(self, presented: str) -> bytes | None:
        """The code's bytes, where it is written in the one canonical way: other spellings would be other codes."""
        try:
            if self.scheme.provider.encoding == "hex":
                code = bytes.fromhex(presented)
                return code if code.hex() == presented else None
            code = a2b_base64(presented, strict_mode=True)
        except (NotBase64, ValueError):
            return None
        whole = len(code) in self.scheme.sizes and b2a_base64(code, newline=False).decode("ascii") == presented
        return code if whole else None

    def bare(self, body: bytes, target: str | None) -> bytes | None:
        """What is signed in place of the body, for the one sender that signs something else."""
        if self._provider.signed != "{url}{params}":
            return None
        from bartizan.webhooks.forms import signed_by_url  # noqa: PLC0415 - loaded for the one sender

        return signed_by_url(self.public_url(target), body)

    def public_url(self, target: str | None) -> str:
        """The address that the sender called."""
        if target is None or self._url is None:
            raise Misuse("this sender signs the address: give target=, path and query as they were requested")
        return self._url + target

    @property
    def now(self) -> int:
        """The verifier's time, in UTC seconds."""
        return int(self._clock())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.scheme.provider.name}>"


class Check:
    """A message whose headers have been read, and whose body is hashed while it arrives."""

    __slots__ = ("_begun", "_now", "_read", "_size", "_target", "_verifier")

    def __init__(self, verifier: Matcher, read: Read, now: float, target: str | None) -> None:
        self._verifier = verifier
        self._read = read
        self._now = now
        self._target = target
        self._size = 0
        self._begun: dict[Key, Any] | None = {}
        if verifier.scheme.provider.signed == "{url}{params}":
            self._begun = None  # its fields are sorted before they are hashed
            return
        for key in verifier.keys:
            if isinstance(key, HmacKey) and read[1]:
                inner = self._begun[key] = key.inner.copy()
                inner.update(read[0])

    def update(self, chunk: bytes) -> None:
        """The next bytes of the body; `TooLarge` as soon as they are too many."""
        self._size += len(chunk)
        if self._size > self._verifier.max_bytes:
            raise TooLarge
        for inner in (self._begun or {}).values():
            inner.update(chunk)

    def end(self, body: bytes) -> WebhookEvent:
        """The event; `body` is what `update` was given."""
        try:
            if self._begun is None:
                return self._verifier.judged(self._read, self._now, body, self._verifier.bare(body, self._target))
            return self._verifier.judged(self._read, self._now, body, begun=self._begun)
        except BartizanError as failed:
            error = failed
        del body
        raise stripped(error)


def stripped(error: BartizanError) -> BartizanError:
    """The error without the frames and causes that hold the message: what reports errors keeps their locals."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
