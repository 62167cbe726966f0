"""Rules compiled once, by subset construction, so that a match walks each segment of a path once.

A state is the list of places in the trie of patterns on which a path may stand, most specific first; it ends after the
first place that has a `**`, which takes all that no earlier place does. Lists that recur are one state.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from re import compile as regex
from typing import Any

from bartizan.core.passage import Rule
from bartizan.errors import Misuse

EDGES = 100_000  # a rule set that needs more is refused
PLACES = 20 * EDGES  # and so is one whose states stand on more places in all: they are what the building costs
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "WEBSOCKET"}
)
_NAME = regex(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})(:path)?\}")
_BAD_LITERAL = regex(r"[\x00-\x20\x7f{}*\\%?#\ud800-\udfff\ufffd]")


class Pattern:
    """One parsed pattern: `methods` (None is every method), `shape` (literals, None for one segment), `rest`, names."""

    __slots__ = ("methods", "names", "plan", "rest", "rest_name", "rule", "shape", "text")

    def __init__(self, text: str, rule: Rule) -> None:
        self.text: str = text
        self.rule: Rule = rule
        self.plan: Any = None  # the gate's, made once
        listed, space, path = text.partition(" ")
        if not space:
            listed, path = "", text
        self.methods: frozenset[str] | None = frozenset(listed.split("|")) if space else None
        if self.methods is not None and not self.methods <= METHODS:
            raise Misuse(f"{text!r}: methods are upper case, of {', '.join(sorted(METHODS))}, before one space")
        if not path.startswith("/"):
            raise Misuse(f"{text!r}: a path starts with /")
        shape: list[str | None] = []
        names: list[tuple[int, str]] = []
        rest_name: str | None = None
        for segment in path[1:].removesuffix("/").split("/") if path != "/" else ():
            named = _NAME.fullmatch(segment)
            if rest_name is not None:
                raise Misuse(f"{text!r}: ** stands last")
            if segment == "**" or (named and named[2]):
                rest_name = named[1] if named else ""
            elif segment == "*" or named:
                if named:
                    names.append((len(shape), named[1]))
                shape.append(None)
            elif segment in {"", ".", ".."} or _BAD_LITERAL.search(segment):
                raise Misuse(f"{text!r}: a segment is the decoded text of one, *, {{name}}, or ** at the end")
            else:
                shape.append(segment)
        all_names = [name for _, name in names] + [rest_name or ""]
        if len(set(all_names)) != len(all_names):
            raise Misuse(f"{text!r}: a name stands once")
        self.shape: tuple[str | None, ...] = tuple(shape)
        self.names: tuple[tuple[int, str], ...] = tuple(names)
        self.rest: bool = rest_name is not None
        self.rest_name: str = rest_name or ""


class Leaf:
    """All rules of one path: which pattern answers each method, and what `Allow` says."""

    __slots__ = ("allow", "by_method", "other")

    def __init__(self) -> None:
        self.by_method: dict[str, Pattern] = {}
        self.other: Pattern | None = None
        self.allow: str = ""

    def add(self, pattern: Pattern) -> None:
        """Take a pattern; two that name one method, or two that name none, are `Misuse`."""
        for method in pattern.methods or ():
            if method in self.by_method:
                raise Misuse(f"{pattern.text!r} and {self.by_method[method].text!r} name one method of one path")
            self.by_method[method] = pattern
        if pattern.methods is None:
            if self.other is not None:
                raise Misuse(f"{pattern.text!r} and {self.other.text!r} are one path without methods")
            self.other = pattern

    def finish(self) -> None:
        """Let GET answer HEAD too, and write `Allow`."""
        if "GET" in self.by_method:
            self.by_method.setdefault("HEAD", self.by_method["GET"])
        self.allow = ", ".join(sorted(self.by_method.keys() - {"WEBSOCKET"}))

    def patterns(self) -> Iterator[Pattern]:
        """Each pattern once."""
        yield from {id(p): p for p in (*self.by_method.values(), self.other) if p is not None}.values()


class _Node:
    __slots__ = ("leaf", "literal", "number", "rest", "star")

    def __init__(self, number: int) -> None:
        self.number = number
        self.literal: dict[str, _Node] = {}
        self.star: _Node | None = None
        self.leaf: Leaf | None = None
        self.rest: Leaf | None = None


class _State:
    __slots__ = ("edges", "leaf", "rest", "star")

    def __init__(self, leaf: Leaf | None, rest: Leaf | None) -> None:
        self.leaf = leaf
        self.rest = rest
        self.edges: dict[str, _State] = {}
        self.star: _State | None = None


class Table:
    """A compiled rule set."""

    __slots__ = ("_root", "leaves")

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        root, count = _Node(0), 1
        self.leaves: dict[tuple[tuple[str | None, ...], bool], Leaf] = {}
        for pattern in patterns:
            node = root
            for segment in pattern.shape:
                following = node.star if segment is None else node.literal.get(segment)
                if following is None:
                    following, count = _Node(count), count + 1
                    if segment is None:
                        node.star = following
                    else:
                        node.literal[segment] = following
                node = following
            leaf = self.leaves.setdefault((pattern.shape, pattern.rest), Leaf())
            leaf.add(pattern)
            if pattern.rest:
                node.rest = leaf
            else:
                node.leaf = leaf
        for leaf in self.leaves.values():
            leaf.finish()
        self._root = _compiled(root)

    def match(self, segments: Sequence[str]) -> Leaf | None:
        """The rules of the most specific path that covers these segments."""
        state = self._root
        rest = state.rest
        for segment in segments:
            following = state.edges.get(segment) or state.star
            if following is None:
                return rest
            state = following
            if state.rest is not None:
                rest = state.rest
        return state.leaf or rest


def _compiled(root: _Node) -> _State:
    states: dict[tuple[int, ...], _State] = {}
    edges = places = 0
    waiting: list[tuple[_State, list[_Node]]] = []

    def state_of(nodes: list[_Node]) -> _State | None:
        nonlocal edges, places
        if not nodes:
            return None
        edges += 1
        places += len(nodes)
        if edges > EDGES or places > PLACES:
            raise Misuse(
                f"this rule set needs more than {EDGES} edges: too many patterns differ only in where * stands"
            )
        for place, node in enumerate(nodes):
            if node.rest is not None:
                del nodes[place + 1 :]
                break
        key = tuple([node.number for node in nodes])
        known = states.get(key)
        if known is None:
            leaf = next((node.leaf for node in nodes if node.leaf is not None), None)
            known = states[key] = _State(leaf, nodes[-1].rest)
            waiting.append((known, nodes))
        return known

    first = state_of([root])
    while waiting:
        state, nodes = waiting.pop()
        stars = [node.star for node in nodes if node.star is not None]
        state.star = state_of(stars[:])
        for literal in {name: None for node in nodes for name in node.literal}:
            following = []
            for node in nodes:
                if (child := node.literal.get(literal)) is not None:
                    following.append(child)
                if node.star is not None:
                    following.append(node.star)
            reached = state_of(following)
            if reached is not None:
                state.edges[literal] = reached
    if first is None:  # a root is a node
        raise Misuse("no rules")
    return first


def segments_of(path: str) -> list[str]:
    """The segments of a checked path; one slash at the end does not matter."""
    segments = path.split("/")
    del segments[0]
    if segments and not segments[-1]:
        del segments[-1]
    return segments


def params_of(pattern: Pattern, segments: Sequence[str]) -> Mapping[str, str]:
    """What the names of a pattern stand for in these segments."""
    params = {}
    for place, name in pattern.names:  # no comprehension: that is a frame
        params[name] = segments[place]
    if pattern.rest_name:
        params[pattern.rest_name] = "/".join(segments[len(pattern.shape) :])
    return params
