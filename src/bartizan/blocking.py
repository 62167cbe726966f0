"""The services without `await`: one line for each method, no signature written twice."""

from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol

from bartizan.access.carry import Carrier, Job
from bartizan.access.roles import Roles
from bartizan.core.drive import Blocking, blocking, run
from bartizan.core.once import Claim, Claiming, Once
from bartizan.core.principal import Principal
from bartizan.core.roots import SecretUse
from bartizan.credentials.keys import Keys
from bartizan.credentials.links import Links
from bartizan.credentials.signing import SigningKeys
from bartizan.sessions.exchanges import Identity
from bartizan.sessions.sessions import Sessions
from bartizan.sessions.signin import Signin
from bartizan.webhooks.endpoints import WebhookEndpoints

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")


class BlockingKeys(Blocking):
    """`Keys` for WSGI, scripts and the command line."""

    create: Final = blocking(Keys.create)
    get: Final = blocking(Keys.get)
    list: Final = blocking(Keys.list)
    rotate: Final = blocking(Keys.rotate)
    revoke: Final = blocking(Keys.revoke)
    disable: Final = blocking(Keys.disable)
    enable: Final = blocking(Keys.enable)
    authenticate: Final = blocking(Keys.authenticate)
    report_leak: Final = blocking(Keys.report_leak)


class BlockingLinks(Blocking):
    """`Links` for WSGI, scripts and the command line."""

    issue: Final = blocking(Links.issue)
    redeem: Final = blocking(Links.redeem)


class BlockingSessions(Blocking):
    """`Sessions` for WSGI, scripts and the command line."""

    cleared_cookies: Final = staticmethod(Sessions.cleared_cookies)
    start: Final = blocking(Sessions.start)
    refresh: Final = blocking(Sessions.refresh)
    upgrade: Final = blocking(Sessions.upgrade)
    authenticate: Final = blocking(Sessions.authenticate)

    def check_proof(self, proof: object) -> None:
        """As `Sessions.check_proof`."""
        self._service.check_proof(proof)

    def ticket(self, *, path: str) -> str:
        """As `Sessions.ticket`."""
        text: str = self._service.ticket(path=path)
        return text

    list: Final = blocking(Sessions.list)
    revoke: Final = blocking(Sessions.revoke)
    revoke_subject: Final = blocking(Sessions.revoke_subject)
    revoke_org: Final = blocking(Sessions.revoke_org)
    unsafe_revoke_everyone: Final = blocking(Sessions.unsafe_revoke_everyone)
    disable_subject: Final = blocking(Sessions.disable_subject)
    enable_subject: Final = blocking(Sessions.enable_subject)
    disable_org: Final = blocking(Sessions.disable_org)
    enable_org: Final = blocking(Sessions.enable_org)


class BlockingSignin(Blocking):
    """`Signin` for WSGI, scripts and the command line."""

    _service: Signin
    request_code: Final = blocking(Signin.request_code)
    verify_code: Final = blocking(Signin.verify_code)
    authorize: Final = blocking(Signin.authorize)
    exchange: Final = blocking(Signin.exchange)

    def remember(self, identity: Identity) -> str:
        """As `Signin.remember`."""
        return self._service.remember(identity)


class BlockingRoles(Blocking):
    """`Roles` for WSGI, scripts and the command line."""

    define: Final = blocking(Roles.define)
    remove: Final = blocking(Roles.remove)
    list: Final = blocking(Roles.list)


class BlockingSigningKeys(Blocking):
    """`SigningKeys` for WSGI, scripts and the command line."""

    rotate: Final = blocking(SigningKeys.rotate)
    revoke: Final = blocking(SigningKeys.revoke)
    jwks: Final = blocking(SigningKeys.jwks)


class BlockingWebhookEndpoints(Blocking):
    """`WebhookEndpoints` for WSGI, scripts and the command line."""

    create: Final = blocking(WebhookEndpoints.create)
    get: Final = blocking(WebhookEndpoints.get)
    list: Final = blocking(WebhookEndpoints.list)
    update: Final = blocking(WebhookEndpoints.update)
    rotate: Final = blocking(WebhookEndpoints.rotate)
    disable: Final = blocking(WebhookEndpoints.disable)
    enable: Final = blocking(WebhookEndpoints.enable)
    delete: Final = blocking(WebhookEndpoints.delete)
    deliver: Final = blocking(WebhookEndpoints.deliver)


class BlockingClaiming:
    """`with` of one claim."""

    __slots__ = ("_claiming",)

    def __init__(self, claiming: Claiming) -> None:
        self._claiming = claiming

    def __enter__(self) -> Claim:
        return run(self._claiming.enter())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self._claiming.leave(failed=kind is not None))


def _with(method: Callable[Concatenate[Once, P], Claiming]) -> Callable[Concatenate[Any, P], BlockingClaiming]:
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> BlockingClaiming:
        return BlockingClaiming(method(self._service, *args, **kwargs))

    call.__name__ = method.__name__
    call.__doc__ = method.__doc__
    return call


class BlockingOnce(Blocking):
    """`Once` for WSGI, scripts and the command line: `with` instead of `async with`."""

    claim: Final = _with(Once.claim)


class Shared(Protocol):
    """What both forms of a `Bartizan` have in common. It is of `services`, which this module does not import."""

    blocking_side: Any

    @property
    def carrier(self) -> Carrier:
        """What carries principals."""

    def job(self, name: str, org: str | None, scopes: Collection[str]) -> Job:
        """A job in this environment."""

    def close(self) -> None:
        """Write what waits to be written, and close the store."""


class BlockingBartizan:
    """`Bartizan` for WSGI, scripts and the command line; a context manager as well."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    @property
    def keys(self) -> BlockingKeys:
        """API keys: create, rotate, revoke, authenticate."""
        return BlockingKeys(self._shared.blocking_side.keys)

    @property
    def links(self) -> BlockingLinks:
        """As `Bartizan.links`."""
        return BlockingLinks(self._shared.blocking_side.links)

    @property
    def sessions(self) -> BlockingSessions:
        """As `Bartizan.sessions`."""
        return BlockingSessions(self._shared.blocking_side.sessions)

    @property
    def signin(self) -> BlockingSignin:
        """As `Bartizan.signin`."""
        return BlockingSignin(self._shared.blocking_side.signin)

    @property
    def signing_keys(self) -> BlockingSigningKeys:
        """As `Bartizan.signing_keys`."""
        return BlockingSigningKeys(self._shared.blocking_side.tokens.signing)

    @property
    def webhook_endpoints(self) -> BlockingWebhookEndpoints:
        """As `Bartizan.webhook_endpoints`."""
        return BlockingWebhookEndpoints(self._shared.blocking_side.endpoints)

    @property
    def roles(self) -> BlockingRoles:
        """As `Bartizan.roles`."""
        return BlockingRoles(self._shared.blocking_side.roles)

    @property
    def once(self) -> BlockingOnce:
        """As `Bartizan.once`, for `with`."""
        return BlockingOnce(self._shared.blocking_side.once)

    def job(self, name: str, *, org: str | None = None, scopes: Collection[str] = ()) -> Job:
        """As `Bartizan.job`."""
        return self._shared.job(name, org, scopes)

    def carry(self, *, name: str, seconds: int = 3600) -> str:
        """As `Bartizan.carry`."""
        return self._shared.carrier.carry(name=name, seconds=seconds)

    def resume(self, carried: str, *, name: str) -> Job:
        """As `Bartizan.resume`."""
        return self._shared.carrier.resume(carried, name=name)

    def recheck(self, principal: Principal) -> None:
        """As `Bartizan.recheck`."""
        run(self._shared.blocking_side.recheck(principal))

    def ready(self) -> None:
        """As `Bartizan.ready`."""
        run(self._shared.blocking_side.ready())

    def secret_use(self) -> Sequence[SecretUse]:
        """As `Bartizan.secret_use`."""
        use: Sequence[SecretUse] = run(self._shared.blocking_side.secret_use())
        return use

    def __enter__(self) -> "Self":
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.close()
