"""The table of an application's routes, each with the rule that decides over it, and what has no counterpart."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bartizan.core.passage import Rule
from bartizan.gate.gate import Gate
from bartizan.gate.patterns import METHODS, Pattern
from bartizan.integrations.routes import Route

_log = logging.getLogger("bartizan.integrations")

_FRESH: Final = "{}"  # a segment that no pattern has as its literal
_REFUSED: Final = "refused"


class Coverage(NamedTuple):
    """The table as `lines`; `unnamed` are routes that no rule names, `unmet` patterns that no route meets."""

    lines: Sequence[str]
    unnamed: Sequence[str]
    unmet: Sequence[str]

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


def tell(gate: Gate, routes: Callable[[], Iterable[Route]]) -> None:
    """Log by name what has no counterpart: such a route nobody reaches, and such a rule protects nothing."""
    try:
        found = coverage(gate, routes())
    except Exception:  # noqa: BLE001 - for people: a strange application serves all the same
        _log.exception("the routes of this application could not be listed")
        return
    if found.unnamed:
        _log.warning("no rule names, so nobody reaches: %s", ", ".join(found.unnamed))
    if found.unmet:
        _log.warning("no route meets the rule of: %s", ", ".join(found.unmet))


class _Tree:
    """Patterns by their segments, so that a large table is not a large product."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self.below: dict[str | None, _Tree] = {}
        self.here: list[tuple[int, Pattern]] = []
        self.rest: list[tuple[int, Pattern]] = []
        for number, pattern in enumerate(patterns):
            place = self
            for segment in pattern.shape:
                place = place.below.setdefault(segment, _Tree())
            (place.rest if pattern.rest else place.here).append((number, pattern))

    def near(self, one: Route) -> list[Pattern]:
        """The patterns that some path has in common with a route, in their order."""
        places, found = [self], []
        for segment in one.shape:
            found += [pair for place in places for pair in place.rest]
            places = [
                inner
                for place in places
                for name, inner in place.below.items()
                if segment is None or name is None or name == segment
            ]
        while places:
            found += [pair for place in places for pair in (*place.here, *place.rest)]
            places = [inner for place in places for inner in place.below.values()] if one.rest else []
        return [pattern for _, pattern in sorted(found, key=lambda pair: pair[0])]


def coverage(gate: Gate, routes: Iterable[Route]) -> Coverage:
    """Each route of an application with the rule that decides over it."""
    patterns = gate.patterns
    tree = _Tree(patterns)
    by_rule: dict[Rule, list[Pattern]] = {}
    for pattern in patterns:
        by_rule.setdefault(pattern.rule, []).append(pattern)
    own = {rule: _Tree(its) for rule, its in by_rule.items()}
    lines: list[str] = []
    unnamed: list[str] = []
    met: set[int] = set()
    for one in sorted(set(routes), key=lambda item: (item.text, sorted(item.methods or ()))):
        near = tree.near(one)
        met.update(id(pattern) for pattern in near if _share(one.methods, pattern.methods))
        told = {method: _decided(gate, one, method, near, own) for method in _methods(one, near)}
        named = {method for method, by in told.items() if (any(by) if one.rest else next(iter(by)))}
        lacking = [] if named and one.methods is None else sorted(told.keys() - named)
        if lacking:
            unnamed.append(one.text if one.methods is None else f"{'|'.join(lacking)} {one.text}")
        lines.extend(_lines(one, told))
    unmet = [pattern.text for pattern in patterns if id(pattern) not in met]
    lines.extend(f"no route -> {_worded(pattern)}" for pattern in patterns if id(pattern) not in met)
    return Coverage(lines, unnamed, unmet)


def _share(a: frozenset[str] | None, b: frozenset[str] | None) -> bool:
    return a is None or b is None or not _heads(a).isdisjoint(_heads(b))


def _heads(methods: frozenset[str]) -> frozenset[str]:
    return methods | {"HEAD"} if "GET" in methods else methods


def _methods(one: Route, near: Sequence[Pattern]) -> list[str]:
    """The methods to ask for; where a route takes any, one that no rule mentions stands for the rest."""
    mentioned = frozenset[str]().union(*(pattern.methods or () for pattern in near))
    if one.methods is not None:
        return sorted(one.methods | (_heads(one.methods) & mentioned))
    others = METHODS - mentioned - {"HEAD"}
    return [*sorted(mentioned), *sorted(others)[:1]]


def _decided(
    gate: Gate, one: Route, method: str, near: Sequence[Pattern], own: Mapping[Rule, _Tree]
) -> dict[Pattern | None, None]:
    """What decides over the paths of a route: first over one of no special segments, then over parts of them."""
    found: dict[Pattern | None, None] = {}
    longest = max([len(pattern.shape) for pattern in near], default=0)
    for pattern in (None, *near):
        shape = pattern.shape if pattern is not None else ()
        least = max(len(one.shape), len(shape))
        most = max(least, longest) + 1 if one.rest and (pattern is None or pattern.rest) else least
        for length in range(most, least - 1, -1):
            path = [
                next((text for text in (*one.shape[at : at + 1], *shape[at : at + 1]) if text is not None), _FRESH)
                for at in range(length)
            ]
            found[_pattern(gate, method, path, own)] = None
    return found


def _pattern(gate: Gate, method: str, path: Sequence[str], own: Mapping[Rule, _Tree]) -> Pattern | None:
    rule = gate.rule_for(method, "/" + "/".join(path))
    if rule is None:
        return None
    asked = {method, "GET"} if method == "HEAD" else {method}
    fitting = own[rule].near(Route("", None, tuple(path), rest=False))
    # Of one rule's several patterns the one that decides is the most specific; all ask for the same.
    return min(
        [pattern for pattern in fitting if pattern.methods is None or pattern.methods & asked],
        key=lambda p: (p.rest, [part is None for part in p.shape], p.methods is None),
    )


def _lines(one: Route, told: dict[str, dict[Pattern | None, None]]) -> Iterator[str]:
    groups: dict[tuple[Pattern | None, ...], list[str]] = {}
    for method, by_path in told.items():
        groups.setdefault(tuple(by_path), []).append(method)
    stand_in = None if one.methods is not None else list(told)[-1]
    for decided, methods in groups.items():
        if one.methods is None and not any(decided) and len(groups) > 1:
            continue  # where a route takes any method, those that no rule names are no news
        label = "*" if stand_in in methods else "|".join(methods)
        for place, by in enumerate(decided):
            if by is not None or not place:
                yield f"{label} {one.text} -> {_text(by)}{', in part' if place else ''}"


def _text(by: Pattern | None) -> str:
    return _REFUSED if by is None else _worded(by)


def _worded(pattern: Pattern) -> str:
    rule = pattern.rule
    more = ", %2F passes" if rule.unsafe_encoded_slash else ""
    if rule.body_limit != 1024 * 1024:
        more += f", {rule.body_limit} bytes"
    return f"{rule.requirement!r}{more} by {pattern.text}"
