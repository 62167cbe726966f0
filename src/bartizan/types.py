"""Names for annotations; only `Identified` and `Identity` are ever called."""

from bartizan.core.cookies import Cookie as Cookie
from bartizan.core.events import AuditEvent as AuditEvent
from bartizan.core.once import Claim as Claim
from bartizan.core.passage import Admit as Admit, Decision as Decision, Refuse as Refuse
from bartizan.core.requirement import Requirement as Requirement
from bartizan.core.request import Request as Request
from bartizan.core.roots import SecretUse as SecretUse
from bartizan.credentials.key_rows import IssuedKey as IssuedKey, KeyRecord as KeyRecord, KeyRow as KeyRow
from bartizan.credentials.key_text import ParsedKey as ParsedKey
from bartizan.credentials.links import Link as Link
from bartizan.credentials.tokens import VerifiedToken as VerifiedToken
from bartizan.sessions.exchanges import Identity as Identity
from bartizan.sessions.families import Session as Session
from bartizan.sessions.signin import PendingCode as PendingCode
from bartizan.gate.doors import Identified as Identified, Authenticator as Authenticator
from bartizan.webhooks.endpoint_rows import (
    Delivery as Delivery,
    EndpointRecord as EndpointRecord,
    IssuedEndpoint as IssuedEndpoint,
)

__all__ = [
    "Admit",
    "AuditEvent",
    "Authenticator",
    "Claim",
    "Cookie",
    "Decision",
    "Delivery",
    "EndpointRecord",
    "Identified",
    "Identity",
    "IssuedEndpoint",
    "IssuedKey",
    "KeyRecord",
    "KeyRow",
    "Link",
    "ParsedKey",
    "PendingCode",
    "Refuse",
    "Request",
    "Requirement",
    "SecretUse",
    "Session",
    "VerifiedToken",
]
