"""Bartizan: the security architecture of a multi-tenant Python web service, as one library.

What you call is here, what you annotate with in `bartizan.types`, what a rule asks for in `bartizan.allow`. Importing
the package loads nothing; each name loads its module when it is first used (PEP 562).
"""

TYPE_CHECKING = False  # the name is what type checkers know; importing `typing` for it would cost 10 ms
if TYPE_CHECKING:
    from bartizan import allow as allow
    from bartizan.access.guards import Guard as Guard
    from bartizan.browser.csrf import OriginCheck as OriginCheck
    from bartizan.core.context import OrgAccess as OrgAccess
    from bartizan.core.passage import Rule as Rule
    from bartizan.core.principal import (
        ConsumerPrincipal as ConsumerPrincipal,
        JobPrincipal as JobPrincipal,
        MemberPrincipal as MemberPrincipal,
        Principal as Principal,
        PublishablePrincipal as PublishablePrincipal,
        SecretPrincipal as SecretPrincipal,
        current_principal as current_principal,
    )
    from bartizan.credentials.access_tokens import SessionPolicy as SessionPolicy
    from bartizan.credentials.issuers import Issuer as Issuer
    from bartizan.credentials.key_format import KeyFormat as KeyFormat
    from bartizan.credentials.tokens import TokenVerifier as TokenVerifier
    from bartizan.errors import (
        BartizanError as BartizanError,
        InvalidWebhook as InvalidWebhook,
        MalformedWebhook as MalformedWebhook,
        Misuse as Misuse,
        NotFound as NotFound,
        Rejected as Rejected,
        Unavailable as Unavailable,
    )
    from bartizan.gate.gate import Gate as Gate
    from bartizan.webhooks.delivery import WebhookPolicy as WebhookPolicy
    from bartizan.sessions.codes import SigninPolicy as SigninPolicy
    from bartizan.sessions.pairs import TokenPair as TokenPair
    from bartizan.webhooks.event import WebhookEvent as WebhookEvent
    from bartizan.webhooks.keys import NamedSecret as NamedSecret
    from bartizan.webhooks.signer import WebhookSigner as WebhookSigner
    from bartizan.webhooks.verifier import WebhookVerifier as WebhookVerifier
    from bartizan.wiring import Bartizan as Bartizan

_HOME = {
    "Bartizan": "wiring",
    "BartizanError": "errors",
    "ConsumerPrincipal": "core.principal",
    "Gate": "gate.gate",
    "Guard": "access.guards",
    "InvalidWebhook": "errors",
    "Issuer": "credentials.issuers",
    "JobPrincipal": "core.principal",
    "KeyFormat": "credentials.key_format",
    "MalformedWebhook": "errors",
    "MemberPrincipal": "core.principal",
    "Misuse": "errors",
    "NamedSecret": "webhooks.keys",
    "NotFound": "errors",
    "OrgAccess": "core.context",
    "OriginCheck": "browser.csrf",
    "Principal": "core.principal",
    "PublishablePrincipal": "core.principal",
    "Rejected": "errors",
    "Rule": "core.passage",
    "SecretPrincipal": "core.principal",
    "SessionPolicy": "credentials.access_tokens",
    "SigninPolicy": "sessions.codes",
    "TokenPair": "sessions.pairs",
    "TokenVerifier": "credentials.tokens",
    "Unavailable": "errors",
    "WebhookEvent": "webhooks.event",
    "WebhookPolicy": "webhooks.delivery",
    "WebhookSigner": "webhooks.signer",
    "WebhookVerifier": "webhooks.verifier",
    "allow": "",
    "current_principal": "core.principal",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{home or name}")
    value: object = module if not home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
