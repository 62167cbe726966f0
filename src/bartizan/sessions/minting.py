"""The texts of a session: refresh tokens are made and read here, and the pair that a consumer is given is put together.

A refresh token is a stamp under the family's id that says generation and salt. A guest's first one also says the row
that it will have.
"""

import json
from collections.abc import Collection, Mapping

from bartizan.core.encoding import canonical
from bartizan.core.ports import Clock, Entropy
from bartizan.core.principal import Environment
from bartizan.core.requirement import checked_scopes
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp
from bartizan.credentials.access_tokens import LONGEST_SESSION, AccessTokens, key_of
from bartizan.credentials.jws import SigningKey
from bartizan.credentials.key_format import checked_seconds
from bartizan.errors import InvalidSession, Misuse, Reason
from bartizan.sessions.families import SALT, Epochs, FamilyRow, Guest, began, ends
from bartizan.sessions.pairs import TokenPair
from bartizan.sessions.possession import Possession
from bartizan.sessions.refresh import Presented
from bartizan.sessions.state import Kept

GENERATION = 6  # bytes
BODY = GENERATION + SALT
LONGEST_GRANTED = 4000  # characters of audience, scopes and factors, as JSON
LONGEST_BODY = BODY + 8000


class Minting:
    """Makes the tokens of a family, and reads its refresh tokens."""

    def __init__(
        self,
        *,
        ring: SecretRing,
        tokens: AccessTokens,
        possession: Possession,
        issuer: str,
        environment: Environment,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._tokens = tokens
        self._possession = possession
        self._clock = clock
        self._stamp = Stamp(
            ring,
            Purpose.REFRESH_MAC,
            environment,
            prefix="rt",
            longest=LONGEST_BODY,
            life=LONGEST_SESSION + 86_400,
            error=InvalidSession,
            issuer=issuer,
            entropy=entropy,
        )

    def presented(self, refresh_token: str) -> tuple[Presented, Guest | None]:
        """What a refresh token says, and a guest's row where it is the first one; `InvalidSession` if it is none."""
        stamped = self._stamp.read(refresh_token, now=self._clock.seconds())
        body = stamped.body
        presented = Presented(stamped.id.hex(), int.from_bytes(body[:GENERATION]), body[GENERATION:BODY])
        return presented, None if len(body) == BODY else Guest(*json.loads(body[BODY:]))

    async def pair(
        self,
        kept: Kept,
        row: FamilyRow,
        *,
        org: str | None = None,
        epochs: Epochs | None = None,
        stored: bool = True,
        key: SigningKey | None = None,
    ) -> TokenPair:
        """Both tokens of the row's newest generation; the access token is for `org`, if not the row's own."""
        now, until = self._clock.seconds(), ends(row)
        if until <= now:
            raise InvalidSession(Reason.SESSION_EXPIRED)
        body = row.generation.to_bytes(GENERATION) + row.salt
        if not stored:  # a guest's token says what its row will
            said = [row.org, row.subject, json.loads(row.granted), [*began(row)], row.created_at, row.absolute_ends]
            body += canonical([*said, row.binding, row.device]).encode()
        refresh = self._stamp.make(body, now=now, seconds=until - now, id_=bytes.fromhex(row.id))
        access, access_ends = await self._tokens.mint(
            org=org or row.org, subject=row.subject, session=row.id, generation=row.generation, scopes=kept.scopes,
            guest=bool(row.guest), factors=kept.factors, audience=kept.audience, until=until,
            epochs=epochs or began(row), binding=row.binding, key=key,
        )  # fmt: skip
        return TokenPair(
            access, refresh, access_expires_at=access_ends, refresh_expires_at=until, row=row, now=now,
            bind=self._possession.cookie(row), nonce=None if key_of(row.binding) is None else self._possession.nonce(),
        )  # fmt: skip

    def granted(self, audience: str | None, scopes: Collection[str], factors: Mapping[str, int]) -> str:
        """What a session may, as its row says it."""
        if audience is not None and audience not in self._tokens.audience:
            raise Misuse("audience is one of those that the instance was made with")
        granted = canonical([audience, sorted(checked_scopes(scopes)), checked_factors(factors)])
        if len(granted) > LONGEST_GRANTED:
            raise Misuse("scopes and factors are more than fits into a session")
        return granted


def checked_factors(factors: Mapping[str, int]) -> dict[str, int]:
    """How somebody has proved who they are, each with when (UTC seconds)."""
    checked_scopes(factors, "factors")
    return {name: checked_seconds(at) for name, at in factors.items()}
