"""Every check of the repository, on whatever Python runs nox: `nox -s demo`, `nox -s tests`, or all with `nox`."""

import re
import shlex
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["demo", "tests", "lint", "types", "docs", "minimal"]

PROJECT = nox.project.load_toml("pyproject.toml")
PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
PIP_INSTALL = re.compile(r"^ *(?:\$ )?pip install ([^&|;\n]+)", re.MULTILINE)

built: list[Path] = []  # the wheel, once one session of this run has built it


@nox.session
def demo(session: nox.Session) -> None:
    """A real server behind the gate, real requests, and a table of what came back; `-- --serve` leaves it running."""
    install(session, "demo")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests on the built wheel, in random order; a whole run has a floor under its branch coverage."""
    install(session, "tests", pages=True)
    session.run("coverage", "erase", silent=True)
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, as linter and as formatter."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Our own annotations under mypy strict, and what the wheel shows its users under pyright: 100 %, or it fails."""
    install(session, "tests", "demo", "types", pages=True)
    session.run("mypy", "src", "tests", "examples", "docs/website", "noxfile.py")
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"  # or it asks the network for a newer version of itself
    with session.chdir(session.virtualenv.location):  # away from src, so that it reads the wheel
        session.run("pyright", "--verifytypes", "bartizan", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Every example of the README, the docs and the docstrings, with no more installed than the pages say; the site."""
    install(session, "pytest", "docs", pages=True)
    session.run("pytest", "tests/test_documents.py", *session.posargs)
    session.run("python", "docs/website/website.py", str(Path(session.create_tmp(), "website").resolve()))


@nox.session
def minimal(session: nox.Session) -> None:
    """What works on the core dependencies alone, the README among it, and that no module loads more than it may."""
    install(session, "pytest")
    readme = ("tests/test_documents.py::test_examples[README.md]", "tests/test_readme_attacked.py")
    session.run("pytest", "tests/test_imports.py", *readme, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """What a request costs, in units of one that does nothing; `-- --quick`, `-- --check`, `-- --json FILE`."""
    install(session, "bench")
    told = Path(session.create_tmp(), "bench.json").resolve()
    session.run("python", "-m", "benchmarks", "--json", str(told), *session.posargs, env={"PYTHONPATH": "tests"})


def install(session: nox.Session, *groups: str, pages: bool = False) -> None:
    """The wheel of this checkout with some dependency groups, and with what the pages name where `pages` is true."""
    if not built:
        place = Path(session.cache_dir, "wheel").resolve()
        for old in place.glob("*.whl"):
            old.unlink()
        session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(place), ".", silent=True)
        built.extend(place.glob("*.whl"))
    wheel = str(built[0])
    named = of_pages() if pages else set()
    ours = {name for name in named if re.split(r"[^\w-]", name)[0] == "bartizan"}
    # A reused environment holds a wheel of the same version: it is replaced, whatever the version says.
    session.install("--force-reinstall", "--no-deps", wheel)
    session.install(
        wheel,
        *(name.replace("bartizan", wheel, 1) for name in sorted(ours) if "[" in name),
        *sorted(named - ours),
        *(text for name in groups for text in group(name)),
    )


def group(name: str) -> tuple[str, ...]:
    """The requirements of one dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PROJECT, name)


def of_pages() -> set[str]:
    """What the pages tell their readers to `pip install`, nox aside."""
    lines = [line for page in PAGES for line in PIP_INSTALL.findall(page.read_text("utf-8"))]
    words = {word for line in lines for word in shlex.split(line, comments=True)}
    return {word for word in words if not word.startswith("-")} - {"nox"}
