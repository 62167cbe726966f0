"""Every example runs: the Python blocks of each page in order, in one namespace; each docstring by itself.

There is no way to mark a block as not to be run, and a block without a language is not allowed.
"""

import ast
import asyncio
import doctest
import gc
import inspect
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from bartizan.core.ring import new_root

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

RUN = {"python", "pycon"}  # statements, or a session with `>>>` whose output is compared
SHOWN = set("sh console text json toml yaml ini http html js sql nginx dockerfile".split())
FENCE = re.compile(r"( *)(`{3,}|~{3,})(.*)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NOX = re.compile(r"\bnox -s((?: [a-z]+)+)")


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of its first line, from 0
    text: str


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text (CommonMark 4.5, as far as we write it)."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        start = FENCE.fullmatch(lines[at])
        at += 1
        if start is None:
            continue
        first = at
        while lines[at].strip() != start[2]:  # IndexError: it is never closed
            at += 1
        yield Block(start[3], first, dedent("\n".join(lines[first:at]) + "\n"))
        at += 1


def docstrings() -> Iterator[tuple[str, str]]:
    """Those with an example: (module.qualified.name, text)."""

    def below(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f"{name}.{child.name}"
                yield inner, ast.get_docstring(child) or ""
                yield from below(child, inner)

    for path in sorted(SRC.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        name = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        for where, text in [(name, ast.get_docstring(tree) or ""), *below(tree, name)]:
            if ">>>" in text or "```" in text or "~~~" in text:
                yield where, text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module in which a page runs, in an empty folder, with a secret in the environment as a deployment has it."""
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)  # annotations and dataclasses look their module up
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    os.environ["BARTIZAN_SECRETS"] = new_root()
    yield page
    os.environ.clear()
    os.environ.update(before)
    page.__dict__.clear()
    gc.collect()  # what the page left open is reported here, not by another test


def run(page: ModuleType, found: list[Block], source: str) -> None:
    """The blocks, one after another; `await` may stand outside a function, and one event loop serves the whole page."""
    with asyncio.Runner() as runner:
        for block in found:
            if block.language == "pycon" or block.text.lstrip().startswith(">>>"):
                session(page, block, source)
                continue
            # Empty lines before it, so that a traceback points into the page.
            code = compile("\n" * block.line + block.text, source, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            waits = eval(code, page.__dict__)
            if inspect.iscoroutine(waits):
                runner.run(waits)


def session(page: ModuleType, block: Block, source: str) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, page.__dict__, source, source, block.line)
    test.globs = page.__dict__  # the parser takes a copy
    report: list[str] = []
    failed, _ = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    assert failed == 0, "".join(report)


def runnable(text: str) -> list[Block]:
    """What is run of a page; a session that stands in a docstring without a fence is run too."""
    found = [block for block in blocks(text) if block.language in RUN]
    return found or ([Block("pycon", 0, text)] if ">>>" in text else [])


EXAMPLES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in PAGES} | dict(docstrings())


@pytest.mark.parametrize("where", EXAMPLES)
def test_examples(where: str, place: ModuleType) -> None:
    run(place, runnable(EXAMPLES[where]), str(ROOT / where))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nassert 1 == 2\n```", AssertionError),
        ("```python\nawait asyncio.sleep(0)\n```", NameError),
        ("- one\n\n  ```pycon\n  >>> 1 + 1\n  3\n  ```", AssertionError),
        ("A docstring.\n\n>>> 1 + 1\n3\n", AssertionError),
        ("```python\nx = 1\n", IndexError),
    ],
)
def test_an_example_that_is_wrong_fails(text: str, error: type[Exception], place: ModuleType) -> None:
    with pytest.raises(error):
        run(place, runnable(text), "page")


def test_a_page_is_one_story(place: ModuleType) -> None:
    text = (
        "```python\nimport asyncio\nx = 1\n```\n```python\nawait asyncio.sleep(0)\nx += 1\n```\n```pycon\n>>> x\n2\n```"
    )
    run(place, runnable(text), "page")
    assert place.x == 2


def test_there_is_something_to_run() -> None:
    assert runnable(EXAMPLES["README.md"]), "the README opens with an example"
    assert any(runnable(EXAMPLES[where]) for where in EXAMPLES if where.startswith("docs/"))


def test_every_block_has_a_language_that_we_know() -> None:
    found = [(where, block.language) for where, text in EXAMPLES.items() for block in blocks(text)]
    assert [item for item in found if item[1] not in RUN | SHOWN] == []


def test_links_lead_somewhere() -> None:
    for path in PAGES:
        for target in LINK.findall(path.read_text("utf-8")):
            if not target.startswith(("https://", "mailto:")):
                file, _, heading = target.partition("#")
                aim = (path.parent / file).resolve() if file else path
                assert aim.exists(), f"{path.name}: {target}"
                assert not heading or heading in headings(aim), f"{path.name}: {target}"


def headings(path: Path) -> set[str]:
    """The anchors of a page, as the usual renderers make them."""
    found = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in found}


def sessions() -> set[str]:
    """The names of the nox sessions."""
    functions = [
        node for node in ast.parse((ROOT / "noxfile.py").read_text("utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    return {node.name for node in functions if any("session" in ast.unparse(mark) for mark in node.decorator_list)}


def test_every_nox_session_that_a_page_names_exists() -> None:
    texts = [path.read_text("utf-8") for path in [*PAGES, ROOT / ".ci" / "run", ROOT / "noxfile.py"]]
    named = {name for text in texts for names in NOX.findall(text) for name in names.split()}
    assert {"demo", "tests"} <= named <= sessions()


def test_the_two_commands_of_a_newcomer() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    shell = "".join(block.text for block in blocks(readme) if block.language in {"sh", "console"})
    assert "pip install nox && nox -s demo" in shell
    assert "pip install nox && nox -s tests" in shell
    assert "uvx nox -s" in readme
    assert "pipx run nox -s" in readme


def test_the_check_begins_with_the_command_of_the_readme() -> None:
    said = [line.strip() for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()]
    calls = [line.split()[2:] for line in said if line.startswith("nox -s ")]
    assert calls[0] == ["tests"]
    assert {name for call in calls for name in call} == sessions() - {"bench"}
