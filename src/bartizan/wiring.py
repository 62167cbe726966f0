"""`Bartizan`: the one object that a service holds."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bartizan.access.carry import Job
from bartizan.access.roles import ROLES, Roles
from bartizan.audit.journal import OutboxJournal
from bartizan.blocking import BlockingBartizan
from bartizan.core.client import ForwardingHeader
from bartizan.core.once import Once
from bartizan.core.passage import Decision, Rule
from bartizan.core.principal import Environment, Principal
from bartizan.core.request import Request
from bartizan.core.ring import MAKE_ONE, SecretRing
from bartizan.core.roots import SecretUse
from bartizan.core.tables import Backend
from bartizan.credentials.access_tokens import SESSIONS, SessionPolicy, planned
from bartizan.credentials.issuers import Issuer
from bartizan.credentials.key_format import checked_environment
from bartizan.credentials.keys import Keys
from bartizan.credentials.links import Links
from bartizan.credentials.signing import SigningKeys
from bartizan.errors import BartizanError, Misuse
from bartizan.gate.doors import Authenticator
from bartizan.gate.gate import Gate
from bartizan.gating import gate_over
from bartizan.operations.settings import settings
from bartizan.services import Shared
from bartizan.sessions.codes import SIGNIN, SigninPolicy
from bartizan.sessions.sessions import Sessions
from bartizan.sessions.signin import Signin
from bartizan.webhooks.delivery import WEBHOOKS, WebhookPolicy
from bartizan.webhooks.endpoints import WebhookEndpoints

if TYPE_CHECKING:
    from typing import Self


class Bartizan:
    """The security of one service in one environment. Opening does no I/O and starts nothing.

    `url` is `memory://`, `sqlite:///path` (relative) or `sqlite:////path` (absolute); `secrets` are roots, newest
    first; `issuer` and `audience` stand in consumers' tokens, which `sessions` shapes; `signin` is how many one-time
    codes are sent and guessed; `origins` are the site's own, `https://shop.example`: with them gates take our cookies,
    and clients' proofs name one of them; `issuers` are those whose tokens let members in; `staleness` is how many
    seconds a cached answer may be old (0 to 300); `workers` is how many processes serve; `proxy_hops` is how many
    proxies stand before it, each of which appends the address that it saw to `proxy_header`; `browser_leak` is what
    becomes of a secret key that a web page sent, besides its refusal;
    `publishable_writes` are the scopes that a publishable key may hold besides those of reading; `roles` are the scopes
    of each role of members, beside those that an organization defines (`Bartizan.roles`);
    `on_decision` sees every verdict; `webhooks` is how messages are sent.
    Only what is used is asked for: `keys` needs `url` and `secrets`, a gate of open rules neither.
    """

    _journal: ClassVar[type[OutboxJournal]] = OutboxJournal

    def __init__(
        self,
        url: str | Backend | None = None,
        *,
        environment: Environment,
        secrets: Sequence[str] | None = None,
        issuer: str | None = None,
        audience: str | Sequence[str] | None = None,
        key_prefix: str | None = None,
        issuers: Sequence[Issuer] = (),
        sessions: SessionPolicy = SESSIONS,
        signin: SigninPolicy = SIGNIN,
        origins: Sequence[str] = (),
        webhooks: WebhookPolicy = WEBHOOKS,
        staleness: float = 5,
        workers: int = 1,
        proxy_hops: int = 0,
        proxy_header: ForwardingHeader = "x-forwarded-for",
        browser_leak: Literal["report", "revoke"] = "report",
        publishable_writes: Collection[str] = (),
        roles: Mapping[str, Collection[str]] = ROLES,
        on_decision: Callable[[Decision], None] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._shared = Shared(
            url,
            environment=checked_environment(environment),
            ring=None if secrets is None else SecretRing(secrets),
            key_prefix=key_prefix,
            issuing=planned(issuer, audience, sessions),
            issuers=issuers,
            webhooks=webhooks,
            signin=signin,
            origins=origins,
            staleness=staleness,
            workers=workers,
            proxy_hops=proxy_hops,
            proxy_header=proxy_header,
            browser_leak=browser_leak,
            publishable_writes=publishable_writes,
            roles=roles,
            on_decision=on_decision,
            clock=clock,
            journal=self._journal,
        )
        self._blocking = BlockingBartizan(self._shared)

    @classmethod
    def from_env(cls, prefix: str = "BARTIZAN", **program: Any) -> "Self":
        """What differs between deployments from the environment, what is program from arguments, which win.

        Reads `_URL`, `_ENVIRONMENT`, `_ISSUER`, `_AUDIENCE`, `_ORIGINS`, `_KEY_PREFIX`, `_PROXY_HOPS`, `_PROXY_HEADER`,
        `_WORKERS`, and `_SECRETS` (as `_ORIGINS` separated by white space) or `_SECRETS_FILE` (one a line), newest
        first. Any other name with the prefix is a warning, `_TEST_…` and `_REQUIRE_…` aside.
        """
        given = {**settings(os.environ, prefix), **program}
        if "environment" not in given:
            raise Misuse(f'{prefix}_ENVIRONMENT is "live" or "test"')
        return cls(**given)

    @property
    def keys(self) -> Keys:
        """API keys: create, rotate, revoke, authenticate."""
        return self._shared.side.keys

    @property
    def links(self) -> Links:
        """Texts that let whoever holds them do one thing: issue, redeem."""
        return self._shared.side.links

    @property
    def sessions(self) -> Sessions:
        """Consumers' sessions: start, refresh, authenticate, upgrade, revoke."""
        return self._shared.side.sessions

    @property
    def signin(self) -> Signin:
        """Signing in without a password: request_code, verify_code, authorize, exchange."""
        return self._shared.side.signin

    @property
    def signing_keys(self) -> SigningKeys:
        """The keys that sign consumers' tokens: rotate, revoke, jwks."""
        return self._shared.side.tokens.signing

    @property
    def webhook_endpoints(self) -> WebhookEndpoints:
        """Whom webhooks are sent to: create, rotate, disable, deliver."""
        return self._shared.side.endpoints

    @property
    def roles(self) -> Roles:
        """What members may do by name: define, remove, list, for each organization."""
        return self._shared.side.roles

    @property
    def once(self) -> Once:
        """Each text once: `async with security.once.claim(…) as claim`."""
        return self._shared.side.once

    @property
    def blocking(self) -> BlockingBartizan:
        """The same without `await`, over the same caches, journal and store."""
        return self._blocking

    def gate(
        self,
        rules: Sequence[Rule],
        *,
        authenticators: Sequence[Authenticator] = (),
        environments: Collection[Environment] | None = None,
        problems: Callable[[BartizanError, Request], tuple[str, bytes]] | None = None,
    ) -> Gate:
        """A gate of these rules. What no rule names is refused.

        `authenticators` are the application's own, for `allow.credential(name)`. `environments` are those whose keys
        are served; by default the instance's own. `problems` gives a refusal's media type and body in place of ours;
        what it raises is nobody's business, and ours is sent.
        """
        return gate_over(self._shared, rules, authenticators, environments, problems)

    def return_path(self, request: object, *, default: str = "/") -> str:
        """Where to go after signing in: what `Rule(login=…)` put into `next` for this browser, an hour ago at most.

        It is a path of this site, whatever was sent. `request` is your framework's, an ASGI scope, or a WSGI
        environment.
        """
        if self._shared.return_paths is None:
            raise Misuse(f"return_path needs secrets=; {MAKE_ONE}")
        return self._shared.return_paths.opened(request, default)

    def job(self, name: str, *, org: str | None = None, scopes: Collection[str] = ()) -> Job:
        """Work that no request asked for: within the block `current_principal()` is a `JobPrincipal`.

        Without `org` it may name any organization, and an event tells of each.
        """
        return self._shared.job(name, org, scopes)

    def carry(self, *, name: str, seconds: int = 3600) -> str:
        """The current principal's authority as a text for a queue, for the job `name` alone.

        It is good for `seconds`, a day at most, and never beyond the principal's own end.
        """
        return self._shared.carrier.carry(name=name, seconds=seconds)

    def resume(self, carried: str, *, name: str) -> Job:
        """In the worker: `with security.resume(carried, name=…) as job` works with what was carried, at most.

        `InvalidCode` for a text that is not ours, for another job, or over. Whether the credential still lives is for
        `recheck(job)` to ask.
        """
        return self._shared.carrier.resume(carried, name=name)

    async def recheck(self, principal: Principal) -> None:
        """Return while the key of this principal, or the one a resumed job carries, lives; raise once it has ended."""
        await self._shared.side.recheck(principal)

    async def ready(self) -> None:
        """Return if the store answers, raise `Unavailable` if not: for readiness probes.

        A root secret that keys in the store need and `secrets` lacks is `Misuse`, which names its id.
        """
        await self._shared.side.ready()

    async def secret_use(self) -> Sequence[SecretUse]:
        """What still needs each root secret: those of the ring, newest first, then those that it lacks.

        Records go over to the newest root as they are used; what has not been used must be issued anew and revoked.
        """
        return await self._shared.side.secret_use()

    async def __aenter__(self) -> "Self":
        await self._shared.side.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._shared.deliveries.ended()
        await self._shared.threads.run(self._shared.close)
