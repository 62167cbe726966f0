"""A rule set made ready: every mistake that can be seen before a request is `Misuse` here."""

from collections.abc import Mapping, Sequence
from typing import Literal

from bartizan.core.passage import Admit, HeaderPairs, Rule
from bartizan.core.principal import Noted
from bartizan.core.requirement import Condition, Requirement
from bartizan.errors import BartizanError, Misuse, Reason
from bartizan.gate.patterns import Pattern, Table, segments_of

_CHALLENGE = b"www-authenticate"
_BEARER = b"Bearer"
_INVALID_TOKEN = b' error="invalid_token"'
_INVALID_REQUEST = b' error="invalid_request"'
_CREDENTIALS_AT_FAULT = frozenset({
    Reason.REPEATED_HEADER, Reason.CREDENTIAL_IN_QUERY, Reason.CREDENTIALS_DISAGREE,
})  # fmt: skip


class Plan:
    """All that is known of a pattern before a request comes."""

    __slots__ = (
        "_faults",
        "away",
        "challenge",
        "conditions",
        "cookies",
        "kinds",
        "lone",
        "look",
        "optional",
        "org",
        "pattern",
        "requirement",
        "rule",
        "scheme",
        "spare",
    )

    def __init__(self, pattern: Pattern, schemes: dict[str, bytes], home: Noted) -> None:
        rule = pattern.rule
        self.pattern: Pattern = pattern
        self.rule: Rule = rule
        self.requirement: Requirement = rule.requirement
        self.lone: Mapping[str, frozenset[str]] = rule.requirement.lone
        self.conditions: tuple[Condition, ...] = rule.requirement.conditions
        self.look: Literal["away", "nothing", "caller"] = rule.requirement.look
        self.kinds: frozenset[str] = frozenset().union(*rule.requirement.ways)
        self.cookies: bool = self.look == "caller" and "consumer" in self.kinds  # whether they can satisfy it
        self.spare: bool = "consumer" in rule.requirement.spare
        self.optional: bool = self.look == "caller" and frozenset() in rule.requirement.ways
        self.org: int | None = next((place for place, name in pattern.names if name == "org"), None)
        self.away: Admit = Admit(rule, {}, (), {}, "", home)  # what untouched() answers with, every time
        asked = list(dict.fromkeys(schemes[kind] for kind in sorted(self.kinds) if kind in schemes))
        self.scheme: str = "Bearer" if _BEARER in asked or not any(map(_is_dpop, asked)) else "DPoP"
        self.challenge: HeaderPairs = [(_CHALLENGE, scheme) for scheme in asked]
        self._faults: dict[bytes, HeaderPairs] = {
            fault: [(_CHALLENGE, _faulted(scheme, fault)) for scheme in asked]
            for fault in (_INVALID_TOKEN, _INVALID_REQUEST)
        }

    def challenged(self, error: BartizanError) -> HeaderPairs:
        """What the answer to `error` asks for (RFC 6750 section 3): an error of its own where a credential came."""
        if error.status == 401:
            nothing_came = error.reason is Reason.NO_CREDENTIAL
            return self.challenge if nothing_came else self._faults[_INVALID_TOKEN]
        return self._faults[_INVALID_REQUEST] if error.reason in _CREDENTIALS_AT_FAULT else []


def _faulted(scheme: bytes, fault: bytes) -> bytes:
    """A challenge that says what was wrong, where its scheme knows how (RFC 6750 section 3, RFC 9449 section 7.1)."""
    if scheme == _BEARER:
        return scheme + fault
    return scheme + b"," + fault if _is_dpop(scheme) else scheme


def _is_dpop(scheme: bytes) -> bool:
    return scheme.startswith(b"DPoP ")


def compiled(rules: Sequence[Rule], schemes: dict[str, bytes], home: Noted, *, login: bool = True) -> Table:
    """The table of these rules; `schemes` gives for each kind that has an authenticator its challenge.

    `login` is whether there are secrets for the redirects to a page for signing in.
    """
    rules = list(rules)
    if not rules:
        raise Misuse("a gate without rules refuses everything: name what may pass")
    patterns = [Pattern(text, rule) for rule in rules for text in rule.patterns]
    for pattern in patterns:
        _check(pattern, schemes)
        pattern.plan = Plan(pattern, schemes, home)
    _check_organizations(patterns)
    table = Table(patterns)
    for rule in rules:
        if rule.login is not None:
            _check_login(table, rule.login, possible=login)
    return table


def _check_login(table: Table, path: str, *, possible: bool) -> None:
    leaf = table.match(segments_of(path))
    pattern = None if leaf is None else leaf.by_method.get("GET") or leaf.other
    if pattern is None or frozenset() not in pattern.rule.requirement.ways:
        raise Misuse(f"login={path!r}: no rule lets nobody in there, so a browser would be sent round in circles")
    if not possible:
        raise Misuse("login= needs secrets=")


def _check(pattern: Pattern, schemes: dict[str, bytes]) -> None:
    rule, text = pattern.rule, pattern.text
    requirement = rule.requirement
    unknown = frozenset().union(*requirement.ways) - schemes.keys()
    if unknown:
        kinds = ", ".join(sorted(unknown))
        raise Misuse(f"{text!r}: no authenticator for {kinds}; keys need url= and secrets=, members issuers=")
    if rule.options:
        raise Misuse(f"{text!r}: an option that no stage of this gate understands")
    open_to_nobody = frozenset() in requirement.ways
    everything = pattern.rest and all(segment is None for segment in pattern.shape)
    if everything and open_to_nobody and not requirement.rest:
        raise Misuse(
            f"{text!r} would open whatever no other rule names: write allow.unsafe_public_rest() or "
            "allow.unsafe_untouched_rest() if that is meant"
        )
    names = [name for _, name in pattern.names]
    if pattern.rest_name == "org":
        raise Misuse(f"{text!r}: {{org}} is one segment")
    if "org" in names and open_to_nobody:
        raise Misuse(f"{text!r}: {{org}} is compared with the caller's organization, and there may be no caller")


def _check_organizations(patterns: Sequence[Pattern]) -> None:
    """Where one rule compares a segment with the organization, no other may let that segment be anything.

    A `**` further up, such as `/**`, is not meant: it decides what no more specific rule names, for every organization.
    """
    compared = {pattern.shape[:at]: pattern.text for pattern in patterns for at, name in pattern.names if name == "org"}
    starred = [before for before in compared if None in before]
    for pattern in patterns:
        named = dict(pattern.names)
        places = [at for at, segment in enumerate(pattern.shape) if segment is None and named.get(at) != "org"]
        if pattern.rest and any(segment is not None for segment in pattern.shape):
            places.append(len(pattern.shape))
        for at in places:
            before = pattern.shape[:at]
            beside = compared if None in before and at < len(pattern.shape) else [before, *starred]
            for other in beside:
                if other in compared and len(other) == at and _overlap(before, other):
                    raise Misuse(f"{pattern.text!r} leaves open what {compared[other]!r} compares with {{org}}")


def _overlap(a: Sequence[str | None], b: Sequence[str | None]) -> bool:
    return all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))
