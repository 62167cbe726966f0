"""Whom a requirement lets in, of those whose credentials were verified."""

from collections.abc import Mapping, Sequence
from functools import partial

from bartizan.core.drive import settle
from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import Principal
from bartizan.core.request import Request
from bartizan.core.requirement import Condition, Kinds, Shortfall, Way
from bartizan.errors import (
    BartizanError,
    Forbidden,
    InvalidRequest,
    MissingScope,
    Reason,
    Unauthenticated,
    Unavailable,
    WrongCredential,
)
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
        parts = [f'{plan.scheme} error="insufficient_user_authentication"', *([ways.again] if ways.again else [])]
        raise Unauthenticated(Reason.SIGN_IN_AGAIN, headers=(("WWW-Authenticate", ", ".join(parts)),))
    # RFC 6750 section 3: which scopes would do; they are the rule's own words, not the caller's.
    scope = " ".join(sorted(ways.scopes))
    raise MissingScope(headers=(("WWW-Authenticate", f'{plan.scheme} error="insufficient_scope", scope="{scope}"'),))


async def denial(
    conditions: Sequence[Condition], caller: Principal, request: Request, waits: Waits
) -> BartizanError | None:
    """Why one of the conditions does not hold: the application says `False`, or nothing that counts."""
    for condition in conditions:
        try:
            said: object = await settle(partial(condition.check, caller, request), waits)
        except Unavailable as failed:
            return failed
        if said is False:
            error = Forbidden(Reason.CONDITION)
            error.about = condition.name
            return error
        if said is not True:
            return Unavailable(Reason.CALLBACK_FAILED)
    return None
