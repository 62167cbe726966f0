"""What whoever presents a token shows beside it: a key's proof (RFC 9449), or the cookie that began the session."""

from collections.abc import Callable

from bartizan.core.cookies import BIND, Cookie, cookies_in
from bartizan.core.events import AuditEvent, Journal
from bartizan.core.once import Markers
from bartizan.core.ports import Clock
from bartizan.core.principal import ConsumerPrincipal, Environment, Unit, current_unit
from bartizan.core.request import Request
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp
from bartizan.core.tables import OVER_FOR
from bartizan.credentials.access_tokens import BY_COOKIE, BY_KEY, LONGEST_SESSION, Said, SessionPolicy, key_of
from bartizan.errors import InvalidProof, Misuse, Reason
from bartizan.sessions.binding import SPELLINGS, Proof, ProofReader
from bartizan.sessions.families import FamilyRow

_ALGORITHMS = f'algs="{SPELLINGS}"'
CHALLENGE = f"DPoP {_ALGORITHMS}"
NONCE_EVERY, NONCE_LIFE = 300, 600  # seconds: how often there is a new nonce, and for how long one is taken
SKEW = 300  # seconds by which the store's clock may be ahead of ours; a proof is remembered so much longer
NO_OWNER = "-"  # a proof is used up at once, and never given back: whose claim it was does not matter
_NO_ID = bytes(16)  # a nonce is everybody's
_ERRORS = {  # RFC 9449 sections 7.1 and 9; whatever else is wrong is the proof
    Reason.TOKEN_BOUND: "invalid_token",
    Reason.TOKEN_NOT_BOUND: "invalid_token",
    Reason.SESSION_MISBOUND: "invalid_token",
    Reason.PROOF_WITHOUT_NONCE: "use_dpop_nonce",
}


class Possession:
    """Reads what a request shows, and holds it against what a session is bound to."""

    def __init__(
        self,
        *,
        markers: Markers,
        ring: SecretRing,
        environment: Environment,
        policy: SessionPolicy,
        origins: tuple[str, ...],
        clock: Clock,
        journal: Journal,
        wake: Callable[[], None],
    ) -> None:
        if policy.binding == "dpop" and not origins:
            raise Misuse('binding="dpop" needs Bartizan(origins=[…]): a proof names the URL that it is for')
        self._markers = markers
        self._policy = policy
        self._clock = clock
        self._journal = journal
        self._wake = wake
        self._reader = ProofReader(origins)
        self._nonces = Stamp(
            ring, Purpose.DPOP_NONCE, environment, prefix="nonce", longest=0, life=NONCE_LIFE, error=InvalidProof
        )
        self._newest: tuple[int, str] = (0, "")
        self._cookies = Stamp(
            ring, Purpose.COOKIE_BIND, environment, prefix="bind", longest=0, life=LONGEST_SESSION + 86_400,
            error=InvalidProof,
        )  # fmt: skip

    # --- sessions that begin ---

    def begins(self, request: Request | None) -> str | None:
        """What a session is bound to that begins with this request.

        No nonce is asked for, and nothing is claimed: whoever sends another's proof again, or one that was made long
        ago, gets tokens that are of no use to them.
        """
        here = _proved_here()
        if here is not None:
            return here
        if request is not None and request.proof is not None:
            return BY_KEY + self._good(self._read(request, request.proof, nonces=False)).thumbprint
        if self._policy.binding == "dpop":
            if request is None:
                raise Misuse('with binding="dpop" a session begins with a request: give it as proof=')
            raise self.refused(Reason.PROOF_MISSING)
        return BY_COOKIE if self._policy.binding == "cookie" else None

    def cookie(self, family: FamilyRow) -> Cookie | None:
        """The cookie that shows that its browser began this family; always the same, and nothing of it is stored."""
        if family.binding != BY_COOKIE:
            return None
        begun, ends = family.created_at, family.absolute_ends
        text = self._cookies.make(b"", now=begun, seconds=ends - begun, id_=bytes.fromhex(family.id))
        return Cookie(BIND, text, max(0, ends - self._clock.seconds()))

    def nonce(self) -> str:
        """The nonce of now, the same in every process with these secrets (RFC 9449 section 8)."""
        now = self._clock.seconds()
        begun = now - now % NONCE_EVERY
        if self._newest[0] != begun:
            self._newest = begun, self._nonces.make(b"", now=begun, seconds=NONCE_LIFE, id_=_NO_ID)
        return self._newest[1]

    # --- tokens that are presented ---

    def refreshes(self, family: FamilyRow, request: Request | None) -> tuple[str | None, Proof | None]:
        """What the request shows of what the family is bound to, and the proof that is to be claimed then."""
        if family.binding is not None and _proved_here() == family.binding:
            return family.binding, None  # the gate has asked for it, and its proof is used up
        proof = None if request is None else request.proof
        if key_of(family.binding) is None:
            if proof is not None:
                raise self.refused(Reason.TOKEN_NOT_BOUND)
            return self.in_cookies(family, request), None
        if request is None or not proof:
            return None, None
        found = self._good(self._read(request, proof, nonces=True))
        return BY_KEY + found.thumbprint, found

    def in_cookies(self, family: FamilyRow, request: Request | None) -> str | None:
        """What the request shows of a family whose refresh token came in a cookie: never a key, which pages lack."""
        return BY_COOKIE if family.binding == BY_COOKIE and self._holds(request, family.id) else None

    def accompanies(self, principal: ConsumerPrincipal, token: str, request: Request | None) -> Proof | None:
        """The proof that has to be claimed before this token is believed; raises where nothing good came along."""
        said: Said = principal._said  # noqa: SLF001 - made for us
        proof = None if request is None else request.proof
        thumbprint = key_of(said.binding)
        if thumbprint is None:
            if proof is not None:
                raise self.refused(Reason.TOKEN_NOT_BOUND)
            if said.binding is not None and not self._holds(request, principal.session_id):
                raise self._misbound(principal, InvalidProof(Reason.SESSION_MISBOUND))
            return None
        if request is None or not proof or not request.says_dpop:
            raise self._misbound(principal, self.refused(Reason.TOKEN_BOUND))
        found = self._read(request, proof, nonces=True, token=token, thumbprint=thumbprint)
        if found is Reason.SESSION_MISBOUND:
            raise self._misbound(principal, self.refused(found))
        return self._good(found)

    async def claim(self, proof: Proof) -> None:
        """Use the proof up, in one write; `InvalidProof` where it was."""
        # A marker stays for an hour after its end, which is longer than a proof needs: one is made for every request.
        until = proof.until + SKEW - OVER_FOR
        self._wake()
        if not await self._markers.spend(proof.once, NO_OWNER, until):
            raise self.refused(Reason.PROOF_REPLAYED)

    def refused(self, reason: Reason) -> InvalidProof:
        """The error, which tells the client what to do (RFC 9449 section 7.1)."""
        error = _ERRORS.get(reason, "invalid_dpop_proof")
        headers = [("WWW-Authenticate", f'DPoP error="{error}", {_ALGORITHMS}')]
        if reason is Reason.PROOF_WITHOUT_NONCE:
            headers.append(("DPoP-Nonce", self.nonce()))
        return InvalidProof(reason, headers=tuple(headers))

    def _read(
        self, request: Request, proof: str, *, nonces: bool, token: str | None = None, thumbprint: str | None = None
    ) -> Proof | Reason:
        return self._reader.read(
            proof, method=_method(request), path=request.mount + request.path, now=self._clock.seconds(), token=token,
            thumbprint=thumbprint, nonce=self._ours if nonces and self._policy.dpop_nonces else None,
        )  # fmt: skip

    def _good(self, found: Proof | Reason) -> Proof:
        if isinstance(found, Reason):
            raise self.refused(found)
        return found

    def _ours(self, nonce: str) -> bool:
        if nonce == self.nonce():
            return True
        try:
            self._nonces.read(nonce, now=self._clock.seconds())
        except InvalidProof:
            return False
        return True

    def _holds(self, request: Request | None, session: str) -> bool:
        cookie = "" if request is None else request.header("cookie") or ""
        try:
            stamped = self._cookies.read(cookies_in(cookie).get(BIND, ""), now=self._clock.seconds())
        except InvalidProof:
            return False
        return stamped.id.hex() == session

    def _misbound(self, principal: ConsumerPrincipal, error: InvalidProof) -> InvalidProof:
        """Somebody has a token and not what it is bound to: that is told, and nothing else changes."""
        whose = principal.org, principal.actor, principal.session_id
        self._journal.note(AuditEvent("session.misbound", *whose, "refused", error.reason))
        error.about = f"session:{principal.session_id}"
        return error


def _proved_here() -> str | None:
    """The key that the gate has asked for in this very request."""
    unit = current_unit.get()
    for caller in () if isinstance(unit, Unit) and unit.over else unit.callers:
        if isinstance(caller, ConsumerPrincipal):
            said: Said = caller._said  # noqa: SLF001 - made for us
            return said.binding if said.by_token and key_of(said.binding) is not None else None
    return None


def _method(request: Request) -> str:
    return "GET" if request.method == "WEBSOCKET" else request.method  # RFC 6455 section 4.1
