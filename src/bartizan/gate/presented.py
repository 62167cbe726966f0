"""What was presented: one scan of the headers, by slot, before anything costs."""

from collections.abc import Mapping, Sequence
from re import compile as regex
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from bartizan.core.passage import PROTOCOL, Authenticator
from bartizan.core.request import AUTHORIZATION, ORIGIN, EnvironHeaders, Pairs, Request
from bartizan.errors import InvalidKey, InvalidRequest, InvalidToken, Reason, TooLarge, WrongCredential
from bartizan.gate.doors import Door

PUBLISHABLE: Final = 1
OVERRIDE: Final = 4
REQUEST_METHOD: Final = 7
LENGTH: Final = 8
COOKIE: Final = 9
_NAMES: Final = (
    b"authorization",
    b"x-publishable-key",
    b"origin",
    b"sec-fetch-site",
    b"x-http-method-override",
    b"host",
    b"idempotency-key",
    b"access-control-request-method",
    b"content-length",
    b"cookie",
    b"dpop",
)
_WANTED: Final = {name: slot for slot, name in enumerate(_NAMES)} | {
    b"x-method-override": OVERRIDE,
    b"x-http-method": OVERRIDE,
}
_EMPTY: Final = (None,) * len(_NAMES)
_OURS = regex(rb"(__Host-(?:access|refresh|bind|pre|device))[ \t]*=")  # wherever it is: a server may have joined it
_QUERY_NAMES = frozenset({b"api_key", b"access_token"})

MOST_PAIRS: Final = 1000  # in a query
MOST_COOKIES: Final = 100  # header lines
Slots = list[bytes | None]

_FOLDED: Final = [(f"HTTP_{name.decode().upper().replace('-', '_')}", slot) for name, slot in _WANTED.items()]
_FOLDED[LENGTH] = ("CONTENT_LENGTH", LENGTH)


def scan(headers: Pairs) -> Slots:
    """The wanted headers by slot; one that must occur once and does not is `InvalidRequest`, and so is an override."""
    if headers.__class__ is EnvironHeaders:  # isinstance() would ask the ABC
        return _scan_environ(headers.environ)
    found: Slots = list(_EMPTY)
    wanted = _WANTED
    cookies: list[bytes] = []
    for name, value in headers:
        if name in wanted:
            slot = wanted[name]
            if found[slot] is None:
                found[slot] = value
            elif slot == COOKIE:
                cookies.append(value)  # HTTP/2 may split it (RFC 9113 section 8.2.3)
            else:
                raise InvalidRequest(Reason.REPEATED_HEADER)
    if cookies:
        if len(cookies) > MOST_COOKIES:
            raise InvalidRequest
        found[COOKIE] = b"; ".join([found[COOKIE] or b"", *cookies])
    if found[COOKIE] is not None or found[OVERRIDE] is not None:
        _check(found)
    return found


def _scan_environ(environ: Mapping[str, Any]) -> Slots:
    # A WSGI server has joined repeated headers already: what comes of two credentials is none.
    found: Slots = list(_EMPTY)
    for name, slot in _FOLDED:
        value = environ.get(name)
        if value is not None and (value or slot != LENGTH):
            found[slot] = value.encode("latin-1")
    _check(found)
    return found


def _check(found: Slots) -> None:
    cookie = found[COOKIE]
    if cookie is not None and b"__Host-" in cookie:
        ours = _OURS.findall(cookie)
        if len(set(ours)) != len(ours):
            raise InvalidRequest(Reason.REPEATED_COOKIE)
    if found[OVERRIDE] is not None:
        raise InvalidRequest(Reason.METHOD_OVERRIDE)


def check_length(length: bytes, limit: int) -> None:
    """Refuse a declared length over the limit, and one that two readers could take for different numbers."""
    if not length.isdigit():
        raise InvalidRequest
    digits = length.lstrip(b"0") or b"0"
    if len(digits) > 19 or int(digits) > limit:
        raise TooLarge


def is_preflight(request: Request, slots: Slots) -> bool:
    """Whether this is a CORS preflight (Fetch standard, section 3.2.2)."""
    return request.method == "OPTIONS" and slots[ORIGIN] is not None and slots[REQUEST_METHOD] is not None


Found = tuple[Authenticator | Door, bytes, str]  # who verifies what, and as which kind of credential it is held


class Reader:
    """Finds the authenticator of each presented credential, by slot and form, never by trial."""

    __slots__ = ("_authorization", "_doors", "_grammars", "_others", "_proving", "_publishable", "_sockets")

    def __init__(self, authenticators: Sequence[Authenticator], doors: Sequence[Door] = ()) -> None:
        ours = [(a, kind) for a in authenticators for kind in a.kinds]
        self._authorization = [(a, kind) for a, kind in ours if a.slot == "authorization"]
        self._proving = [found for found in self._authorization if "dpop" in found[0].ways]
        self._sockets = [found for found in self._authorization if "websocket" in found[0].ways]
        self._publishable = [(a, kind) for a, kind in ours if a.slot == "x-publishable-key"]
        self._grammars = tuple(dict.fromkeys(a.recognises for a, _ in ours))  # both kinds of key have one
        self._doors = [door for door in doors if door.slot == "authorization"]
        others: dict[str, list[Door]] = {}
        for door in doors:
            if door.slot != "authorization":
                others.setdefault(door.slot, []).append(door)
        self._others = tuple(others.items())

    def credentials(self, request: Request, slots: Slots) -> list[Found]:
        """Every credential of the request. One in the query, or one of ours that nobody knows, refuses it."""
        out: list[Found] = []
        whole = slots[AUTHORIZATION]
        if whole is not None:
            scheme, _, token = whole.partition(b" ")
            if scheme == b"Bearer" or scheme.lower() == b"bearer":
                if token[:1] == b" ":
                    token = token.lstrip(b" ")
                found = _known(self._authorization, token) or _door(self._doors, whole)
                if found is None:
                    raise InvalidKey(Reason.MALFORMED_KEY)
                out.append(found)
            elif scheme.lower() == b"dpop":
                found = _known(self._proving, token.lstrip(b" "))
                if found is None:
                    raise InvalidToken(Reason.MALFORMED_TOKEN)
                out.append(found)
            elif self._doors and (found := _door(self._doors, whole)) is not None:
                out.append(found)
        value = slots[PUBLISHABLE]
        if value is not None:
            found = _known(self._publishable, value)
            if found is None:
                raise InvalidKey(Reason.MALFORMED_KEY)
            out.append(found)
        if request.subprotocols and PROTOCOL in request.subprotocols:
            out.append(self._offered(request.subprotocols, slots))
        for slot, doors in self._others:
            self._read(request, slots, slot, doors, out)
        if request.query:
            self._refuse_query(request.query)
        return out

    def _read(self, request: Request, slots: Slots, slot: str, doors: Sequence[Door], out: list[Found]) -> None:
        name = slot.encode("latin-1")
        values = [slots[COOKIE] or b""] if slot == "cookie" else [v for key, v in request.headers if key == name]
        if len(values) > 1:
            raise InvalidRequest(Reason.REPEATED_HEADER)
        if not values or not values[0]:
            return
        if slot != "cookie":
            for door in doors:
                door.check(request)  # whatever it says: a stranger does not send this header
            if any(recognises(values[0]) for recognises in self._grammars):
                raise WrongCredential(Reason.WRONG_SLOT)
        found = _door(doors, values[0])
        if found is not None:
            out.append(found)

    def _offered(self, protocols: Sequence[str], slots: Slots) -> Found:
        # A page cannot set headers there: what it offers behind our own name is its credential.
        at = protocols.index(PROTOCOL) + 1
        if protocols.count(PROTOCOL) > 1 or at == len(protocols) or slots[AUTHORIZATION] is not None:
            raise InvalidRequest(Reason.CREDENTIALS_DISAGREE)
        found = _known(self._sockets, protocols[at].encode("latin-1", "replace"))
        if found is None:
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        return found

    def _refuse_query(self, query: bytes) -> None:
        # A query ends up in logs, histories and referrers (RFC 6750 section 2.3): whatever came that way is spent.
        pairs = [pair for pair in query.split(b"&") if pair]
        if len(pairs) > MOST_PAIRS:
            raise InvalidRequest  # each costs a few microseconds, and nobody has to be somebody to send them
        for pair in pairs:
            name, _, value = pair.partition(b"=")
            if b"%" in pair:
                name, value = unquote_to_bytes(name), unquote_to_bytes(value)
            if name.lower() in _QUERY_NAMES:
                raise InvalidRequest(Reason.CREDENTIAL_IN_QUERY)
            for recognises in self._grammars:
                if recognises(value) or recognises(name):
                    raise InvalidRequest(Reason.CREDENTIAL_IN_QUERY)


def _known(authenticators: Sequence[tuple[Authenticator, str]], value: bytes) -> Found | None:
    for authenticator, kind in authenticators:
        if authenticator.recognises(value):
            return authenticator, value, kind
    return None


def _door(doors: Sequence[Door], value: bytes) -> Found | None:
    found = [door for door in doors if door.recognises(value)]
    if len(found) > 1:
        raise InvalidRequest
    return (found[0], value, found[0].name) if found else None
