"""The places of our cookies: whose they are, whether another credential disagrees, and whether a stranger sent them."""

from bartizan.core.passage import Ambient, Head
from bartizan.core.principal import Principal
from bartizan.core.request import AUTHORIZATION, ORIGIN, SEC_FETCH_SITE, Request
from bartizan.errors import BartizanError, InvalidRequest, Reason, Rejected
from bartizan.gate.presented import COOKIE, Slots
from bartizan.gate.rules import Plan

_PAGE = "text/html"
COMPANIONS = frozenset({"publishable"})  # what may come beside a session


async def by_cookie(ambient: Ambient, plan: Plan, held: dict[str, Principal], request: Request, slots: Slots) -> Head:
    """Hold the caller whose cookies came; gives what the answer gets, whoever came."""
    cookie = slots[COOKIE]
    if cookie is None:
        return ambient.head
    try:
        found = await ambient.authenticate(cookie, request)
    except Rejected as error:
        if plan.spare and ambient.dead(error):
            return ambient.head
        raise
    if found is None:
        return ambient.head
    caller, head = found
    other = held.get(ambient.kind)
    if other is not None or (slots[AUTHORIZATION] is not None and not held.keys() <= COMPANIONS):
        # Which of two is meant is not for us to guess, unless they are one.
        session: object = getattr(other, "session_id", None)
        if (
            other is None
            or session != getattr(caller, "session_id", "")
            or (other.actor, other.org) != (caller.actor, caller.org)
        ):
            raise InvalidRequest(Reason.CREDENTIALS_DISAGREE)
    ambient.check(request, slots[ORIGIN], slots[SEC_FETCH_SITE])
    held.setdefault(ambient.kind, caller)
    return head


def navigates(error: BartizanError, request: Request) -> bool:
    """Whether a person is at a browser's address bar or followed a link, and would get in by signing in."""
    if error.status != 401 or request.method != "GET" or request.header("authorization") is not None:
        return False
    mode = request.header("sec-fetch-mode")
    return mode == "navigate" if mode is not None else _PAGE in (request.header("accept") or "")
