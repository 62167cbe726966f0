"""A rule set made ready: every mistake that can be seen before a request is `Misuse` here."""

from collections.abc import Sequence
from typing import Literal

from bartizan.core.passage import Admit, HeaderPairs, Requirement, Rule
from bartizan.errors import Misuse
from bartizan.gate.patterns import Pattern, Table


class Plan:
    """All that is known of a pattern before a request comes."""

    __slots__ = ("away", "challenge", "kinds", "look", "optional", "org", "pattern", "requirement", "rule")

    def __init__(self, pattern: Pattern, schemes: dict[str, bytes]) -> None:
        rule = pattern.rule
        self.pattern: Pattern = pattern
        self.rule: Rule = rule
        self.requirement: Requirement = rule.requirement
        self.look: Literal["away", "nothing", "caller"] = rule.requirement.look
        self.kinds: frozenset[str] = frozenset().union(*rule.requirement.ways)
        self.optional: bool = self.look == "caller" and frozenset() in rule.requirement.ways
        self.org: int | None = next((place for place, name in pattern.names if name == "org"), None)
        self.away: Admit = Admit(rule, {}, (), {})  # what untouched() answers with, every time
        self.challenge: HeaderPairs = [
            (b"www-authenticate", scheme)
            for scheme in dict.fromkeys(schemes[kind] for kind in sorted(self.kinds) if kind in schemes)
        ]


def compiled(rules: Sequence[Rule], schemes: dict[str, bytes]) -> Table:
    """The table of these rules; `schemes` gives for each kind that has an authenticator its challenge."""
    rules = list(rules)
    if not rules:
        raise Misuse("a gate without rules refuses everything: name what may pass")
    patterns = [Pattern(text, rule) for rule in rules for text in rule.patterns]
    for pattern in patterns:
        _check(pattern, schemes)
        pattern.plan = Plan(pattern, schemes)
    _check_organizations(patterns)
    return Table(patterns)


def _check(pattern: Pattern, schemes: dict[str, bytes]) -> None:
    rule, text = pattern.rule, pattern.text
    requirement = rule.requirement
    unknown = frozenset().union(*requirement.ways) - schemes.keys()
    if unknown:
        kinds = ", ".join(sorted(unknown))
        raise Misuse(f"{text!r}: no authenticator for {kinds}; keys need Bartizan(url=…, secrets=…)")
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
    """Where one rule compares a segment with the organization, none beside it may let the same segment be anything."""
    compared: dict[tuple[str | None, ...], str] = {}
    for pattern in patterns:
        for place, name in pattern.names:
            if name == "org":
                compared[pattern.shape[:place]] = pattern.text
    for pattern in patterns:
        named = dict(pattern.names)
        for place, segment in enumerate(pattern.shape):
            if segment is None and named.get(place) != "org" and pattern.shape[:place] in compared:
                raise Misuse(
                    f"{pattern.text!r} leaves open what {compared[pattern.shape[:place]]!r} compares with {{org}}"
                )
