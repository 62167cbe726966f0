"""The README's blocks that protect something: as written, by a stranger, and without one wiring line each time.

The session `minimal` runs this file too, on the built wheel with nothing but its declared dependencies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from strangers import (
    Ask,
    Cut,
    Example,
    World,
    as_written,
    asgi,
    behind,
    callers,
    each,
    each_cut,
    forged,
    key,
    page,
    raised,
    strangers_without,
)

from bartizan.core.ring import new_root

OPENING = page("README.md", "async def orders(request)")
OWN = "/orgs/org_1/orders"


@pytest.fixture(autouse=True)
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with a root secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BARTIZAN_SECRETS", new_root())


@contextmanager
def opening(readme: ModuleType) -> Iterator[World]:
    with readme.security.blocking:
        own, strange = callers(readme.security, "orders:read")
        strange["a key without the scope"] = key(readme.security, "org_1")
        yield World(
            {"org_1": lambda: asgi(readme.app, OWN, own)},
            {who: partial(asgi, readme.app, OWN, headers) for who, headers in strange.items()},
            "org_1",
        )


@contextmanager
def keys(readme: ModuleType) -> Iterator[World]:
    with readme.security.blocking as blocking:
        assert isinstance(readme.caller.key_id, str)
        live = blocking.keys.create(org="org_1", kind="secret").key
        yield World(
            {"org_1": lambda: raised(lambda: blocking.keys.authenticate(live).org)},
            {
                "the key that was revoked": lambda: raised(lambda: blocking.keys.authenticate(readme.issued.key)),
                "a forged key": lambda: raised(lambda: blocking.keys.authenticate(forged())),
                "nothing": lambda: raised(lambda: blocking.keys.authenticate("")),
            },
        )


@contextmanager
def rules(readme: ModuleType) -> Iterator[World]:
    with readme.security.blocking:
        app = behind(readme.security.gate(readme.rules))
        own, strange = callers(readme.security, "orders:read", "orders:write")
        asks: dict[str, Ask] = {
            f"{method} {who}": partial(asgi, app, OWN, headers, method)
            for who, headers in strange.items()
            for method in ("GET", "POST")
        }
        asks["products without a key"] = lambda: asgi(app, "/products/7")
        asks["products with a forged key"] = lambda: asgi(
            app, "/products/7", {"X-Publishable-Key": forged("publishable")}
        )
        yield World({"org_1": lambda: asgi(app, OWN, own)}, asks, "org_1")


EXAMPLES = [
    Example(
        "opening",
        OPENING,
        opening,
        (
            Cut(
                'install(app, security.gate([Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read"))]))', "500"
            ),
            Cut('Rule("GET /orgs/{org}/orders", allow.secret_key("orders:read"))', "Misuse"),
            Cut(
                '    return JSONResponse({"orders of": current_principal(SecretPrincipal).org})',
                "401 403 404",
                "    return None",
            ),
            Cut(', secrets=os.environ["BARTIZAN_SECRETS"].split()', "Misuse"),
            Cut(', environment="live"', "TypeError"),
        ),
    ),
    Example(
        "keys",
        page("README.md", "async def orders(request)", "security.keys.create"),
        keys,
        (
            Cut("    caller = await security.keys.authenticate(issued.key)  # or raises InvalidKey\n", "NameError"),
            Cut(', secrets=os.environ["BARTIZAN_SECRETS"].split()', "Misuse"),
        ),
    ),
    Example(
        "rules",
        page("README.md", "async def orders(request)", "rules = ["),
        rules,
        (
            Cut('    Rule("GET /health", allow.untouched()),\n', "401 404"),
            Cut('    Rule("GET /products/**", allow.publishable_key() | allow.secret_key()),\n', "401 404"),
            Cut(
                '    Rule("GET|POST /orgs/{org}/orders", allow.secret_key("orders:read", "orders:write")),\n', "401 404"
            ),
        ),
    ),
]


@each(EXAMPLES)
def test_as_written_strangers_are_refused(told: Example) -> None:
    as_written(told)


@each_cut(EXAMPLES)
def test_without_one_line_strangers_get_nothing(told: Example, cut: Cut) -> None:
    assert strangers_without(told, cut) == cut.gives


def test_an_example_that_fails_open_is_found() -> None:
    """The same shop with a handler that asks nobody: without its gate it serves strangers, and this file says so."""
    source = OPENING.replace("current_principal(SecretPrincipal).org", "request.path_params['org']")
    open_ = Example("open", source, opening, ())
    as_written(open_)
    with pytest.raises(AssertionError, match="no credential"):
        strangers_without(open_, EXAMPLES[0].cuts[0])
