"""The endpoints at which consumers sign in, stay in and sign out: neutral handlers, which an adapter gives a request.

Tokens travel in bodies or in cookies, by the choice of whoever mounts them, and never in both.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, Protocol

from bartizan.core.cookies import DEVICE, PRE, REFRESH, Cookie, browser_secret, cookies_in
from bartizan.core.drive import settle
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import ConsumerPrincipal, PublishablePrincipal, SecretPrincipal, current_principal
from bartizan.credentials.access_tokens import BY_COOKIE
from bartizan.errors import (
    Conflict,
    InvalidProof,
    InvalidRequest,
    InvalidSession,
    MethodNotAllowed,
    MissingScope,
    Misuse,
    NotFound,
    Reason,
    Unauthenticated,
    Unavailable,
)
from bartizan.sessions.exchanges import EXCHANGE_LIFE, OURS, Identity
from bartizan.sessions.pairs import TokenPair, cleared_cookies
from bartizan.sessions.sessions import Sessions
from bartizan.sessions.signin import DEVICE_LIFE, PendingCode, Signin
from bartizan.sessions.wire import NAMES, Answered, Asked, fields_of, read, shown, tokens_of

Transport = Literal["body", "cookie"]
Resolve = Callable[[Identity], str | Awaitable[str]]


AUTHORIZE_SCOPE = "signin:authorize"  # what a secret key needs to say who somebody is
PRE_LIFE = 3600
ENDED = frozenset({Reason.SESSION_UNKNOWN, Reason.SESSION_REVOKED, Reason.SESSION_EXPIRED, Reason.SESSION_REUSED})


class Origins(Protocol):
    """What says whether a page of ours sent a request."""

    def verify(self, method: str, headers: Any, /) -> None:
        """Return, or raise `CrossOrigin`."""


class Handlers:
    """The endpoints over the services of one form.

    `deliver` hands a code on and returns at once; `resolve` is the application's, which gives a subject to an identity;
    `org` is the organization of callers who have no key that names one.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        signin: Signin,
        waits: Waits,
        clock: Clock,
        origins: Origins | None,
        deliver: Callable[[PendingCode, str], None],
        resolve: Resolve,
        transport: Transport,
        org: str | None,
        entropy: Entropy = fresh,
    ) -> None:
        if transport not in {"body", "cookie"}:
            raise Misuse('transport is "body" or "cookie"')
        if transport == "cookie" and origins is None:
            raise Misuse("cookies need Bartizan(origins=[…]): the origins whose pages may send them")
        self._sessions = sessions
        self._signin = signin
        self._waits = waits
        self._clock = clock
        self._origins = origins
        self._deliver = deliver
        self._resolve = resolve
        self._cookies = transport == "cookie"
        self._org = org
        self._entropy = entropy
        self._routes: dict[str, tuple[str, Callable[[Asked, dict[str, Any]], Awaitable[Answered]]]] = {
            "/guest": ("POST", self._guest),
            "/otp/request": ("POST", self._otp_request),
            "/otp/verify": ("POST", self._otp_verify),
            "/external/authorize": ("POST", self._external_authorize),
            "/external/exchange": ("POST", self._external_exchange),
            "/refresh": ("POST", self._refresh),
            "/logout": ("POST", self._logout),
            "/sessions": ("GET", self._list),
            "/sessions/revoke": ("POST", self._revoke),
        }

    async def answer(self, asked: Asked) -> Answered:
        """The answer; what is refused is raised."""
        request = asked.request
        path = request.path.removesuffix("/")
        found = self._routes.get(path)
        if found is None:
            raise NotFound(Reason.NO_RULE)
        method, handler = found
        if request.method != method:
            raise MethodNotAllowed(headers=(("Allow", method),))
        if self._cookies and self._origins is not None and path != "/external/authorize":
            # With and without a cookie: whoever is signed in by a stranger's page is signed in as that stranger.
            self._origins.verify(request.method, request.headers)
            if request.proof is not None:
                raise InvalidProof(Reason.TOKEN_NOT_BOUND)  # a page that is navigated to proves nothing
        return await handler(asked, fields_of(asked))

    # --- in ---

    async def _guest(self, asked: Asked, sent: dict[str, Any]) -> Answered:
        read(sent)
        if _consumer() is not None:
            raise Conflict  # they would leave a session behind that nobody ends
        subject = f"guest_{self._entropy(16).hex()}"
        pair = await self._sessions.start(
            org=self._whose(), subject=subject, guest=True, proof=asked.request, device=asked.device
        )
        return self._told(pair)

    async def _otp_request(self, asked: Asked, sent: dict[str, Any]) -> Answered:
        address, before, device = read(sent, NAMES.address, NAMES.request, NAMES.device, needs=1)
        org, browser, cookies = self._whose(), "", []
        if self._cookies:
            jar = self._jar(asked)
            browser, device = browser_secret(jar, self._entropy), jar.get(DEVICE)
            cookies = [Cookie(PRE, browser, PRE_LIFE)]
        pending = await self._signin.request_code(
            org=org, address=address, browser=browser, pending_id=before, device=device
        )
        if pending.code is not None:
            self._deliver(pending, org)
        return Answered({NAMES.request: pending.id, NAMES.expires: pending.expires_at}, cookies=cookies)

    async def _otp_verify(self, asked: Asked, sent: dict[str, Any]) -> Answered:
        pending_id, code, address = read(sent, NAMES.request, NAMES.code, NAMES.address, needs=3)
        browser = self._jar(asked).get(PRE, "") if self._cookies else ""
        self._sessions.check_proof(asked.request)  # before the code is used up
        identity = await self._signin.verify_code(pending_id, code, org=self._whose(), address=address, browser=browser)
        return self._told(await self._signed_in(asked, identity, "otp"), device=self._signin.remember(identity))

    async def _external_authorize(self, _: Asked, sent: dict[str, Any]) -> Answered:
        caller = current_principal(SecretPrincipal)
        if not caller.may(AUTHORIZE_SCOPE):
            raise MissingScope
        provider, issuer, subject, challenge = read(
            sent, NAMES.provider, NAMES.issuer, NAMES.subject, NAMES.challenge, needs=4 if self._cookies else 3
        )
        try:
            identity = Identity(org=caller.org, provider=provider, issuer=issuer, subject=subject)
            if provider == OURS:
                raise InvalidRequest  # only a code that was sent says that
            code = await self._signin.authorize(identity, code_challenge=challenge)
        except Misuse:
            raise InvalidRequest from None
        return Answered({NAMES.exchange: code, NAMES.expires: self._clock.seconds() + EXCHANGE_LIFE})

    async def _external_exchange(self, asked: Asked, sent: dict[str, Any]) -> Answered:
        code, verifier = read(sent, NAMES.exchange, NAMES.verifier, needs=2 if self._cookies else 1)
        self._sessions.check_proof(asked.request)
        identity = await self._signin.exchange(code, org=self._whose(), code_verifier=verifier)
        return self._told(await self._signed_in(asked, identity, "external"))

    async def _signed_in(self, asked: Asked, identity: Identity, factor: str) -> TokenPair:
        """A session of whom the application says that it is: in the place of the caller's, who had one."""
        subject = await settle(partial(self._resolve, identity), self._waits)
        if not isinstance(subject, str) or not 1 <= len(subject) <= 128 or not subject.isprintable():
            raise Unavailable(Reason.CALLBACK_FAILED)
        org, me = identity.org, _consumer()
        given: Any = {
            "subject": subject, "factors": {factor: self._clock.seconds()}, "identity": identity,
            "proof": asked.request, "device": asked.device,
        }  # fmt: skip
        if me is not None and (me.guest or me.subject == subject):
            try:
                return await self._sessions.upgrade(me, **given)
            except InvalidSession:
                if identity.session_id is None:
                    raise  # else the same button was pressed twice, and the first one has ended the guest's
        pair = await self._sessions.start(org=org, **given)
        if me is not None and me.session_id != pair.session.id:
            await self._sessions.end(me.session_id, me.org)  # somebody else's, who sat here before
        return pair

    # --- on ---

    async def _refresh(self, asked: Asked, sent: dict[str, Any]) -> Answered:
        (token,) = read(sent, NAMES.refresh)
        cookie = self._jar(asked).get(REFRESH)
        if token is not None and (self._cookies or cookie is not None):
            raise InvalidRequest(
                Reason.CREDENTIALS_DISAGREE
            )  # whose session the answer would be is not for us to guess
        token = cookie if self._cookies else token
        if not token:
            raise Unauthenticated(Reason.NO_CREDENTIAL)
        try:
            return self._told(await self._sessions.refresh(token, proof=asked.request, device=asked.device))
        except InvalidSession as error:
            if self._cookies and error.reason in ENDED and not error.superseded:
                error.headers = (*error.headers, *(("Set-Cookie", gone.header()) for gone in cleared_cookies()))
            raise

    # --- out ---

    async def _logout(self, _: Asked, sent: dict[str, Any]) -> Answered:
        everywhere = sent.pop(NAMES.everywhere, False)
        read(sent)
        me = _consumer() if self._cookies else _me()
        if me is not None and everywhere is True:
            await self._sessions.revoke_subject(org=me.org, subject=me.subject)
        if me is not None:
            await self._sessions.revoke(me.session_id, org=me.org)
        bound = me is not None and me._said.binding == BY_COOKIE  # noqa: SLF001 - made for us
        return Answered(None, status=204, cookies=cleared_cookies() if self._cookies or bound else (), clears=True)

    async def _list(self, _: Asked, __: dict[str, Any]) -> Answered:
        me = _me()
        found = await self._sessions.list(org=me.org, subject=me.subject)
        return Answered({NAMES.sessions: [{**shown(each), "current": each.id == me.session_id} for each in found]})

    async def _revoke(self, _: Asked, sent: dict[str, Any]) -> Answered:
        me = _me()
        if sent.pop(NAMES.others, False) is True:
            read(sent)
            ended = await self._sessions.revoke_subject(org=me.org, subject=me.subject, except_session=me.session_id)
            return Answered({NAMES.ended: ended})
        (session,) = read(sent, NAMES.session, needs=1)
        if session not in {each.id for each in await self._sessions.list(org=me.org, subject=me.subject)}:
            raise NotFound(Reason.NO_RECORD)
        await self._sessions.revoke(session, org=me.org)
        return Answered({NAMES.ended: 1})

    # --- what they have in common ---

    def _whose(self) -> str:
        """The organization: the caller's, or the one of this site."""
        caller = current_principal(PublishablePrincipal, optional=True) or _consumer()
        org = self._org if caller is None else caller.org
        if org is None:
            raise Unauthenticated(Reason.NO_CREDENTIAL)
        return org

    def _told(self, pair: TokenPair, *, device: str | None = None) -> Answered:
        session = {NAMES.session: shown(pair.session)}
        if self._cookies:
            remembered = () if device is None else (Cookie(DEVICE, device, DEVICE_LIFE),)
            return Answered(session, cookies=(*pair.cookies, *remembered))
        found = {**session, **tokens_of(pair), **({} if device is None else {NAMES.device: device})}
        answered = Answered(found, cookies=() if pair.bind is None else (pair.bind,))
        if pair.dpop_nonce is not None:
            answered.headers.append(("DPoP-Nonce", pair.dpop_nonce))
        return answered

    @staticmethod
    def _jar(asked: Asked) -> dict[str, str]:
        return cookies_in(asked.header("cookie"))


def _me() -> ConsumerPrincipal:
    me = _consumer()
    if me is None:
        raise Unauthenticated(Reason.NO_CREDENTIAL)
    return me


def _consumer() -> ConsumerPrincipal | None:
    return current_principal(ConsumerPrincipal, optional=True)
