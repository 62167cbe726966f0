"""What each sender of webhooks does, as data: which headers, what is signed, how, for how long it tries again.

A row is read by `schemes` and `verifier`; a new sender is a new row. What `whsec_` means is the row's, never guessed:
Standard Webhooks decodes the rest as base64, Stripe and Fanfare take the whole text as the key.
"""

from re import compile as pattern
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from bartizan.errors import Misuse

Algorithm = Literal["sha256", "sha512", "sha1", "ed25519"]
Layout = Literal["plain", "spaced", "fields", "pair"]
KeyForm = Literal["text", "standard", "ed25519"]
Replay = Literal["none", "time", "id and time"]

DAY = 86_400
UNKNOWN = 7 * DAY  # how long a marker is kept where a captured message stays valid, or nobody says how long is retried
HOOK0_COVERED = "v1"  # the one version whose signature covers headers too

_SLOT = pattern(r"\{(\w*)\}")
_NAME = pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # a header's name: RFC 9110 section 5.1
_LITERAL = pattern(r"[\x20-\x7e]*")


class _Row(NamedTuple):  # written as a tuple: `import dataclasses` costs more than this whole room
    name: str
    signature: str
    signed: str
    layout: Layout = "plain"
    label: str = ""
    algorithm: Algorithm = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    timestamp: str | None = None
    id: str | None = None
    key_form: KeyForm = "text"
    minimum: int = 16  # bytes of a secret
    id_member: str | None = None
    type_member: str | None = None
    type_header: str | None = None  # one of `unsigned`
    unsigned: tuple[str, ...] = ()
    retried_for: int | None = None
    covered_id: str | None = None  # Hook0: its version v1 names headers that it covers; of these, the event's id


class Provider(_Row):
    """One sender's scheme.

    `signature`, `timestamp` and `id` are header names; `signed` is what the code is made of, such as
    `{id}.{timestamp}.{body}`. `layout` says how codes stand in the signature header: `plain` is `label` and one code,
    `spaced` is `v1,code v1,code`, `fields` is `t=time,v1=code,v1=code`, `pair` is a time and one code by position.
    `id_member` and `type_member` name members of a JSON body; `unsigned` are headers that receivers read and no code
    covers; `retried_for` is how many seconds after the first attempt the last one comes, None where nobody says.
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # for type checkers it is the tuple's own, with every field

        def __new__(cls, **fields: Any) -> Self:
            """Checked where it is made."""
            row = super().__new__(cls, **fields)
            row._check()
            return row

    def _check(self) -> None:
        for header in (self.signature, self.timestamp, self.id, *self.unsigned):
            if header is not None and not _NAME.fullmatch(header):
                raise Misuse("a header name is 1 to 100 characters of RFC 9110 section 5.1")
        if self.type_header is not None and self.type_header not in self.unsigned:
            raise Misuse("the header of a type is one of unsigned")
        names = self.slots
        if self.signed == "{url}{params}":
            return
        if not self.signed.endswith("{body}") or names.count("body") != 1 or len(set(names)) != len(names):
            raise Misuse("signed ends with {body}, and names each part once")
        if not set(names) <= {"id", "timestamp", "body"}:
            raise Misuse("signed is made of {id}, {timestamp} and {body}")
        if ("id" in names) != (self.id is not None):
            raise Misuse("an id that is not signed is none: name its header in unsigned, or put {id} into signed")
        if ("timestamp" in names) != (self.timestamp is not None or self.layout in {"fields", "pair"}):
            raise Misuse("a time that is not signed is none: name its header in unsigned, or put {timestamp} there")
        literals = self.literals
        if not all(_LITERAL.fullmatch(text) for text in (*literals, self.label)):
            raise Misuse("label, and what stands between the parts of signed, is printable ASCII")
        if any(not after and name == "id" for name, after in zip(names, literals[1:], strict=True)):
            raise Misuse("behind {id} stands a separator: without one, id and body could trade characters")
        if self.layout in {"spaced", "fields"} and not self.label:
            raise Misuse("label is the version whose codes are read, such as v1")

    @property
    def slots(self) -> list[str]:
        """The names in `signed`, in their order."""
        return _SLOT.findall(self.signed)

    @property
    def literals(self) -> list[str]:
        """What stands before, between and behind them."""
        return _SLOT.split(self.signed)[::2]

    @property
    def replay(self) -> Replay:
        """What is signed of that which tells a message from its repetition."""
        names = self.slots
        return "none" if "timestamp" not in names else "id and time" if "id" in names else "time"

    @property
    def keep(self) -> int:
        """Seconds for which a handled event is remembered: the whole retry schedule and a day.

        Without a signed time the marker is the only thing that stops a captured message, so it stays for a week.
        """
        known = UNKNOWN if self.retried_for is None else self.retried_for + DAY
        return max(known, UNKNOWN) if self.replay == "none" else known


def _standard(name: str, prefix: str = "webhook", retried_for: int | None = None) -> Provider:
    return Provider(
        name=name, signature=f"{prefix}-signature", timestamp=f"{prefix}-timestamp", id=f"{prefix}-id",
        signed="{id}.{timestamp}.{body}", layout="spaced", label="v1", encoding="base64",
        key_form="standard", minimum=24, type_member="type", retried_for=retried_for,
    )  # fmt: skip


# Seconds before each attempt after the one before it. Standard Webhooks 1.0.0, "Retry schedule"; Svix, "Retries".
STANDARD_SCHEDULE = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
SVIX_SCHEDULE = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)

STANDARD = _standard("standard", retried_for=sum(STANDARD_SCHEDULE))
SVIX = _standard("svix", "svix", retried_for=sum(SVIX_SCHEDULE))
OPENAI = _standard("openai", retried_for=3 * DAY)
ANTHROPIC = _standard("anthropic")
STRIPE = Provider(
    name="stripe", signature="stripe-signature", signed="{timestamp}.{body}", layout="fields", label="v1",
    id_member="id", type_member="type", retried_for=3 * DAY,
)  # fmt: skip
GITHUB = Provider(
    name="github", signature="x-hub-signature-256", signed="{body}", label="sha256=", retried_for=3 * DAY,
    type_header="x-github-event",
    unsigned=("x-github-event", "x-github-delivery", "x-github-hook-id", "x-github-hook-installation-target-id",
              "x-github-hook-installation-target-type"),
)  # fmt: skip
SLACK = Provider(
    name="slack", signature="x-slack-signature", timestamp="x-slack-request-timestamp",
    signed="v0:{timestamp}:{body}", label="v0=", id_member="event_id", type_member="type", retried_for=360,
    unsigned=("x-slack-retry-num", "x-slack-retry-reason"),
)  # fmt: skip
SHOPIFY = Provider(
    name="shopify", signature="x-shopify-hmac-sha256", signed="{body}", encoding="base64", retried_for=2 * DAY,
    type_header="x-shopify-topic",
    unsigned=("x-shopify-topic", "x-shopify-shop-domain", "x-shopify-webhook-id", "x-shopify-event-id",
              "x-shopify-api-version", "x-shopify-triggered-at"),
)  # fmt: skip
TWILIO = Provider(  # HMAC-SHA-1 is all that Twilio offers; as a MAC it is not broken
    name="twilio", signature="x-twilio-signature", signed="{url}{params}", algorithm="sha1", encoding="base64",
    unsigned=("i-twilio-idempotency-token",),
)  # fmt: skip
DISCORD = Provider(
    name="discord", signature="x-signature-ed25519", timestamp="x-signature-timestamp", signed="{timestamp}{body}",
    algorithm="ed25519", key_form="ed25519", minimum=32, id_member="id",
)  # fmt: skip
HOOK0 = Provider(
    name="hook0", signature="x-hook0-signature", signed="{timestamp}.{body}", layout="fields", label="v0",
    covered_id="x-event-id", type_header="x-event-type", unsigned=("x-event-id", "x-delivery-id", "x-event-type"),
)  # fmt: skip


def convoy(
    *, timestamped: bool, algorithm: Literal["sha256", "sha512"], encoding: Literal["hex", "base64"]
) -> Provider:
    """The row for a project of Convoy, which chooses how it signs."""
    if timestamped:
        return Provider(
            name="convoy", signature="x-convoy-signature", signed="{timestamp},{body}", layout="fields", label="v1",
            algorithm=algorithm, encoding=encoding,
        )  # fmt: skip
    return Provider(
        name="convoy", signature="x-convoy-signature", signed="{body}", algorithm=algorithm, encoding=encoding
    )
