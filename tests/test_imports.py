"""What an import gives and what it costs: the front doors, and no module that loads more than it may.

The session `minimal` runs this file where nothing but the core dependencies is installed.
"""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import bartizan
import bartizan.types
from bartizan.core.ring import SecretRing, new_root

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "bartizan"
INSTALLED = Path(bartizan.__file__).parent

# What may ever stand there (the public API), and what stands there now: the second list grows with the house.
MAY = {
    "bartizan": set(
        "Bartizan Gate Rule Limit allow current_principal Principal SecretPrincipal PublishablePrincipal"
        " ConsumerPrincipal MemberPrincipal JobPrincipal Guard OrgAccess Issuer SessionPolicy SigninPolicy TokenPair"
        " WebhookVerifier NamedSecret WebhookSigner WebhookEvent KeyFormat TokenVerifier OriginCheck EventType"
        " WebhookPolicy"  # how webhooks are sent, beside SessionPolicy
        " BartizanError Misuse Rejected NotFound InvalidWebhook MalformedWebhook Unavailable".split()
    ),
    "bartizan.types": set(
        "Request Admit Refuse Decision IssuedKey KeyRecord KeyRow Session Cookie Identity PendingCode Claim Handoff"
        " Delivery EndpointRecord IssuedEndpoint"
        " Link VerifiedToken AuditEvent Sink Authenticator Identified WireProfile"
        " Requirement ParsedKey SecretUse".split()  # these three are named by signatures of others
    ),
}
NOW = {
    "bartizan": set(
        "Bartizan Gate Rule Guard OrgAccess allow current_principal Principal SecretPrincipal PublishablePrincipal JobPrincipal"
        " ConsumerPrincipal MemberPrincipal Issuer SessionPolicy SigninPolicy TokenPair TokenVerifier OriginCheck"
        " KeyFormat BartizanError Misuse Rejected NotFound Unavailable"
        " WebhookVerifier NamedSecret WebhookSigner WebhookPolicy WebhookEvent InvalidWebhook MalformedWebhook".split()
    ),
    "bartizan.types": set(
        "SecretUse "
        "Request Admit Refuse Decision IssuedKey KeyRecord KeyRow Claim Link AuditEvent Authenticator Identified"
        " Delivery EndpointRecord IssuedEndpoint"
        " VerifiedToken Requirement ParsedKey Session Cookie Identity PendingCode".split()
    ),
}
PUBLIC = ["bartizan", "bartizan.types", "bartizan.allow", "bartizan.errors", "bartizan.asgi", "bartizan.testing"]
ROOMS = set("credentials sessions access webhooks browser throttle audit data gate stores outbound".split())
NAMESAKES = {"sqlalchemy", "django", "pydantic", "redis", "postgres"}

FRAMEWORKS_AND_DRIVERS = set(
    "starlette fastapi flask werkzeug django litestar pydantic sqlalchemy psycopg psycopg_pool asyncpg redis valkey"
    " httpx httpcore requests aiohttp anyio trio uvicorn hypercorn pytest hypothesis click typer".split()
)

doors = pytest.mark.parametrize("door", [bartizan, bartizan.types], ids=lambda door: door.__name__)


def loaded_by(statement: str, before: str = "pass") -> set[str]:
    """The modules that a statement loads in an interpreter of its own, which starts with nothing."""
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; {before}; old = set(sys.modules); {statement};"
        " print(*(set(sys.modules) - old))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def told(door: ModuleType) -> dict[str, str]:
    """What type checkers read at a door: name -> full name of the module that it comes from."""
    tree = ast.parse(Path(str(door.__file__)).read_text("utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in (blocks[0] if blocks else tree).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


def test_both_lists_of_the_front_door_agree() -> None:
    """The one for type checkers and the one that is used, where a module of ours stands without a home."""
    assert told(bartizan) == {name: f"bartizan.{home}".rstrip(".") for name, home in bartizan._HOME.items()}
    assert bartizan.TYPE_CHECKING is False


@doors
def test_a_door_lists_what_it_holds(door: ModuleType) -> None:
    assert set(told(door)) == set(door.__all__)
    assert len(door.__all__) == len(set(door.__all__))
    others = {name for name in dir(door) if not name.startswith("_")} - set(door.__all__)
    assert set(door.__all__) <= set(dir(door))
    assert all(isinstance(getattr(door, name), ModuleType) for name in others - {"TYPE_CHECKING"})


@doors
def test_exported_names(door: ModuleType) -> None:
    assert set(door.__all__) == NOW[door.__name__]
    assert NOW[door.__name__] <= MAY[door.__name__]


@doors
def test_every_exported_name_is_what_its_home_has(door: ModuleType) -> None:
    for name, home in told(door).items():
        assert getattr(door, name) is getattr(import_module(home), name)


@doors
def test_any_other_name_is_an_attribute_error(door: ModuleType) -> None:
    with pytest.raises(AttributeError, match="Sesame"):
        _ = door.Sesame


def test_the_front_door_loads_nothing() -> None:
    """Neither a module of ours, nor one of the standard library that the interpreter had not loaded."""
    assert loaded_by("import bartizan", before="import importlib") == {"bartizan"}


def modules() -> list[str]:
    """Every module of the ground and the rooms, those named after a library aside."""
    found = []
    for path in sorted(INSTALLED.rglob("*.py")):
        parts = path.relative_to(INSTALLED).with_suffix("").parts
        if parts[0] in ROOMS | {"core", "errors", "allow"} and parts[-1] not in NAMESAKES | {"__init__"}:
            found.append(".".join(("bartizan", *parts)))
    return found


@pytest.mark.parametrize("module", modules())
def test_no_module_loads_a_framework_or_a_driver(module: str) -> None:
    """Direction rule 6, each module alone; and the ground does neither wait nor talk."""
    found = loaded_by(f"import {module}")
    assert not FRAMEWORKS_AND_DRIVERS & {name.partition(".")[0] for name in found}
    if module.split(".")[1] in {"core", "errors"}:
        assert not {"asyncio", "socket", "sqlite3", "ssl"} & found


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_module_needs_no_extra(module: str) -> None:
    assert module in loaded_by(f"import {module}")


def test_the_wheel_holds_the_whole_package() -> None:
    def files(top: Path) -> set[str]:
        found = {path.relative_to(top) for path in top.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        return {path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)}

    assert files(INSTALLED) == files(SRC)
    assert "py.typed" in files(INSTALLED)


@pytest.mark.skipif("NOX_CURRENT_SESSION" not in os.environ, reason="only a nox session installs the wheel")
def test_the_wheel_is_what_is_tested() -> None:
    assert INSTALLED.is_relative_to(sys.prefix)
    assert str(SRC.parent) not in sys.path


@pytest.mark.parametrize("url", ["memory://", "sqlite:///security.db"])
def test_a_key_needs_no_extra(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    security = bartizan.Bartizan(url, environment="test", secrets=[new_root()])
    with security.blocking:
        issued = security.blocking.keys.create(org="org_1", kind="secret", scopes={"orders:read"})
        caller = security.blocking.keys.authenticate(issued.key)
    assert (caller.org, caller.kind, caller.scopes) == ("org_1", "secret", frozenset({"orders:read"}))


def test_a_secret_from_the_command_line_needs_no_extra() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "bartizan", "secret"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert len(list(SecretRing(made.stdout.split()))) == 1
