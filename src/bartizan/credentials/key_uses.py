"""When keys were last used: kept in memory, written once a minute by upkeep, so that no verification writes."""

from collections.abc import Callable
from dataclasses import dataclass

from bartizan.core.tables import Backend, Insert, Is, Table
from bartizan.credentials.key_rows import KeyPrincipal

USED_EVERY = 60  # seconds between two notes of one key's use, and between two writes of what was noted


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """When a key was last used, to the minute. No event tells of it, and no MAC covers it."""

    id: str
    org: str
    used_at: int


KEY_USES = Table(name="bartizan_key_uses", record=KeyUse, key="id", indexes=(("org", "id"),))


class KeyUses:
    """The uses noted in this process since they were last written, for the async and the blocking service alike."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._noted: dict[str, KeyUse] = {}
        self._wake = wake

    def note(self, principal: KeyPrincipal, now: int) -> None:
        """The key was used at `now`."""
        self._noted[principal.key_id] = KeyUse(id=principal.key_id, org=principal.org, used_at=now)
        self._wake()

    async def write(self, backend: Backend) -> None:
        """Write what was noted; what cannot be written stays noted."""
        while self._noted:
            key_id, use = self._noted.popitem()
            try:
                await backend.change(Insert(KEY_USES, use, over=(Is("used_at", "<=", use.used_at),)))
            except BaseException:
                self._noted.setdefault(key_id, use)
                raise
