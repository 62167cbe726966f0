"""Every error that Bartizan raises, in one tree split by whose fault it is.

`Misuse` is the mistake of the program that calls us, raised while it is being built; `Rejected` is the fault of the
remote side; `Unavailable` means that a store or another port failed. Texts are constants: nothing that a peer sent is
ever part of one, and no error carries a cause. What really happened is in `reason`, which goes to events and metrics,
never to the client.
"""

from enum import StrEnum
from typing import Any, ClassVar

Headers = tuple[tuple[str, str], ...]


class Reason(StrEnum):
    """Why something was refused or admitted: a closed list, for events and metrics, never shown to a client."""

    # what was asked for
    MALFORMED_TARGET = "malformed_target"
    METHOD_OVERRIDE = "method_override"
    NO_RULE = "no_rule"
    METHOD_NOT_LISTED = "method_not_listed"
    PREFLIGHT = "preflight"
    # what was presented
    REPEATED_HEADER = "repeated_header"
    REPEATED_COOKIE = "repeated_cookie"
    CREDENTIAL_IN_QUERY = "credential_in_query"
    NO_CREDENTIAL = "no_credential"
    CREDENTIALS_DISAGREE = "credentials_disagree"
    WRONG_SLOT = "wrong_slot"
    WRONG_KIND = "wrong_kind"
    SCOPE_MISSING = "scope_missing"
    WRONG_ORGANIZATION = "wrong_organization"
    CONDITION = "condition"
    WRONG_SUBJECT = "wrong_subject"
    BODY_TOO_LARGE = "body_too_large"
    # keys
    MALFORMED_KEY = "malformed_key"
    UNKNOWN_KEY = "unknown_key"
    WRONG_SECRET = "wrong_secret"  # noqa: S105 - a reason, not a password
    KEY_REVOKED = "key_revoked"
    KEY_DISABLED = "key_disabled"
    KEY_EXPIRED = "key_expired"
    KEY_ROTATED = "key_rotated"
    KEY_ROW_EDITED = "key_row_edited"
    KEY_IN_BROWSER = "key_in_browser"
    KEY_LEAKED = "key_leaked"
    WRONG_ENVIRONMENT = "wrong_environment"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    NETWORK_NOT_ALLOWED = "network_not_allowed"
    ADDRESS_UNKNOWN = "address_unknown"
    # tokens
    MALFORMED_TOKEN = "malformed_token"  # noqa: S105 - a reason, not a password
    UNKNOWN_SIGNING_KEY = "unknown_signing_key"
    WRONG_ALGORITHM = "wrong_algorithm"
    WRONG_SIGNATURE = "wrong_signature"
    WRONG_TOKEN_TYPE = "wrong_token_type"  # noqa: S105 - a reason, not a password
    WRONG_ISSUER = "wrong_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    CLAIM_INVALID = "claim_invalid"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a reason, not a password
    TOKEN_NOT_YET = "token_not_yet"  # noqa: S105 - a reason, not a password
    TOKEN_LIVES_TOO_LONG = "token_lives_too_long"  # noqa: S105 - a reason, not a password
    TOKEN_BOUND = "token_bound"  # noqa: S105 - a reason, not a password
    SIGN_IN_AGAIN = "sign_in_again"
    FOREIGN_ORGANIZATION = "foreign_organization"
    MAPPING_FAILED = "mapping_failed"
    # proofs of possession
    TOKEN_NOT_BOUND = "token_not_bound"  # noqa: S105 - a reason, not a password
    PROOF_MISSING = "proof_missing"
    PROOF_MALFORMED = "proof_malformed"
    PROOF_FORGED = "proof_forged"
    PROOF_OTHER_REQUEST = "proof_other_request"
    PROOF_OTHER_TOKEN = "proof_other_token"  # noqa: S105 - a reason, not a password
    PROOF_OUT_OF_TIME = "proof_out_of_time"
    PROOF_WITHOUT_NONCE = "proof_without_nonce"
    PROOF_REPLAYED = "proof_replayed"
    # texts that we hand out and read back
    MALFORMED = "malformed"
    FORGED = "forged"
    EXPIRED = "expired"
    ALREADY_USED = "already_used"
    LINK_BY_GET = "link_by_get"
    # sessions
    SESSION_UNKNOWN = "session_unknown"
    SESSION_EXPIRED = "session_expired"
    SESSION_REVOKED = "session_revoked"
    SESSION_REUSED = "session_reused"
    SESSION_FORKED = "session_forked"
    SESSION_MISBOUND = "session_misbound"
    SESSION_UPGRADED = "session_upgraded"
    SESSION_DISPLACED = "session_displaced"
    SUBJECT_DISABLED = "subject_disabled"
    NOT_A_MEMBER = "not_a_member"
    STORE_ROLLED_BACK = "store_rolled_back"
    # signing in
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    CODE_UNKNOWN = "code_unknown"
    CODE_WRONG = "code_wrong"
    CODE_SPENT = "code_spent"
    CHALLENGE_WRONG = "challenge_wrong"
    # webhooks
    HEADER_MISSING = "header_missing"
    MALFORMED_HEADER = "malformed_header"
    MALFORMED_TIMESTAMP = "malformed_timestamp"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    NO_SUPPORTED_SIGNATURE = "no_supported_signature"
    MALFORMED_SIGNATURE = "malformed_signature"
    SIGNATURE_MISMATCH = "signature_mismatch"
    BODY_NOT_SIGNED = "body_not_signed"
    UNREADABLE_BODY = "unreadable_body"
    # changes
    NO_RECORD = "no_record"
    STATE_CHANGED = "state_changed"
    IN_FLIGHT = "in_flight"
    LEASE_LOST = "lease_lost"
    # ports
    SECRET_MISSING = "secret_missing"  # noqa: S105 - a reason, not a password
    SEAL_BROKEN = "seal_broken"
    STORE_FAILED = "store_failed"
    STORE_BUSY = "store_busy"
    CALLBACK_FAILED = "callback_failed"
    ENDPOINT_NOT_ALLOWED = "endpoint_not_allowed"
    ENDPOINT_FAILED = "endpoint_failed"
    # explanations
    WOULD_WRITE = "would_write"
    NOT_ASKED = "not_asked"
    # everything else
    INVALID_REQUEST = "invalid_request"
    APPLICATION = "application"
    ADMITTED = "admitted"


class BartizanError(Exception):
    """The root of all our errors; raise one of its children.

    `code` is the class name in snake_case, `status` the HTTP status, `problem` the RFC 9457 members that are safe to
    show, `headers` what the answer must carry. `about` is the public name of the credential that was refused, where one
    is known: for events, as `reason` is.
    """

    about: str | None = None

    code: ClassVar[str] = "bartizan_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The request could not be served."
    default: ClassVar[Reason] = Reason.APPLICATION

    reason: Reason
    headers: Headers

    def __init_subclass__(cls) -> None:
        name = cls.__name__
        cls.code = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")

    def __init__(self, reason: Reason | None = None, *, headers: Headers = ()) -> None:
        self.args: tuple[Any, ...] = (self.title,)
        self.reason = self.default if reason is None else reason
        self.headers = headers

    @property
    def problem(self) -> dict[str, str | int]:
        """The members of the RFC 9457 body: `type`, `title`, `status`, `code`."""
        kind = f"urn:bartizan:problem:{self.code}"
        return {"type": kind, "title": self.title, "status": self.status, "code": self.code}


class Misuse(BartizanError, ValueError):  # noqa: N818 - named after the finding
    """The calling program's own mistake; its text says what to write instead."""

    title = "The service is not configured correctly."

    def __init__(self, text: str) -> None:
        super().__init__()
        Exception.__init__(self, text)


class Rejected(BartizanError):  # noqa: N818
    """The remote side's fault."""

    status = 400
    title = "The request was refused."
    default = Reason.INVALID_REQUEST


class Unauthenticated(Rejected):
    """Nobody, or nobody we believe: 401."""

    status = 401
    title = "Valid credentials are required."
    default = Reason.NO_CREDENTIAL


class InvalidKey(Unauthenticated):
    """An API key that does not verify; unknown, wrong, revoked and expired look the same."""

    title = "The API key is not valid."
    default = Reason.UNKNOWN_KEY


class InvalidToken(Unauthenticated):
    """A token that does not verify; forged, expired, and another's look the same (RFC 6750 section 3.1)."""

    title = "The token is not valid."
    default = Reason.MALFORMED_TOKEN


class InvalidSession(Unauthenticated):
    """A session that is over, or a refresh token that does not verify; whatever is wrong with it looks the same.

    `superseded` is whether another session took its place: the browser may have that one's cookies by now.
    """

    superseded: bool = False

    title = "The session is not valid."
    default = Reason.SESSION_UNKNOWN


class SessionReused(InvalidSession):
    """A refresh token that was used up long ago came again: two parties have this session, so it was ended."""

    title = "The session was ended: sign in again."
    default = Reason.SESSION_REUSED


class InvalidProof(Unauthenticated):
    """A proof of possession that is missing or does not hold for this very request and token (RFC 9449)."""

    title = "A valid proof of possession is required."
    default = Reason.PROOF_MALFORMED


class InvalidCode(Unauthenticated):
    """A text of ours, such as a link's, that does not verify; whatever is wrong with it looks the same."""

    title = "The code is not valid."
    default = Reason.MALFORMED


class Forbidden(Rejected):
    """Somebody we know who may not do this: 403."""

    status = 403
    title = "The caller may not do this."
    default = Reason.APPLICATION


class MissingScope(Forbidden):
    """The credential lacks a scope that the rule asks for."""

    title = "The credential lacks a required scope."
    default = Reason.SCOPE_MISSING


class WrongCredential(Forbidden):
    """A credential of another kind, or in another place, than the one asked for."""

    title = "This kind of credential is not accepted here."
    default = Reason.WRONG_KIND


class CrossOrigin(Forbidden):
    """A browser page of an origin that is not allowed."""

    title = "Requests from this origin are not accepted."
    default = Reason.ORIGIN_NOT_ALLOWED


class NotFound(Rejected):
    """Another organization's resource, or a path that no rule names: existence is not admitted."""

    status = 404
    title = "There is nothing here."
    default = Reason.APPLICATION


class InvalidRequest(Rejected):
    """A request that contradicts itself or carries what must not be there: 400."""

    title = "The request is not valid."


class MethodNotAllowed(Rejected):
    """The path is known, the method is not; `Allow` says which are (RFC 9110 section 15.5.6)."""

    status = 405
    title = "This method is not allowed here."
    default = Reason.METHOD_NOT_LISTED


class InvalidWebhook(Rejected):
    """A webhook whose signature does not verify: 401."""

    status = 401
    title = "The webhook is not valid."
    default = Reason.SIGNATURE_MISMATCH


class MalformedWebhook(InvalidWebhook):
    """A webhook that is not of its sender's form, or a body that its model cannot read: 400."""

    status = 400
    title = "The webhook is malformed."
    default = Reason.MALFORMED_HEADER


class StaleWebhook(InvalidWebhook):
    """A webhook whose signed time is too far from now, before or after."""

    title = "The webhook is too old, or from the future."
    default = Reason.TIMESTAMP_TOO_OLD


class Conflict(Rejected):
    """The record is not, or no longer, in the state that this change needs: 409."""

    status = 409
    title = "The record is not in a state that allows this."
    default = Reason.STATE_CHANGED


class InFlight(Conflict):
    """Somebody else is at this very work; `Retry-After` says when to ask again (RFC 9110 section 10.2.3)."""

    title = "This is being worked on."
    default = Reason.IN_FLIGHT


class TooLarge(Rejected):
    """A body over the rule's `body_limit`: 413."""

    status = 413
    title = "The body is too large."
    default = Reason.BODY_TOO_LARGE


class Unavailable(BartizanError):  # noqa: N818
    """A store or another port failed, so nothing could be decided: 503, and never a yes."""

    status = 503
    title = "The service is not available for the moment."
    default = Reason.STORE_FAILED


class WouldWrite(Unavailable):
    """Only in an explanation: what comes now is a write, and an explanation makes none."""

    default = Reason.WOULD_WRITE


class NotAsked(Unavailable):
    """Only in an explanation: a function of the application's would decide, and it was not to be asked."""

    default = Reason.NOT_ASKED
