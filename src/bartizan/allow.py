"""What a rule may ask for. `&` needs both, `|` either: `allow.secret_key("orders:read") | allow.publishable_key()`.

What no rule names is refused; `public()` and `untouched()` are said aloud.
"""

from collections.abc import Sequence

from bartizan.core.passage import Held, Kinds, Requirement, Shortfall, Way, checked_scopes
from bartizan.errors import Misuse

_NOBODY: Kinds = frozenset()
_NOBODY_WAY = (Way(_NOBODY),)


class _Open(Requirement):
    """Asks for nobody: no credential is read."""

    ways = frozenset({_NOBODY})
    alone = True

    def __init__(self, *, away: bool, rest: bool) -> None:
        self.look = "away" if away else "nothing"
        self.rest = rest

    def met_by(self, _: Held, /) -> Sequence[Way] | Shortfall:
        """Always."""
        return _NOBODY_WAY


class _Credential(Requirement):
    """One kind of credential with all of these scopes."""

    def __init__(self, kind: str, scopes: tuple[str, ...]) -> None:
        self.kind = kind
        self.scopes = checked_scopes(scopes)
        kinds = frozenset({kind})
        self.ways = frozenset({kinds})
        self._met = (Way(kinds),)

    def met_by(self, held: Held, /) -> Sequence[Way] | Shortfall:
        """By a verified caller of this kind that was granted every scope."""
        caller = held.get(self.kind)
        if caller is None:
            return Shortfall()
        if self.scopes <= caller.scopes:
            return self._met
        return Shortfall(self.scopes - caller.scopes)


class _Optional(Requirement):
    """Nobody, or a caller who meets the requirement."""

    alternative = False

    def __init__(self, requirement: Requirement) -> None:
        if requirement.alone or not requirement.alternative:
            raise Misuse("optional() takes a requirement of credentials")
        self.requirement = requirement
        self.kinds = frozenset().union(*requirement.ways)
        self.ways = requirement.ways | {_NOBODY}

    def met_by(self, held: Held, /) -> Sequence[Way] | Shortfall:
        """By nobody where none of its credentials came; what came has to meet it."""
        return self.requirement.met_by(held) if not self.kinds.isdisjoint(held) else _NOBODY_WAY


def public() -> Requirement:
    """Everybody. Credentials are not read and there is no principal; the target and the headers are still checked."""
    return _Open(away=False, rest=False)


def untouched() -> Requirement:
    """Everybody, and nothing is changed or watched: the gate only refuses a malformed target."""
    return _Open(away=True, rest=False)


def unsafe_public_rest() -> Requirement:
    """`public()` for a pattern such as `/**`, which opens whatever no other rule names, now and later."""
    return _Open(away=False, rest=True)


def unsafe_untouched_rest() -> Requirement:
    """`untouched()` for a pattern such as `/**`, which opens whatever no other rule names, now and later."""
    return _Open(away=True, rest=True)


def optional(requirement: Requirement, /) -> Requirement:
    """Nobody, or a caller who meets `requirement`; a credential that is presented and does not is refused."""
    return _Optional(requirement)


def secret_key(*scopes: str) -> Requirement:
    """A secret API key with all of these scopes, in `Authorization: Bearer`."""
    return _Credential("secret", scopes)


def publishable_key(*scopes: str) -> Requirement:
    """A publishable API key with all of these scopes, in `X-Publishable-Key`."""
    return _Credential("publishable", scopes)
