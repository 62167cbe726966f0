"""Writes the tables of docs/isolation.md: every probe against our walls and against what else there is.

python tests/isolation_table.py        with PostgreSQL on loopback (BARTIZAN_TEST_POSTGRES)
"""

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django_world
import isolation
from django.db import connections  # type: ignore[import-untyped]
from django.db.backends.signals import connection_created  # type: ignore[import-untyped]
from services import Place, postgres_place
from sqlalchemy import create_engine, event
from sqlalchemy.orm import sessionmaker, with_loader_criteria
from sqlalchemy.pool import StaticPool

from bartizan.access.rls import Guarded, policies
from bartizan.access.sqlalchemy import announce
from bartizan.core.principal import current_unit
from bartizan.integrations.django import OrgWall as DjangoWall
from bartizan.integrations.sqlalchemy import OrgWall
from bartizan.testing import Kit

PAGE = Path(__file__).parents[1] / "docs" / "isolation.md"
HELD, REACHED = "held", "**leaks**"
TABLES = [table.name for table in isolation.Base.metadata.sorted_tables if "org_id" in table.c]


def sqlite() -> tuple[Any, Any]:
    admin = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    isolation.Base.metadata.create_all(admin)
    isolation.seed(admin)
    raw = admin.raw_connection()
    return admin, create_engine("sqlite://", creator=lambda: raw.driver_connection, poolclass=StaticPool)


def on_sqlite(stand_up: Callable[[Any], None]) -> Iterator[isolation.World]:
    admin, engine = sqlite()
    sessions = sessionmaker(engine)
    stand_up(sessions)
    yield isolation.world(engine, sessions, admin, Kit())


def criteria(sessions: Any) -> None:
    """As its documentation shows: criteria at every SELECT, where there is an organization."""

    def add(state: Any) -> None:
        held = current_unit.get().callers
        if state.is_select and held:
            org = held[0].org
            for model in (isolation.Order, isolation.Item, isolation.Tag, isolation.Ticket):
                state.statement = state.statement.options(
                    with_loader_criteria(model, model.org_id == org, include_aliases=True)
                )

    event.listen(sessions, "do_orm_execute", add)


def on_postgres(place: Place, how: str) -> Iterator[isolation.World]:
    tables = [Guarded(name, schema=place.schema) for name in TABLES]
    place.sql(*[f"ALTER TABLE {t.quoted} DISABLE ROW LEVEL SECURITY" for t in tables])
    place.sql(
        *[
            f"DROP POLICY IF EXISTS {name} ON {t.quoted}"
            for t in tables
            for name in ("plain", "bartizan_all", "bartizan_own")
        ]
    )
    if how == "plain":
        own = "org_id = current_setting('bartizan.org', true)"
        for table in tables:
            place.sql(
                f"ALTER TABLE {table.quoted} ENABLE ROW LEVEL SECURITY",
                f"CREATE POLICY plain ON {table.quoted} USING ({own})",
            )
    elif how != "wall":
        place.sql(*policies(tables, role=place.role))
    isolation.seed(place.admin)
    engine = create_engine(
        place.app.url, connect_args={"options": f"-c search_path={place.schema}"}, pool_size=1, max_overflow=9
    )
    sessions = sessionmaker(engine)
    if how in ("wall", "both"):
        OrgWall(isolation.Base, shared=isolation.SHARED, rls=how == "both").protect(sessions)
    elif how == "policies":
        announce(engine)
    else:

        def set_once(connection: Any) -> None:
            """As most tutorials do: a setting of the session, where there is an organization to set."""
            held = current_unit.get().callers
            if held:
                cursor = connection.connection.cursor()
                cursor.execute("SELECT set_config('bartizan.org', %s, false)", (held[0].org,))
                cursor.close()

        event.listen(engine, "begin", set_once)
    try:
        yield isolation.world(engine, sessions, place.admin, Kit())
    finally:
        engine.dispose()


def verdict(worlds: Iterator[Any], reached: Callable[[Any, str], bool], name: str) -> str:
    with contextmanager(lambda: worlds)() as world:
        return REACHED if reached(world, name) else HELD


def of_sqlalchemy() -> list[list[str]]:
    heads = [
        "probe",
        "OrgWall, SQLite",
        "OrgWall, PostgreSQL",
        "our policies alone",
        "OrgWall and policies",
        "with_loader_criteria",
        "plain RLS",
    ]
    rows = []
    with postgres_place() as place:
        isolation.Base.metadata.create_all(place.admin)
        place.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place.schema} TO {place.role}")
        for name in isolation.PROBES:
            wall = lambda sessions: OrgWall(isolation.Base, shared=isolation.SHARED).protect(sessions)
            cells = [verdict(on_sqlite(wall), isolation.reached, name)]
            cells += [verdict(on_postgres(place, how), isolation.reached, name) for how in ("wall", "policies", "both")]
            cells.append(verdict(on_sqlite(criteria), isolation.reached, name))
            cells.append(verdict(on_postgres(place, "plain"), isolation.reached, name))
            rows.append([f"`{name}`", *cells])
    return [heads, *rows]


def django_worlds(how: str) -> Iterator[django_world.World]:
    from django_scopes import ScopedManager, scope  # type: ignore[import-untyped]

    kit = Kit()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shop.db")
        django_world.opened(path)
        acting = (lambda org: scope(org=org)) if how == "scopes" else (lambda org: kit.security.job("probe", org=org))
        world = django_world.World(path, acting)
        world.seed()
        models = (django_world.Order, django_world.Item)
        if how == "scopes":
            for model in models:
                model._meta.local_managers.clear()
                model.add_to_class("objects", ScopedManager(org="org_id"))
        kind: Any = type(connections[django_world.SHOP].ops)
        before = kind.compiler
        wall = DjangoWall(using=django_world.SHOP, shared=[django_world.Country])
        if how == "wall":
            wall.protect(*models, django_world.Country)
        try:
            yield world
        finally:
            kind.compiler = before
            connection_created.disconnect(wall._connected)
            django_world.closed()


def of_django() -> list[list[str]]:
    walls = {name: verdict(django_worlds("wall"), django_world.reached, name) for name in django_world.PROBES}
    from django_scopes.exceptions import ScopeError  # type: ignore[import-untyped]

    django_world.REFUSALS = (*django_world.REFUSALS, ScopeError)
    scopes = {name: verdict(django_worlds("scopes"), django_world.reached, name) for name in django_world.PROBES}
    return [["probe", "OrgWall", "django-scopes"], *([f"`{name}`", walls[name], scopes[name]] for name in walls)]


def markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def main() -> int:
    warnings.simplefilter("ignore")
    text = PAGE.read_text("utf-8")
    for mark, made in (("sqlalchemy", of_sqlalchemy), ("django", of_django)):
        if sys.argv[1:] and mark not in sys.argv[1:]:
            continue
        rows = made()
        before, _, rest = text.partition(f"<!-- {mark} -->\n")
        _, _, after = rest.partition(f"<!-- /{mark} -->")
        text = f"{before}<!-- {mark} -->\n{markdown(rows)}\n<!-- /{mark} -->{after}"
        print(markdown(rows))
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
