"""`WebhookVerifier`: bytes and headers in, a `WebhookEvent` out, or `InvalidWebhook`; every sender by its name."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from bartizan.webhooks import providers
from bartizan.webhooks.event import WebhookEvent
from bartizan.webhooks.keys import Secrets
from bartizan.webhooks.matching import Matcher
from bartizan.webhooks.providers import Provider
from bartizan.webhooks.schemes import Headers

if TYPE_CHECKING:
    from typing import Self, Unpack

    from bartizan.webhooks.receiving import AsgiApp, HttpRequest, Security, WsgiApp
    from bartizan.webhooks.signer import SignedRequest


class Options(TypedDict, total=False):
    """What every way to make a verifier takes by name."""

    tolerance: int
    max_bytes: int
    unsafe_short_secret: bool
    clock: Callable[[], float]


class WebhookVerifier(Matcher):
    """Verifies the messages of one sender. `secrets` is one or several, newest first; it changes no store.

    `tolerance` is how many seconds the signed time may be away from `clock()`, before or after; `max_bytes` is the
    largest body. `unsafe_short_secret` lets in a secret below the sender's minimum. By default the sender signs as
    Standard Webhooks does (`v1` and `v1a`); the class methods are other senders.
    """

    __slots__ = ()

    # --- senders ---

    @classmethod
    def standard(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Standard Webhooks 1.0.0: `whsec_` for HMAC-SHA-256, `whpk_` for Ed25519."""
        return cls(secrets, **options)

    @classmethod
    def svix(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Svix: Standard Webhooks under the names `svix-…`."""
        return cls(secrets, provider=providers.SVIX, **options)

    @classmethod
    def openai(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """OpenAI."""
        return cls(secrets, provider=providers.OPENAI, **options)

    @classmethod
    def anthropic(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Anthropic."""
        return cls(secrets, provider=providers.ANTHROPIC, **options)

    @classmethod
    def stripe(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Stripe; the whole text `whsec_…` is the key."""
        return cls(secrets, provider=providers.STRIPE, **options)

    @classmethod
    def github(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """GitHub: SHA-256 alone; it signs no time and no id."""
        return cls(secrets, provider=providers.GITHUB, **options)

    @classmethod
    def slack(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Slack, `v0`."""
        return cls(secrets, provider=providers.SLACK, **options)

    @classmethod
    def shopify(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Shopify; it signs no time and no id, and neither shop nor topic."""
        return cls(secrets, provider=providers.SHOPIFY, **options)

    @classmethod
    def twilio(cls, secrets: Secrets, *, url: str, **options: "Unpack[Options]") -> "Self":
        """Twilio; `url` is the public address up to the path, such as `https://shop.example`: no header says it."""
        return cls(secrets, provider=providers.TWILIO, url=url, **options)

    @classmethod
    def discord(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Discord; the secret is the application's public key."""
        return cls(secrets, provider=providers.DISCORD, **options)

    @classmethod
    def convoy(
        cls,
        secrets: Secrets,
        *,
        timestamped: bool = True,
        algorithm: Literal["sha256", "sha512"] = "sha256",
        encoding: Literal["hex", "base64"] = "hex",
        **options: "Unpack[Options]",
    ) -> "Self":
        """Convoy, as the project signs; without `timestamped` ("simple") a captured message stays valid for ever."""
        row = providers.convoy(timestamped=timestamped, algorithm=algorithm, encoding=encoding)
        return cls(secrets, provider=row, **options)

    @classmethod
    def hook0(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Hook0, `v0` and `v1`, of which `v1` counts where both came."""
        return cls(secrets, provider=providers.HOOK0, **options)

    @classmethod
    def fanfare(cls, secrets: Secrets, *, scheme: Literal["A", "B"] = "A", **options: "Unpack[Options]") -> "Self":
        """Fanfare, as its reference says (A) or as its guide does (B)."""
        from bartizan import fanfare  # noqa: PLC0415 - loaded by name, by who asks for it

        return cls(secrets, provider=fanfare.WEBHOOK_B if scheme == "B" else fanfare.WEBHOOK_A, **options)

    @classmethod
    def unsafe_fanfare_c(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Fanfare's bare code over the body alone: a captured message can be sent again for ever."""
        from bartizan import fanfare  # noqa: PLC0415

        return cls(secrets, provider=fanfare.WEBHOOK_C, **options)

    @classmethod
    def unsafe_fanfare_d(cls, secrets: Secrets, **options: "Unpack[Options]") -> "Self":
        """Fanfare's `sha256=` code over the body alone: its time is not signed, and sent again for ever it verifies."""
        from bartizan import fanfare  # noqa: PLC0415

        return cls(secrets, provider=fanfare.WEBHOOK_D, **options)

    @classmethod
    def custom(
        cls,
        secrets: Secrets,
        *,
        signature: str,
        signed: str,
        layout: providers.Layout = "plain",
        label: str = "",
        algorithm: providers.Algorithm = "sha256",
        encoding: Literal["hex", "base64"] = "hex",
        timestamp: str | None = None,
        id: str | None = None,  # noqa: A002 - the row's word
        key_form: providers.KeyForm = "text",
        id_member: str | None = None,
        type_member: str | None = None,
        unsigned: Sequence[str] = (),
        retried_for: int | None = None,
        **options: "Unpack[Options]",
    ) -> "Self":
        """Any other sender: `signature`, `timestamp` and `id` are headers, `signed` such as `{timestamp}.{body}`.

        `layout` says how codes stand in the signature header: `plain` is `label` and one code, `spaced` is
        `v1,code v1,code`, `fields` is `t=time,v1=code` (there `label` is the version), `pair` a time and a code by
        position. `key_form` is `text`, `standard` (`whsec_` and base64) or `ed25519` (a public key). `id_member` and
        `type_member` name members of a JSON body, `unsigned` headers that no code covers, and `retried_for` the seconds
        from the first attempt to the last.
        """
        row = Provider(
            name="custom", signature=signature, signed=signed, layout=layout, label=label, algorithm=algorithm,
            encoding=encoding, timestamp=timestamp, id=id, key_form=key_form, id_member=id_member,
            type_member=type_member, unsigned=tuple(unsigned), retried_for=retried_for,
        )  # fmt: skip
        return cls(secrets, provider=row, **options)

    # --- around it ---

    async def receive(self, request: "HttpRequest") -> WebhookEvent:
        """The event of a Starlette or FastAPI request, whose body is read here: take it from the event afterwards."""
        from bartizan.webhooks.receiving import received  # noqa: PLC0415 - loaded by who receives

        return await received(self, request)

    def receive_wsgi(self, environ: dict[str, Any]) -> WebhookEvent:
        """The event of a WSGI request: `request.environ` of Flask and of Django. The body can be read again."""
        from bartizan.webhooks.wsgi_receiving import received  # noqa: PLC0415

        return received(self, environ)

    def asgi(self, app: "AsgiApp", *, path: str, security: "Security | None" = None) -> "AsgiApp":
        """`app`, whose POSTs to `path` are verified first; the event is `scope["bartizan.webhook"]`.

        With `security` each event reaches the application once, and every refusal is an event of the log.
        """
        from bartizan.webhooks.receiving import AsgiReceiver  # noqa: PLC0415

        return AsgiReceiver(self, app, path=path, security=security)

    def wsgi(self, app: "WsgiApp", *, path: str, security: "Security | None" = None) -> "WsgiApp":
        """As `asgi`, for WSGI; the event is `environ["bartizan.webhook"]`."""
        from bartizan.webhooks.wsgi_receiving import WsgiReceiver  # noqa: PLC0415

        return WsgiReceiver(self, app, path=path, security=security)

    def explain(self, body: bytes, headers: Headers, *, target: str | None = None) -> str:
        """For developers: why it is refused, and which mistake would explain that. Never show it to a client."""
        from bartizan.webhooks.explain import explained  # noqa: PLC0415

        return explained(self, body, headers, target)

    def test_request(self, body: Any, *, type: str = "", id: str = "", target: str = "") -> "SignedRequest":  # noqa: A002 - the sender's words
        """A message as the sender would send it now: bytes, or JSON of anything else. For tests of your endpoint."""
        from bartizan.webhooks.signer import test_request  # noqa: PLC0415

        return test_request(self, body, kind=type, identity=id, target=target)
