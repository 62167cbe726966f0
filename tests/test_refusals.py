"""The pages of refusals: complete, and true of what explanations, events and calls really say."""

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import website
from refusal_cases import CASES, Case
from refusals import CONFIRMS, Cause, codes, entries, pages, shown_by, step_of

from bartizan import WebhookEvent, WebhookVerifier
from bartizan.cli.main import COMMANDS
from bartizan.errors import BartizanError, Misuse, Reason
from bartizan.gate.explanation import Explanation, request_for
from bartizan.testing import Kit
from bartizan.types import Refuse

SRC = Path(__file__).parents[1] / "src" / "bartizan"
WRITE = "write a table for it in docs/website/reasons/, in the form that docs/website/refusals.py tells"
WRITTEN = entries()
CAUSES = [(f"{entry.reason} {n}", cause) for entry in WRITTEN.values() for n, cause in enumerate(entry.causes, 1)]
EXPLAINED = {name: cause for name, cause in CAUSES if cause.explain is not None}
ONLY_EXPLAINED = {Reason.WOULD_WRITE, Reason.NOT_ASKED}
INDIRECT = {
    *((reason, "invalid_code") for reason in ("malformed", "code_unknown", "code_spent", "challenge_wrong")),
    *((reason, "invalid_session") for reason in ("malformed", "forged", "expired", "session_misbound")),
    *((reason, "invalid_proof") for reason in ("proof_missing", "proof_replayed")),
}  # raised by way of a table, or of a decision
ONLY_SAID = {Reason.KEY_LEAKED, Reason.SESSION_UPGRADED, Reason.SESSION_DISPLACED, Reason.ADMITTED}


def texts() -> list[str]:
    """Every constant text of the program."""
    trees = [ast.parse(path.read_text("utf-8")) for path in SRC.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [node.value for node in nodes if isinstance(node.value, str)]


TEXTS = texts()


def raised() -> Iterator[tuple[str, str, str]]:
    """Each place where the program names an error and its reason: (where, reason, code)."""
    kinds = {kind.__name__: kind for kind in codes().values() if kind is not Misuse}
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name) and node.exc.id in kinds:
                yield where, kinds[node.exc.id].default.value, kinds[node.exc.id].code
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds):
                continue
            named = [part for given in node.args[:1] for part in ast.walk(given) if isinstance(part, ast.Attribute)]
            for part in named:
                if ast.unparse(part.value) == "Reason":
                    yield where, Reason[part.attr].value, kinds[node.func.id].code
            if not node.args:
                yield where, kinds[node.func.id].default.value, kinds[node.func.id].code


def test_every_reason_has_an_entry_and_every_entry_a_reason() -> None:
    missing = sorted(set(Reason) - set(WRITTEN))
    assert not missing, f"{', '.join(missing)} has no entry: {WRITE}"
    unknown = {entry.reason: entry.file for entry in WRITTEN.values() if entry.reason not in set(Reason)}
    assert not unknown, f"these are no reasons (any more): take their tables out of the files {unknown}"


def test_every_entry_says_with_which_error_it_comes() -> None:
    wrong = {entry.reason: sorted(set(entry.errors) - codes().keys()) for entry in WRITTEN.values()}
    assert {reason: names for reason, names in wrong.items() if names} == {}
    bare = sorted(entry.reason for entry in WRITTEN.values() if not entry.errors)
    assert bare == sorted(ONLY_SAID), "a reason that a client's request can meet names its `errors`"


def test_every_error_that_is_raised_with_a_reason_is_on_the_page_of_its_code() -> None:
    found = list(raised())
    assert len(found) > 150
    missing = [
        f"{where} raises {code} with {reason}: add it to `errors` of [{reason}] in {WRITTEN[reason].file}"
        for where, reason, code in found
        if reason in WRITTEN and code not in WRITTEN[reason].errors
    ]
    assert not missing, "\n".join(missing)


def test_every_code_has_a_page_headed_by_its_type() -> None:
    made = pages(WRITTEN)
    assert set(made) == {"index", *codes()}
    for code, kind in codes().items():
        assert made[code].startswith(f"# urn:bartizan:problem:{code}\n"), code
        if kind is not Misuse:
            assert made[code].startswith(f"# {kind().problem['type']}\n")
        assert f"]({code}.md)" in made["index"]


def test_every_page_has_a_section_for_each_of_its_reasons_with_its_causes() -> None:
    made = pages(WRITTEN)
    for entry in WRITTEN.values():
        anchor = f"# {entry.reason} {{#{entry.reason}}}\n"
        assert [name for name in made if anchor in made[name]] == (
            [name for name in made if name in entry.errors] or ["index"]
        )
        for code in entry.errors:
            assert f"]({code}.md#{entry.reason})" in made["index"]
            assert entry.under(code), f"{entry.reason}: no cause is left for {code}"
            for cause in entry.under(code):
                assert cause.why in made[code]
                assert cause.mend in made[code]


def test_an_error_of_an_application_gets_no_page_of_ours() -> None:
    class Late(BartizanError):
        pass

    assert Late in BartizanError.__subclasses__()
    assert "late" not in codes()


@pytest.mark.parametrize(("name", "cause"), CAUSES, ids=[name for name, _ in CAUSES])
def test_a_cause_is_confirmed_by_something_that_exists(name: str, cause: Cause) -> None:
    way, text = cause.confirm
    reason = name.split(maxsplit=1)[0]
    assert cause.why[-1] not in ".:", "it is a heading"
    assert cause.mend.endswith(".")
    assert way in CONFIRMS
    assert set(cause.only) <= set(WRITTEN[reason].errors), f"{name}: `only` is not among the reason's `errors`"
    if way == "explain":
        steps = [step_of(line) for line in cause.lines]
        assert [step.reason for step in steps] == [None] * (len(steps) - 1) + [reason]
    elif way == "event":
        assert text in TEXTS, f"{name}: nothing tells of an event {text}"
    elif way == "call":
        assert exists(text), f"{name}: there is no {text}"
    if cause.says is not None:
        assert any(cause.says in said for said in TEXTS), f"{name}: nothing says {cause.says!r}"


def exists(call: str) -> bool:
    """Whether a call that a page shows is there to be called."""
    found = re.fullmatch(r"(security|gate|hooks|event)\.([a-z_.]+)\(.*\)|python -m bartizan ([a-z-]+).*", call)
    if found is None:
        return False
    if found[3]:
        return found[3] in COMMANDS
    kit = Kit()
    roots = {
        "security": kit.security,
        "gate": PLACE_GATE,
        "hooks": WebhookVerifier,
        "event": WebhookEvent,
    }
    there: object = roots[found[1]]
    for part in found[2].split("."):
        there = getattr(there, part, None)
    return callable(there)


PLACE_GATE = CASES["no_rule 1"].gate


def test_names_that_do_not_exist_are_found() -> None:
    assert exists('security.keys.list(org="…")')
    assert exists("python -m bartizan routes")
    for call in ("security.keys.shred()", "nothing.at(all)", "python -m bartizan fly", "security.keys"):
        assert not exists(call)


@pytest.mark.parametrize(
    "line",
    [
        "requirement  refused      scope_lacking",  # no reason
        "requirements refused      scope_missing",  # no place
        "requirement  denied       scope_missing",  # no outcome
        "requirement  refused scope_missing",  # not as it is printed
        "requirement refused      scope_missing",
        "requirement  refused      scope_missing ",
        "",
    ],
)  # fmt: skip
def test_a_line_that_no_explanation_prints_is_found(line: str) -> None:
    with pytest.raises(ValueError):
        step_of(line)


def explained(case: Case) -> Explanation:
    asked = case.gate.explain(case.method, case.target, case.headers, callbacks=case.callbacks, client=case.client)
    return asyncio.run(asked)


def test_every_cause_that_an_explanation_confirms_is_tried() -> None:
    missing = sorted(EXPLAINED.keys() - CASES.keys())
    assert not missing, f"tests/refusal_cases.py has no request that comes to: {', '.join(missing)}"
    assert sorted(CASES.keys() - EXPLAINED.keys()) == []


@pytest.mark.parametrize("name", CASES)
def test_the_cause_leads_to_the_reason_and_is_explained_so(name: str) -> None:
    case, reason = CASES[name], name.split(maxsplit=1)[0]
    told = explained(case)
    assert told.reason == reason
    assert shown_by(told, EXPLAINED[name]), str(told)
    if reason in ONLY_EXPLAINED:
        assert (told.admitted, told.status) == (None, 0)
        return
    error = refused(case)
    assert (error.reason, error.status) == (reason, told.status)
    assert error.code in WRITTEN[reason].errors
    assert EXPLAINED[name] in WRITTEN[reason].under(error.code)


def refused(case: Case) -> BartizanError:
    """What the gate itself says to this request."""
    verdict = case.gate.blocking.check(request_for(case.method, case.target, case.headers, case.client))
    assert isinstance(verdict, Refuse)
    return verdict.error


def test_no_entry_claims_an_error_with_which_the_reason_never_comes() -> None:
    found = {(reason, code) for _, reason, code in raised()}
    found |= {(kind.default.value, code) for code, kind in codes().items()}  # where an application raises it
    found |= {
        (name.split(maxsplit=1)[0], refused(case).code)
        for name, case in CASES.items()
        if name.split(maxsplit=1)[0] not in ONLY_EXPLAINED
    }
    claimed = {(entry.reason, code) for entry in WRITTEN.values() for code in entry.errors}
    assert sorted(claimed - found - INDIRECT) == []
    assert claimed >= INDIRECT


def test_a_line_is_not_shown_by_another_explanation() -> None:
    told = explained(CASES["no_rule 1"])
    assert [name for name in EXPLAINED if shown_by(told, EXPLAINED[name])] == ["no_rule 1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\nerrors = []\nmeans = "x"\n[[a.causes]]\nwhy = "y"\nmend = "z"\n', "one of explain"),
        ('[a]\nerrors = []\nmeans = "x"\n[[a.causes]]\nwhy = "y"\nmend = "z"\nevent = "e"\ncall = "c"\n', "one of"),
        ('[a]\nerrors = []\nmeans = "x"\n[[a.causes]]\nwhy = "y"\nmends = "z"\n', "a cause has no mends"),
    ],
)
def test_an_entry_that_is_not_of_the_form_is_found(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        _ = [cause.confirm for entry in entries(tmp_path).values() for cause in entry.causes]


def test_two_entries_for_one_reason_are_found(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.toml").write_text('[no_rule]\nerrors = []\nmeans = "x"\n', "utf-8")
    with pytest.raises(ValueError, match=r"no_rule is in a\.toml and in b\.toml"):
        entries(tmp_path)


# --- the site ---


def test_every_page_is_in_the_navigation_once() -> None:
    found = website.collected()
    names = [name.removesuffix(".md") for name in found if "/" not in name and name != "changes.md"]

    def below(nav: object) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
        elif isinstance(nav, dict):
            for part in nav.values():
                yield from below(part)
        elif isinstance(nav, list):
            for part in nav:
                yield from below(part)

    shown = list(below(website.navigation([*names, "unheard-of"])))
    assert sorted(shown) == sorted([*found, "unheard-of.md"])


def test_a_page_that_is_named_in_the_navigation_exists() -> None:
    named = {name for section in website.SECTIONS.values() for name in section}
    assert named <= {path.stem for path in website.DOCS.glob("*.md")}
