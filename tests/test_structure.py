"""The house keeps its shape: who may import whom, how long a module is, and what exists in one place only."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path
from sys import stdlib_module_names

import pytest

from bartizan.core.ring import Purpose

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "bartizan"

# The house, storey by storey. A place is a module or a folder directly under the package.
FRONT = {"__init__", "types"}  # the front doors: names for others to import, and nothing else
GROUND = {"errors", "core"}
ROOMS = set("credentials sessions access webhooks browser throttle audit data gate stores outbound".split())
UPPER = set("wiring services gating blocking operations fanfare allow".split())
FACES = set("asgi wsgi endpoints integrations cli console testing __main__".split())

# Arrows beyond "a room imports the ground and itself". A new one needs a sentence in the design.
ARROWS = {("sessions", "credentials")}
ARROWS_BY_NAME = {("webhooks.verifier", "fanfare")}

# Which library is imported where (a place, or one module of it). What is not here is not imported at all.
LIBRARIES = {
    "jwt": {"credentials.jws"},
    "itsdangerous": {"core.stamp"},
    "limits": {"throttle"},
    "starlette": {"asgi", "endpoints", "console", "integrations"},
    "rest_framework": {"integrations.django"},
    "asgiref": {"integrations.django"},  # Django's own
    "httpx": {"outbound"},
    "httpcore": {"outbound"},
    "cryptography": {"core.box"} | ROOMS,
    "typing_extensions": GROUND | ROOMS | UPPER | FACES | FRONT,
    "pytest": {"testing"},
    # not libraries, but as confined: waiting, and drivers that the standard library brings
    "asyncio": {
        "stores.waits",
        "stores.streams",
        "stores.sqlite",
        "stores.postgres",
        "stores.redis",
        "stores.sqlalchemy",
        "cli.explain",  # a command has no event loop, and begins one
        "testing",
    },
    "sqlite3": {"stores"},
}
NAMESAKES = {
    "detect_secrets",
    "fastapi",
    "flask",
    "django",
    "litestar",
    "sqlalchemy",
    "pydantic",
}  # only in modules named after them
DRIVERS = {"psycopg", "psycopg_pool", "redis", "valkey"}  # only inside constructors in stores
INPUT_OUTPUT = set(
    "asyncio concurrent http io logging multiprocessing pathlib queue select selectors shutil signal smtplib socket"
    " sqlite3 ssl subprocess tempfile".split()
)  # none of it in the ground, and no thread; a lock may guard a dictionary

ADAPTERS = {"asgi", "wsgi", "endpoints", "integrations"}
TOLERANCE = 1.1  # a module stays under *about* so many lines

# Who may make a principal, and who may use `hmac` for more than comparing.
VERIFIERS = {
    "credentials.key_rows",
    "credentials.tokens",
    "credentials.access_tokens",
    "credentials.issuers",
    "credentials.links",
    "access.carry",
    "access.guards",
    "access.roles",
    "core.context",
    "gate.doors",
}  # and `testing`, for tests
DERIVERS = {"core.ring"}
DERIVATIONS = set(
    "HKDF HKDFExpand HMAC ConcatKDFHash ConcatKDFHMAC KBKDFHMAC X963KDF PBKDF2HMAC Scrypt pbkdf2_hmac scrypt".split()
)

TOP_LEVEL = set("src tests docs examples noxfile.py pyproject.toml README.md CHANGELOG.md".split())
# A home, a temporary folder or a drive of one machine.
MACHINE_PATH = re.compile(r"(?<![\w.*}])/(?:home|Users|root|tmp|work|mnt|var/folders)/\w|\b[A-Z]:\\+Users\b")


def name_of(path: Path) -> str:
    """`core.ring` for its file; a folder's own `__init__` is the folder."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SRC.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8"), str(path)) for name, path in MODULES.items()}
every_module = pytest.mark.parametrize("module", MODULES)


def place_of(module: str) -> str:
    return module.partition(".")[0]


def imported(node: ast.AST, inside: str = "") -> Iterator[tuple[str, str]]:
    """Each import below a node, wherever it stands: (full name, name of the function around it)."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, inside) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.module, "imports are absolute"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield (whole if whole.removeprefix("bartizan.") in MODULES else node.module), inside
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        inside = node.name
    for child in ast.iter_child_nodes(node):
        yield from imported(child, inside)


def ours(module: str) -> set[str]:
    """The modules of Bartizan that a module imports; the front door is `__init__`."""
    found = {name for name, _ in imported(TREES[module]) if place_of(name) == "bartizan"}
    return {name.removeprefix("bartizan.") if "." in name else "__init__" for name in found}


def foreign(module: str) -> set[tuple[str, str]]:
    """The top names that a module imports from elsewhere, with the function around each."""
    found = {(place_of(name), inside) for name, inside in imported(TREES[module])}
    return {(library, inside) for library, inside in found if library != "bartizan"}


def stands_in(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def named(module: str) -> Iterator[str]:
    """Every name and attribute that a module mentions."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def test_the_source_is_here() -> None:
    assert {"__init__", "errors", "core.ring", "credentials.keys", "gate.gate", "stores.memory"} <= set(MODULES)


@every_module
def test_every_module_has_its_place(module: str) -> None:
    assert place_of(module) in FRONT | GROUND | ROOMS | UPPER | FACES
    assert module.count(".") <= 1, "a room holds modules, never another folder"
    assert not {"utils", "util", "helpers", "base", "common", "misc"} & set(module.split("."))


@every_module
def test_directions(module: str) -> None:
    """Rules 1 to 3."""
    place = place_of(module)
    if place in GROUND:
        allowed = GROUND
    elif place in ROOMS:
        allowed = GROUND | {place} | {to for start, to in ARROWS if start == place}
    elif place in UPPER:
        allowed = GROUND | ROOMS | UPPER
    else:
        allowed = GROUND | ROOMS | UPPER | FACES | FRONT
    allowed = allowed | {to for start, to in ARROWS_BY_NAME if start == module}
    assert {name for name in ours(module) if place_of(name) not in allowed} == set()


def test_no_cycles() -> None:
    """Rule 3, for the whole house."""
    graph = {module: ours(module) - {"__init__"} for module in MODULES if module not in FRONT}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@every_module
def test_no_import_by_text(module: str) -> None:
    """Only a door looks its modules up by name: everything else can be read."""
    if module not in {"__init__", "testing", "cli.loading"}:
        assert not {"import_module", "__import__", "exec", "eval"} & set(named(module))


@every_module
def test_participants_are_stages(module: str) -> None:
    """Rule 4: what stands in the gate for a room is in its `stage.py` or `…_stage.py`."""
    classes = [node for node in TREES[module].body if isinstance(node, ast.ClassDef)]
    methods = {
        item.name for node in classes for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    if place_of(module) in ROOMS - {"gate"} and methods & {"recognises", "plan"}:
        assert module.endswith("stage")


@every_module
def test_tables_stand_beside_their_records(module: str) -> None:
    """Rule 4."""
    if "core.tables" not in ours(module):
        return
    records = {node.name for node in ast.walk(TREES[module]) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Table":
            record = next(word.value for word in node.keywords if word.arg == "record")
            assert isinstance(record, ast.Name)
            assert record.id in records


@every_module
def test_libraries_have_their_place(module: str) -> None:
    """Rule 5, and that there is no other library."""
    for library, inside in foreign(module):
        if library in NAMESAKES:
            assert module.rpartition(".")[2] == library, library
        elif library in DRIVERS:
            assert (place_of(module), inside) == ("stores", "__init__"), library
        elif library in LIBRARIES:
            assert stands_in(module, LIBRARIES[library]), library
        else:
            assert library in stdlib_module_names, library
        if place_of(module) in GROUND:
            assert library not in INPUT_OUTPUT, library
            assert not {"Thread", "Timer"} & set(named(module))


@every_module
def test_length(module: str) -> None:
    limit = 200 if place_of(module) in ADAPTERS else 350
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= limit * TOLERANCE


@every_module
def test_no_assert(module: str) -> None:
    """`python -O` removes them, and a check with them."""
    assert [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, ast.Assert)] == []


def makes_principals(module: str) -> bool:
    mention = {ast.unparse(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
    return "principal.verified" in mention or any(
        alias.name == "verified" and node.module == "bartizan.core.principal"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )


def test_only_verifiers_make_principals() -> None:
    found = {module for module in MODULES if makes_principals(module)}
    assert {module for module in found if place_of(module) != "testing"} == VERIFIERS


@every_module
def test_keys_are_derived_in_one_place(module: str) -> None:
    if module in DERIVERS:
        return
    mentioned = set(named(module))
    assert not DERIVATIONS & mentioned
    assert not {"_roots", "_derived"} & mentioned, "the ring's own"
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hmac":
            assert node.attr == "compare_digest"
        if isinstance(node, ast.ImportFrom) and node.module == "hmac":
            assert [alias.name for alias in node.names] == ["compare_digest"]


def test_every_purpose_is_used_and_none_is_another() -> None:
    used = defaultdict(set)
    for module in MODULES:
        for node in ast.walk(TREES[module]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Purpose":
                used[node.attr].add(module)
    assert set(used) == set(Purpose.__members__)
    assert len(set(Purpose)) == len(Purpose.__members__)


def left_out() -> list[str]:
    return [line.rstrip("/") for line in (ROOT / ".gitignore").read_text("utf-8").split()]


def test_the_top_level_is_eight_entries() -> None:
    found = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")}
    assert {name for name in found if not any(fnmatch(name, pattern) for pattern in left_out())} == TOP_LEVEL


def files() -> Iterator[Path]:
    tops = [ROOT / name for name in sorted(TOP_LEVEL)]
    for top in [*tops, ROOT / ".ci", ROOT / ".gitignore", ROOT / ".github"]:
        for path in [top, *sorted(top.rglob("*"))]:
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not any(fnmatch(part, pattern) for part in parts for pattern in left_out()):
                yield path


def test_no_file_knows_a_machine() -> None:
    texts = {path: path.read_bytes().decode("utf-8", "replace") for path in files()}
    assert len(texts) > len(MODULES)
    found = [
        f"{path.relative_to(ROOT)}: {hit[0]}" for path, text in texts.items() for hit in MACHINE_PATH.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["in /{}/me", "'/{}/x'", 'open("/{}/a.db")', "sqlite:////{}/a"])
def test_a_machine_path_would_be_found(text: str) -> None:
    assert MACHINE_PATH.search(text.format("home"))
    assert MACHINE_PATH.search(text.format("tmp"))
    assert not MACHINE_PATH.search(text.format("orders"))
