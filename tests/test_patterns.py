from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from bartizan import Misuse, Rule, allow
from bartizan.core.requirement import Requirement
from bartizan.gate.patterns import EDGES, Leaf, Pattern, Table, params_of, segments_of
from bartizan.gate.rules import compiled
from bartizan.testing.kit import Kit


def table(*texts: str) -> Table:
    return Table([Pattern(text, Rule(text, allow.secret_key())) for text in texts])


def decided(texts: Sequence[str], path: str) -> str | None:
    leaf = table(*texts).match(segments_of(path))
    return None if leaf is None else next(leaf.patterns()).text


def by_definition(texts: Sequence[str], path: str) -> str | None:
    """Most specific first, segment by segment: literal, then `*`, then `**`."""
    segments = segments_of(path)
    best: tuple[tuple[int, ...], str] | None = None
    for text in texts:
        parts = segments_of(text)
        rank: list[int] = []
        for place, segment in enumerate(segments):
            if place < len(parts) and parts[place] == segment:
                rank.append(0)
            elif place < len(parts) and parts[place] == "*":
                rank.append(1)
            elif place < len(parts) and parts[place] == "**":
                rank.append(2)
                break
            else:
                break
        else:
            if len(parts) == len(segments):
                rank.append(0)
            elif parts[len(segments) :] == ["**"]:
                rank.append(2)
            else:
                continue
            best = min(best, (tuple(rank), text)) if best else (tuple(rank), text)
            continue
        if rank and rank[-1] == 2:
            best = min(best, (tuple(rank), text)) if best else (tuple(rank), text)
    return None if best is None else best[1]


segment = st.sampled_from(["a", "b", "c", "*"])
pattern = st.builds(
    lambda parts, rest: "/" + "/".join([*parts, *(["**"] if rest else [])]),
    st.lists(segment, max_size=4),
    st.booleans(),
)
PATHS = ["/" + "/".join(parts) for n in range(6) for parts in product("abx", repeat=n)]


@settings(max_examples=300)
@given(st.sets(pattern, min_size=1, max_size=12))
@example({"/a/*", "/*/a"})
@example({"/a/**", "/*/b/c"})
@example({"/**", "/a/*", "/a/b/**", "/*/b/*/**"})
def test_match_is_the_definition(texts: set[str]) -> None:
    compiled_once = table(*sorted(texts))
    for path in PATHS:
        leaf = compiled_once.match(segments_of(path))
        found = None if leaf is None else next(leaf.patterns()).text
        assert found == by_definition(sorted(texts), path), path


def test_a_star_beside_a_literal_shadows_nothing() -> None:
    texts = ["/a/*", "/*/a"]
    assert [decided(texts, path) for path in ("/a/a", "/a/x", "/x/a", "/x/x")] == ["/a/*", "/a/*", "/*/a", None]


def test_a_rest_beside_a_star_shadows_nothing() -> None:
    texts = ["/a/**", "/*/b/c"]
    assert [decided(texts, path) for path in ("/a/b/c", "/a", "/x/b/c", "/x/b", "/a/b/c/d")] == [
        "/a/**", "/a/**", "/*/b/c", None, "/a/**",
    ]  # fmt: skip


def test_slashes_at_the_end_and_the_root() -> None:
    assert decided(["/"], "/") == "/"
    assert decided(["/x"], "/x/") == "/x"
    assert decided(["/x/"], "/x") == "/x/"
    for path in ("/x", "/x/", "/x/y", "/x/y/z/"):
        assert decided(["/x/**"], path) == "/x/**"
    assert decided(["/x/*"], "/x/") is None
    assert decided(["/**"], "/") == "/**"


def test_names_stand_for_their_segments() -> None:
    one = Pattern("GET /orgs/{org}/files/{path:path}", Rule("/", allow.secret_key()))
    assert params_of(one, ["orgs", "o", "files", "a", "b"]) == {"org": "o", "path": "a/b"}
    assert params_of(one, ["orgs", "o", "files"]) == {"org": "o", "path": ""}


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "GET", "GET x", "get /x", "GET  /x", " /x", "/x ", "GET|POST|/x", "FETCH /x", "GET,POST /x", "|GET /x", "GET| /x",
        "/a//b", "//", "/./a", "/a/..", "/a\\b", "/a%2fb", "/a?b", "/a#b", "/a b", "/a\n", "/a*", "/*a", "/{a", "/a}", "/{}", "/{a}b",
        "/{1a}", "/**/a", "/{a:path}/b", "/**/**", "/{a}/{a}", "/{a}/{a:path}", "/{a:int}", "/\ud800", "/a\ufffd", "/***", "/a/**/",
    ],
)  # fmt: skip
def test_patterns_that_are_misuse(text: str) -> None:
    if text == "/a/**/":  # one slash at the end does not matter, here neither
        assert decided([text], "/a/b") == text
    else:
        with pytest.raises(Misuse):
            Pattern(text, Rule("/", allow.secret_key()))


def gate(*rules: Rule) -> Any:
    return Kit().security.gate(rules)


def test_methods() -> None:
    secret, open_to_all = allow.secret_key(), allow.public()
    made = gate(
        Rule("GET /x", open_to_all),
        Rule("/x", secret),
        Rule(["GET|POST /y", "PUT /y"], secret),
        Rule("WEBSOCKET /w", secret),
    )
    rules = {m: made.rule_for(m, "/x") for m in ("GET", "HEAD", "POST", "WEBSOCKET", "BREW")}
    assert rules["GET"] is rules["HEAD"]
    assert rules["POST"] is rules["WEBSOCKET"] is rules["BREW"]
    assert rules["GET"] is not rules["POST"]
    assert made.rule_for("HEAD", "/y") is made.rule_for("PUT", "/y")
    assert made.rule_for("WEBSOCKET", "/y") is None
    assert made.rule_for("GET", "/w") is None
    assert made.rule_for("GET", "//x") is None
    assert made.rule_for("GET", "/none") is None


def test_head_of_its_own_wins() -> None:
    made = gate(Rule("GET /x", allow.public()), Rule("HEAD /x", allow.secret_key()))
    assert made.rule_for("GET", "/x") is not made.rule_for("HEAD", "/x")


SECRET, PUBLIC, UNTOUCHED = allow.secret_key(), allow.public(), allow.untouched()
OPTIONAL = allow.optional(SECRET)


@pytest.mark.parametrize(
    "rules",
    [
        [], [Rule("GET /x", SECRET), Rule("GET|POST /x", PUBLIC)], [Rule("/x", SECRET), Rule("/x/", SECRET)],
        [Rule("/{a}", SECRET), Rule("/*", SECRET)], [Rule("/{a}/**", SECRET), Rule("/*/{b:path}", SECRET)],
        [Rule("/**", PUBLIC)], [Rule("/**", UNTOUCHED)], [Rule("/**", OPTIONAL)], [Rule("/*/**", PUBLIC)], [Rule("/{a}/**", OPTIONAL)],
        [Rule("/**", allow.publishable_key() & OPTIONAL), Rule("/*/**", OPTIONAL)],
        [Rule("/orgs/{org}", PUBLIC)], [Rule("/orgs/{org}", OPTIONAL)], [Rule("/orgs/{org:path}", SECRET)],
        [Rule("/orgs/{org}/a", SECRET), Rule("/orgs/*/b", SECRET)], [Rule("/orgs/{id}", SECRET), Rule("/orgs/{org}/a", SECRET)],
        [Rule("GET /{org}", SECRET), Rule("POST /{id}", SECRET)], [Rule("/x", SECRET, object())],
    ],
)  # fmt: skip
def test_rule_sets_that_are_misuse(rules: list[Rule]) -> None:
    with pytest.raises(Misuse):
        gate(*rules)


def test_rule_sets_that_are_not() -> None:
    gate(Rule("/**", allow.unsafe_public_rest()))
    gate(Rule("/**", allow.unsafe_untouched_rest()), Rule("/static/**", PUBLIC))
    gate(
        Rule("/**", SECRET),
        Rule("/orgs/{org}/a", SECRET),
        Rule("/orgs/{org}/b/{id}", SECRET),
        Rule("/orgs/me/a", SECRET),
    )
    gate(Rule("/**", allow.publishable_key() & OPTIONAL))


ANY: Any = SECRET
TEXT: Any = "public"


@pytest.mark.parametrize(
    "make",
    [
        lambda: PUBLIC & SECRET, lambda: SECRET | PUBLIC, lambda: UNTOUCHED & SECRET, lambda: SECRET | UNTOUCHED, lambda: PUBLIC | PUBLIC,
        lambda: OPTIONAL | SECRET, lambda: (OPTIONAL & SECRET) | SECRET, lambda: allow.optional(PUBLIC), lambda: allow.optional(OPTIONAL),
        lambda: ANY and ANY, lambda: ANY or ANY, lambda: not ANY, lambda: ANY & "x", lambda: ANY | None,
        lambda: Rule([], SECRET), lambda: Rule("/x", TEXT), lambda: Rule("/x", SECRET, body_limit=-1), lambda: Rule("/x", SECRET, body_limit=True),
        lambda: allow.secret_key("a b"), lambda: allow.secret_key(""), lambda: allow.unsafe_public_rest() | SECRET,
    ],
)  # fmt: skip
def test_requirements_that_are_misuse(make: Any) -> None:
    with pytest.raises(Misuse):
        make()


def test_ways_are_the_alternatives() -> None:
    a, b = frozenset({"secret"}), frozenset({"publishable"})
    both: Requirement = allow.secret_key() & allow.publishable_key()
    assert both.ways == {a | b}
    assert (allow.secret_key() | allow.publishable_key()).ways == {a, b}
    assert allow.optional(allow.secret_key()).ways == {a, frozenset()}


def test_hostile_sets_of_stars_are_compiled_or_refused() -> None:
    depth = 12
    everything = ["/" + "/".join(parts) for parts in product(("a", "*"), repeat=depth)]
    assert decided(everything, "/" + "/".join("a" * depth)) == everything[0]
    scattered = [f"/{'*/' * n}x{i}/{'*/' * (20 - n)}y" for n in range(20) for i in range(40)]
    with pytest.raises(Misuse, match=str(EDGES)):
        table(*scattered)


def test_many_rules_of_the_ordinary_kind() -> None:
    many = table(*[f"/r{n}/*/x" for n in range(10_000)], *[f"/s{n}/**" for n in range(10_000)])
    leaf = many.match(["r77", "y", "x"])
    assert isinstance(leaf, Leaf)
    assert next(leaf.patterns()).text == "/r77/*/x"
    assert compiled([Rule("/x", PUBLIC)], {}, Kit().security._shared.home).match(["y"]) is None
