"""The device in which a session began: a MAC of what the application says of it, for telling whether it is another one.

It is a signal. It is recorded and refuses nobody: what a device says of itself changes, and whoever steals a token can
say it too.
"""

from bartizan.core.principal import Environment
from bartizan.core.ring import Purpose, SecretRing
from bartizan.errors import Misuse

LONGEST = 2000  # characters; what is longer is cut
HASH = 32  # hexadecimal digits


class Devices:
    """Makes the hashes of devices, and compares them. None of them says what it was made of."""

    __slots__ = ("_environment", "_ring")

    def __init__(self, ring: SecretRing, environment: Environment) -> None:
        self._ring = ring
        self._environment = environment

    def hashed(self, device: str | None) -> str | None:
        """What is kept of a device, with the id of the root that it is made under."""
        return None if device is None else self._under(self._ring.newest, device)

    def changed(self, kept: str | None, device: str | None) -> bool:
        """Whether this is another device than the one of `kept`, as far as can be told: a root may have left."""
        if kept is None or device is None:
            return False
        known = self._under(kept.partition(" ")[0], device)
        return known is not None and known != kept

    def _under(self, root: str, device: object) -> str | None:
        if not isinstance(device, str):
            raise Misuse("device is what you know of it: a text")
        key = self._ring.subkey(root, Purpose.DEVICE_HASH, self._environment)
        return (
            None if key is None else f"{root} {key.mac(device[:LONGEST].encode('utf-8', 'surrogatepass')).hex()[:HASH]}"
        )
