"""`WebhookSigner`: the headers of a message, signed with every live key; and messages for tests of an endpoint."""

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from typing import Any

from bartizan.core.ports import Entropy, fresh
from bartizan.errors import Misuse
from bartizan.webhooks.keys import GRACE, Ed25519Key, Key, NamedSecret, Secrets, WebhookSecrets, fingerprint, new_secret
from bartizan.webhooks.matching import Matcher
from bartizan.webhooks.providers import STANDARD, Provider
from bartizan.webhooks.schemes import V1A, Scheme, is_id


class WebhookSigner:
    """Signs with every live secret, newest first, so that receivers of the old one go on. A value: nothing changes it.

    By default as Standard Webhooks does: `whsec_` secrets make `v1` codes, `whsk_` secrets `v1a` signatures.
    """

    __slots__ = ("_keys", "_ring", "_scheme")

    def __init__(self, secrets: Secrets, *, provider: Provider = STANDARD) -> None:
        self._ring = WebhookSecrets(secrets)
        self._keys = self._ring.keys(provider, unsafe_short_secret=False)
        self._scheme = Scheme(provider, symmetric=True, asymmetric=True)

    @property
    def secrets(self) -> tuple[NamedSecret, ...]:
        """What it signs with, newest first: to be kept sealed, and given to a `WebhookVerifier`."""
        return self._ring.secrets

    def sign(self, body: bytes, *, id: str, now: int) -> dict[str, str]:  # noqa: A002 - the standard's word
        """The headers of one attempt: `id` stays the same in every attempt, `now` (UTC seconds) is fresh for each."""
        return signed(self._scheme, live(self._keys, now), body, identity=id, now=now)

    def rotate(
        self, new: str | NamedSecret | None = None, *, now: int, grace: int = GRACE, entropy: Entropy = fresh
    ) -> "WebhookSigner":
        """A signer whose newest secret is `new`, a fresh one by default; the others sign for `grace` more seconds.

        No secret lives longer than before; at most ten old ones live at a time, and `Misuse` says when the next ends.
        """
        named = new_secret(entropy) if new is None else new
        if isinstance(named, str):
            named = NamedSecret(named, name=fingerprint(named))
        return WebhookSigner(self._ring.rotate(named, now=now, grace=grace).secrets, provider=self._scheme.provider)

    def __repr__(self) -> str:
        return f"<WebhookSigner of {self._ring!r}>"


class SignedRequest:
    """A message and its headers, to be sent with any client."""

    __slots__ = ("body", "headers")

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.body: bytes = body
        self.headers: dict[str, str] = headers


def live(keys: Sequence[Key], now: int) -> list[Key]:
    """The keys that count at that moment, newest first."""
    return [key for key in keys if key.until is None or now < key.until]


def newest(keys: Sequence[Key]) -> Key:
    """The first one; `Misuse` where all have ended."""
    if not keys:
        raise Misuse("no secret is live at that moment")
    return keys[0]


def signed(scheme: Scheme, keys: Sequence[Key], body: bytes, *, identity: str, now: int) -> dict[str, str]:
    """The headers that `scheme` reads, with a code of each key where its signature header has room for several."""
    if type(body) is not bytes:
        raise Misuse("the body is bytes, exactly as they will be sent")
    given: tuple[object, object] = (now, identity)
    if isinstance(given[0], bool) or not isinstance(given[0], int) or not 0 <= now < 10**12:
        raise Misuse("now is a moment in UTC seconds")
    if not isinstance(given[1], str) or not is_id(identity):
        raise Misuse("an id is 1 to 256 printable ASCII characters without space and dot")
    newest(keys)
    provider, time = scheme.provider, str(now)
    prefix = scheme.prefix(identity, time)
    codes = [(isinstance(key, Ed25519Key), coded(provider, key, prefix + body)) for key in keys]
    if provider.layout == "spaced":
        value = " ".join(f"{V1A if is_signature else provider.label + ','}{code}" for is_signature, code in codes)
    elif provider.layout == "fields":
        value = ",".join([f"t={time}", *(f"{provider.label}={code}" for _, code in codes)])
    elif provider.layout == "pair":
        value = f"t={time},v1={codes[0][1]}"
    else:
        value = provider.label + codes[0][1]
    headers = {provider.signature: value}
    if provider.timestamp is not None:
        headers[provider.timestamp] = time
    if provider.id is not None:
        headers[provider.id] = identity
    return headers


def coded(provider: Provider, key: Key, message: bytes) -> str:
    """The code of a message under one key, as the sender writes it."""
    code = key.sign(message) if isinstance(key, Ed25519Key) else key.mac(message)
    return code.hex() if provider.encoding == "hex" else b2a_base64(code, newline=False).decode("ascii")


def test_request(verifier: Matcher, body: Any, *, kind: str, identity: str, target: str) -> SignedRequest:
    """See `WebhookVerifier.test_request`."""
    scheme, now = verifier.scheme, verifier.now
    provider = scheme.provider
    content = body if isinstance(body, bytes) else _json(body)
    keys = live(verifier.keys, now)
    if provider.signed == "{url}{params}":
        from bartizan.webhooks.forms import signed_by_url  # noqa: PLC0415 - loaded for the one sender

        code = coded(provider, newest(keys), signed_by_url(verifier.public_url(target), content))
        headers = {provider.signature: code}
    else:
        headers = signed(scheme, keys, content, identity=identity or "msg_test", now=now)
    if kind and provider.type_header is not None:
        headers[provider.type_header] = kind
    return SignedRequest(content, headers)


def _json(value: Any) -> bytes:
    from json import dumps  # noqa: PLC0415 - loaded by tests

    written: Callable[[Any], str] = dumps
    return written(value).encode()
