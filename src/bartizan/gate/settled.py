"""Whom a requirement lets in, of those whose credentials were verified. Pure."""

from collections.abc import Mapping, Sequence

from bartizan.core.ports import Clock
from bartizan.core.principal import Principal
from bartizan.core.requirement import Kinds, Shortfall, Way
from bartizan.errors import InvalidRequest, MissingScope, Reason, Unauthenticated, WrongCredential
from bartizan.gate.rules import Plan

NOBODY_CAME = (Way(frozenset()),)


def ways_met(plan: Plan, held: Mapping[str, Principal], companions: Kinds, clock: Clock) -> Sequence[Way]:
    """The ways of the requirement that hold, in the order written; what is lacking raises.

    `companions` are the kinds that may come along though nothing asks for them.
    """
    if not held:
        if plan.optional:
            return NOBODY_CAME
        raise Unauthenticated(Reason.NO_CREDENTIAL)
    if len(held) > 1:
        first, *others = held.values()
        if any(o.org != first.org or o.environment != first.environment for o in others):
            raise InvalidRequest(Reason.CREDENTIALS_DISAGREE)
    if not plan.kinds.issuperset(held):
        unusable = held.keys() - plan.kinds
        if len(unusable) == len(held) or not unusable <= companions:
            raise WrongCredential(Reason.WRONG_KIND)
    ways = plan.requirement.met_by(held, clock)
    if not isinstance(ways, Shortfall):
        return ways
    if ways.nobody:
        raise Unauthenticated(Reason.NO_CREDENTIAL)
    if ways.again is not None:
        parts = ['Bearer error="insufficient_user_authentication"', *([ways.again] if ways.again else [])]
        raise Unauthenticated(Reason.SIGN_IN_AGAIN, headers=(("WWW-Authenticate", ", ".join(parts)),))
    # RFC 6750 section 3: which scopes would do; they are the rule's own words, not the caller's.
    scope = " ".join(sorted(ways.scopes))
    raise MissingScope(headers=(("WWW-Authenticate", f'Bearer error="insufficient_scope", scope="{scope}"'),))
