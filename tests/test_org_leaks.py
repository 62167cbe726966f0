"""The plugin of `--org-leaks`, on the example of a shop for many organizations, and the shop itself over HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tenants
from fastapi import FastAPI, HTTPException
from servers import ask, serving
from sqlalchemy import select

from bartizan import Misuse, Rule, allow, current_principal
from bartizan.integrations.fastapi import install
from bartizan.testing import Kit, OrgLeaks, Seeded

ROOT = Path(__file__).parents[1]


def pytest_with(name: str) -> tuple[int, str]:
    program = [sys.executable, "-m", "pytest", "-p", "bartizan.testing.plugin", "-p", "no:cacheprovider", "-q"]
    paths = os.pathsep.join([str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*program, "-c", os.devnull, "--rootdir", str(ROOT / "examples"), "--org-leaks", f"tenants:{name}"]
        + [str(ROOT / "examples" / "tenants.py")],
        capture_output=True, text=True, check=False, cwd=ROOT / "examples", env={**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_example_is_clean() -> None:
    code, told = pytest_with("leaks")
    assert code == 0, told
    assert "5 passed" in told


def test_a_forgotten_filter_is_found() -> None:
    """The same shop without the wall: the one query that forgot whose it is."""
    code, told = pytest_with("leaks_without_a_wall")
    assert code == 1, told
    assert "1 failed, 4 passed" in told
    assert "LEAK GET /reports/names: its own path: the answer holds 'a kite for org_leak_b'" in told


def test_a_name_that_is_none_of_ours() -> None:
    code, told = pytest_with("RULES")
    assert code != 0
    assert "--org-leaks names an OrgLeaks" in told


# --- every kind of leak that it looks for ---

ROWS: dict[str, dict[str, str]] = {}


def leaky(kit: Kit, add: Callable[[FastAPI], None], *endpoints: str) -> OrgLeaks:
    app = FastAPI(openapi_url=None)
    add(app)
    install(app, kit.security.gate([Rule("/**", allow.secret_key())]))

    def seed(org: str) -> Seeded:
        ROWS[f"row-{org}"] = {"org": org, "text": f"only of {org}"}
        return Seeded(params={"row": f"row-{org}"}, markers=[f"only of {org}"])

    return OrgLeaks(
        security=kit.security, app=app, seed=seed, caller=lambda org: kit.as_key(org=org), endpoints=endpoints
    )


def found(probe: OrgLeaks) -> set[str]:
    ROWS.clear()
    seeded = probe.seeded()
    return {leak.how for name in probe.probes() for leak in probe.run(name, seeded)}


def own(row: str) -> dict[str, str]:
    held = ROWS.get(row)
    if held is None or held["org"] != current_principal().org:
        raise HTTPException(404)
    return held


def of_others(app: FastAPI) -> None:
    app.get("/rows/{row}")(lambda row: ROWS.get(row, {}))


def existence(app: FastAPI) -> None:
    @app.get("/rows/{row}")
    async def row(row: str) -> Any:
        if row in ROWS and ROWS[row]["org"] != current_principal().org:
            raise HTTPException(403)
        return own(row)


def by_query(app: FastAPI) -> None:
    @app.get("/rows")
    async def rows(org_id: str = "") -> Any:
        return [row for row in ROWS.values() if row["org"] == (org_id or current_principal().org)]


def written(app: FastAPI) -> None:
    @app.get("/rows/{row}")
    async def shown(row: str) -> Any:
        return own(row)

    @app.delete("/rows/{row}")
    async def gone(row: str) -> Any:
        ROWS.pop(row, None)
        raise HTTPException(404)


def clean(app: FastAPI) -> None:
    @app.get("/rows/{row}")
    async def shown(row: str) -> Any:
        return own(row)

    @app.get("/rows")
    async def rows() -> Any:
        return [row for row in ROWS.values() if row["org"] == current_principal().org]


@pytest.mark.parametrize(
    ("add", "endpoints", "how"),
    [
        (of_others, (), "{row} of another organization was answered 200"),
        (existence, (), "existence is told: 403 for {row} of another organization, 404 for nobody's"),
        (by_query, (), "?org_id= of another organization: the answer holds 'only of org_leak_b'"),
        (written, ("DELETE /rows/{row}", "GET /rows/{row}"), "rows of another organization were changed"),
    ],
)
def test_a_leak_is_found(add: Any, endpoints: tuple[str, ...], how: str) -> None:
    assert how in found(leaky(Kit(), add, *endpoints))


def test_an_application_without_leaks_is_clean() -> None:
    probe = leaky(Kit(), clean)
    assert list(probe.probes()) == ["GET /rows/{row}", "GET /rows"], "every route that is there"
    assert found(probe) == set()


def test_what_cannot_be_probed_is_told() -> None:
    kit = Kit()
    with pytest.raises(Misuse, match="nothing to probe"):
        OrgLeaks(security=kit.security, seed=lambda _: Seeded(params={}, markers=["x"]))
    with pytest.raises(Misuse, match="caller="):
        OrgLeaks(security=kit.security, seed=lambda _: Seeded(params={}, markers=["x"]), app=FastAPI())
    same = OrgLeaks(security=kit.security, seed=lambda _: Seeded(params={}, markers=["x"]), queries={"q": list})
    with pytest.raises(Misuse, match="alone"):
        same.seeded()
    with pytest.raises(Misuse, match="no value for"):
        found(leaky(kit, clean, "GET /rows/{other}"))


# --- the shop over HTTP ---


def test_the_shop_and_strangers() -> None:
    kit = Kit()
    sessions = tenants.database()
    app = tenants.behind_a_gate(kit.security, sessions)
    for org, ids in (("org_1", ("a", "b")), ("org_2", ("c",))):
        with kit.security.job("seed", org=org), sessions() as s:
            s.add_all(
                [tenants.Order(id=each, subject="anna" if each == "a" else None, what=f"{each} kite") for each in ids]
            )
            s.commit()
    reader = [*kit.as_key(org="org_1", scopes={"orders:read"}).items()]
    writer = [*kit.as_key(org="org_1", scopes={"orders:read", "orders:write"}).items()]
    anna = [*kit.as_consumer(org="org_1", subject="anna", scopes={"orders:read"}).items()]
    bert = [*kit.as_consumer(org="org_1", subject="bert", scopes={"orders:read"}).items()]
    body = (("Content-Type", "application/json"),)
    with serving(app) as port:
        assert [order["id"] for order in json.loads(ask(port, "/orders", *reader).body)] == ["a", "b"]
        assert [order["id"] for order in json.loads(ask(port, "/orders", *anna).body)] == ["a"]
        assert json.loads(ask(port, "/orders", *bert).body) == []
        assert json.loads(ask(port, "/reports/names", *reader).body) == ["a kite", "b kite"]
        asked = {
            "own": ask(port, "/orders/a", *reader).status,
            "another organization's": ask(port, "/orders/c", *reader).status,
            "nobody's": ask(port, "/orders/z", *reader).status,
            "a consumer's own": ask(port, "/orders/a", *anna).status,
            "another consumer's": ask(port, "/orders/a", *bert).status,
            "of no consumer": ask(port, "/orders/b", *anna).status,
            "no credential": ask(port, "/orders").status,
            "written without the scope": ask(
                port, "/orders", *reader, *body, method="POST", body=b'{"what": "x"}'
            ).status,
            "removed, another's": ask(port, "/orders/c", *writer, method="DELETE").status,
        }
        assert asked == {
            "own": 200, "another organization's": 404, "nobody's": 404, "a consumer's own": 200,
            "another consumer's": 404, "of no consumer": 404, "no credential": 401,
            "written without the scope": 403, "removed, another's": 404,
        }  # fmt: skip
        made = ask(port, "/orders", *writer, *body, method="POST", body=b'{"what": "x", "org_id": "org_2"}')
        assert (made.status, json.loads(made.body)["organization_id"]) == (201, "org_1")
        assert ask(port, f"/orders/{json.loads(made.body)['id']}", *writer, method="DELETE").status == 204
    with kit.security.job("look", org="org_2"), sessions() as s:
        assert s.scalars(select(tenants.Order.id)).all() == ["c"]


def test_the_shop_with_one_line_removed() -> None:
    """Without `install` there is no caller, and nothing is shown."""
    kit = Kit()
    app = FastAPI(openapi_url=None)
    sessions = tenants.database()

    @app.get("/orders")
    def orders() -> Any:
        with sessions() as s:
            return [order.what for order in s.scalars(select(tenants.Order))]

    with kit.security.job("seed", org="org_1"), sessions() as s:
        s.add(tenants.Order(id="a", what="a kite"))
        s.commit()
    with serving(app) as port:
        answer = ask(port, "/orders")
    assert answer.status == 500
    assert b"kite" not in answer.body
