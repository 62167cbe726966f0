"""Every probe through the wall alone, through the policies alone, and through both."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any

import pytest
from isolation import (
    BELOW,
    ORDERS,
    PROBES,
    SHARED,
    TAGS,
    A,
    B,
    Base,
    Item,
    Order,
    Tag,
    Ticket,
    World,
    order_tags,
    reached,
    seed,
    world,
)
from services import Place, need_postgres, postgres_place
from sqlalchemy import Column, MetaData, String, Table, create_engine, func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import StaticPool

from bartizan import Misuse, NotFound
from bartizan.access.rls import Guarded, policies
from bartizan.access.sqlalchemy import announce
from bartizan.errors import Reason
from bartizan.integrations.sqlalchemy import OrgWall
from bartizan.testing import Kit, acting_as

TABLES = [Guarded(table.name) for table in Base.metadata.sorted_tables if "org_id" in table.c]


def sqlite() -> Any:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def wall() -> OrgWall:
    return OrgWall(Base, shared=SHARED)


@pytest.fixture
def on_sqlite(kit: Kit, wall: OrgWall) -> Iterator[World]:
    admin = sqlite()
    Base.metadata.create_all(admin)
    seed(admin)
    raw = admin.raw_connection()
    engine = create_engine("sqlite://", creator=lambda: raw.driver_connection, poolclass=StaticPool)
    sessions = sessionmaker(engine)
    wall.protect(sessions)
    yield world(engine, sessions, admin, kit)
    engine.dispose()
    admin.dispose()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    need_postgres()
    with postgres_place() as place:
        Base.metadata.create_all(place.admin)
        place.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place.schema} TO {place.role}")
        yield place


def on_postgres(place: Place, *, wall: bool, rls: bool) -> World:
    tables = [table._replace(schema=place.schema) for table in TABLES]
    if rls:
        place.sql(*policies(tables, role=place.role))
    else:
        place.sql(*[f"ALTER TABLE {table.quoted} DISABLE ROW LEVEL SECURITY" for table in tables])
    seed(place.admin)  # a superuser: no policy holds it
    engine = create_engine(place.app.url, connect_args={"options": f"-c search_path={place.schema}"})
    sessions = sessionmaker(engine)
    if wall:
        OrgWall(Base, shared=SHARED, rls=rls).protect(sessions)
    elif rls:
        announce(engine)
    return world(engine, sessions, place.admin, Kit())


@pytest.mark.parametrize("name", PROBES)
def test_probe_on_sqlite(on_sqlite: World, name: str) -> None:
    assert not reached(on_sqlite, name)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("setup", ["wall", "policies", "both"])
def test_probe_on_postgres(place: Place, setup: str, name: str) -> None:
    if setup == "policies" and name not in BELOW:
        return
    w = on_postgres(place, wall=setup != "policies", rls=setup != "wall")
    try:
        assert not reached(w, name)
    finally:
        w.engine.dispose()


# What SQLite or a job refuses, or a key that begins with the organization closes, wall or not.
ALWAYS_HOLD = {
    "unique_key_oracle",
    "lateral_join",
    "cte_that_writes",
    "worker_thread_residue",
    "async_generator_leaks_scope",
}


@pytest.mark.parametrize("name", sorted(PROBES))
def test_without_a_wall_the_probe_reaches(name: str) -> None:
    """A probe that nothing lets through proves nothing."""
    admin = sqlite()
    Base.metadata.create_all(admin)
    seed(admin)
    assert reached(world(admin, sessionmaker(admin), admin, Kit()), name) is (name not in ALWAYS_HOLD)
    admin.dispose()


# --- what the wall does besides holding ---


def test_inserts_are_filled(on_sqlite: World) -> None:
    with on_sqlite.acting(A), on_sqlite.sessions() as s:
        order = Order(
            id="new", note="of a", total=1, items=[Item(id="new", note="of a")], tags=[Tag(id="new", note="a")]
        )
        s.add(order)
        assert order.org_id == A, "already when it is added"
        s.execute(insert(Tag), [{"id": "t1", "note": "x"}, {"id": "t2", "note": "x", "org_id": A}])
        s.execute(insert(Tag).values([{"id": "t3", "note": "x"}, {"id": "t4", "note": "x"}]))
        s.execute(insert(TAGS).values(id="t5", note="x"))
        s.execute(insert(Tag).from_select(["id", "note"], select(literal("t6"), literal("x"))))
        s.bulk_insert_mappings(Tag, [{"id": "t7", "note": "x"}])
        s.commit()
        assert order.items[0].org_id == A
    with on_sqlite.admin.connect() as connection:
        owners = connection.execute(select(Tag.org_id).where(Tag.id.like("t%"))).scalars().all()
        linked = connection.execute(select(order_tags.c.org_id).where(order_tags.c.order_id == "new")).scalars().all()
    assert owners == [A] * 7
    assert linked == [A]


def test_composite_keys_know_their_organization(on_sqlite: World) -> None:
    with on_sqlite.acting(A), on_sqlite.sessions() as s:
        ticket = Ticket(id="b1", note="of a")
        s.add(ticket)
        s.commit()
        assert (ticket.org_id, ticket.id) == (A, "b1")
        ticket.note = "changed"
        s.commit()
        assert s.get_one(Ticket, (A, "b1")).note == "changed"
        s.delete(ticket)
        s.commit()


def test_update_and_delete_of_ones_own(on_sqlite: World) -> None:
    with on_sqlite.acting(A), on_sqlite.sessions() as s:
        assert s.execute(update(Order).values(total=7)).rowcount == 3
        order = s.get_one(Order, "a1")
        order.total = 8
        s.commit()
        assert s.scalars(select(Order.total).order_by(Order.id)).all() == [8, 7, 7]
        s.execute(update(Order), [{"id": "a1", "total": 9}])
        s.delete(s.get_one(Order, "a3"))
        s.commit()
        assert s.scalar(select(func.count()).select_from(Order)) == 2


def test_a_session_goes_on_to_another_only_when_it_is_closed(on_sqlite: World) -> None:
    s = on_sqlite.sessions()
    with on_sqlite.acting(A):
        s.get(Order, "a1")
    with on_sqlite.acting(B):
        uses: list[Callable[[], Any]] = [
            lambda: s.get(Order, "b1"),
            lambda: s.scalars(select(Order)),
            lambda: s.add(Order(id="x", note="x")),
            lambda: s.merge(Order(id="x", note="x")),
        ]
        for use in uses:
            with pytest.raises(Misuse, match="another organization"):
                use()
        s.close()
        assert s.get_one(Order, "b1").org_id == B
    s.close()


def test_what_was_added_for_one_is_not_flushed_for_another(on_sqlite: World) -> None:
    s = on_sqlite.sessions()
    with on_sqlite.acting(A):
        s.add(Order(id="x", note="of a", total=1))
    with on_sqlite.acting(B):
        for act in (s.flush, s.commit):
            with pytest.raises(Misuse, match="another organization"):
                act()
    s.close()


def test_a_connection_of_another(on_sqlite: World) -> None:
    with on_sqlite.acting(A), on_sqlite.engine.connect() as connection:
        connection.execute(select(ORDERS))
        kit_free = Context()
        with pytest.raises(Misuse, match="another organization"):
            kit_free.run(lambda: on_sqlite.acting(B).__enter__() and connection.execute(select(ORDERS)))


def test_the_bypass_is_named_and_ends(on_sqlite: World, kit: Kit, wall: OrgWall) -> None:
    with pytest.raises(Misuse, match="no gate ran"), wall.unsafe_every_org(reason="nobody asked for it"):
        pass
    for reason, seconds in (("", 60), ("short", 60), ("a good reason", 0), ("a good reason", 86_400)):
        with pytest.raises(Misuse):
            wall.unsafe_every_org(reason=reason, seconds=seconds)
    with kit.security.job("counting", org=A):
        s = on_sqlite.sessions()
        with wall.unsafe_every_org(reason="counts all orders", seconds=30):
            assert len(s.scalars(select(Order)).all()) == 6
            assert s.execute(text("SELECT count(*) FROM orders")).scalar() == 6
        with pytest.raises(Misuse, match="another organization"):
            s.get(Order, "b1")
        s.close()
        with on_sqlite.sessions() as s:
            assert len(s.scalars(select(Order)).all()) == 3, "what was compiled past the wall is not used before it"
            with pytest.raises(Misuse, match="passes no wall"):
                s.execute(text("SELECT 1"))
        with wall.unsafe_every_org(reason="takes too long", seconds=30), on_sqlite.sessions() as s:
            kit.clock.advance(30)
            with pytest.raises(Misuse, match="time"):
                s.execute(select(Order))
    told = [(e.name, e.org, e.actor) for e in kit.events if e.name.startswith("isolation.")]
    assert told[:2] == [("isolation.bypassed", A, "job:counting"), ("isolation.resumed", A, "job:counting")]
    assert json.loads(kit.events[0].data) == {"reason": "counts all orders", "seconds": 30}
    assert json.loads(next(e.data for e in kit.events if e.name == "isolation.resumed"))["statements"] == 2


def test_a_bypass_is_not_inherited_by_what_goes_on(on_sqlite: World, kit: Kit, wall: OrgWall) -> None:
    """A task that was started within it, a job of another name: the wall stands for them."""
    with kit.security.job("counting", org=A):
        with wall.unsafe_every_org(reason="counts all orders"):
            inside = copy_context()
            with kit.security.job("other", org=A), on_sqlite.sessions() as s:
                assert len(s.scalars(select(Order)).all()) == 3
        with on_sqlite.sessions() as s:
            assert len(inside.run(lambda: s.scalars(select(Order)).all())) == 3


def test_data_access_events_are_sampled(on_sqlite: World, kit: Kit) -> None:
    def told() -> list[tuple[str | None, str | None, Any]]:
        return [(e.org, e.target, json.loads(e.data)) for e in kit.events if e.name == "data.accessed"]

    with kit.security.job("report", org=A), on_sqlite.sessions() as s:
        for _ in range(100):
            s.execute(select(Order.id).join(Item))
        s.execute(update(Order).values(total=1))
    rule = {"rule": "job:report"}
    assert told() == [
        (A, "orders", {**rule, "access": "read"}),
        (A, "items", {**rule, "access": "read"}),
        (A, "orders", {**rule, "access": "write"}),
    ]
    kit.clock.advance(60)
    with kit.security.job("report", org=A), on_sqlite.sessions() as s:
        s.execute(select(Order.id))
    assert len(told()) == 4


def test_a_table_without_an_organization_is_named() -> None:
    with pytest.raises(Misuse, match="countries"):
        OrgWall(Base)
    with pytest.raises(Misuse, match="not of this base"):
        OrgWall(Base, shared=["elsewhere"])
    metadata = MetaData()
    Table("loose", metadata, Column("org_id", String))
    with pytest.raises(Misuse, match="not null"):
        OrgWall(metadata)
    with pytest.raises(Misuse, match="bind"):
        OrgWall(Base, shared=SHARED).protect(sessionmaker())


def test_a_session_of_another_engine_has_no_wall(on_sqlite: World) -> None:
    with on_sqlite.acting(A), on_sqlite.sessions(bind=on_sqlite.admin) as s, pytest.raises(Misuse, match="no wall"):
        s.execute(select(Order))


def test_test_principal_at_a_live_wall(on_sqlite: World) -> None:
    """A gate with `environments=` let it in; the rows are of one environment all the same."""
    live = Kit(environment="live")
    trial = live.key(org=A, environment="test").key
    principal = live.security.blocking.keys.authenticate(trial, environments={"test"})
    with acting_as(principal, of=live), on_sqlite.sessions() as s, pytest.raises(NotFound) as caught:
        s.execute(select(Order))
    assert caught.value.reason is Reason.WRONG_ENVIRONMENT


def test_async_sessions(tmp_path: Path, kit: Kit) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
    admin = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    Base.metadata.create_all(admin)
    seed(admin)
    engine = create_async_engine(url)
    sessions = async_sessionmaker(engine)
    OrgWall(Base, shared=SHARED).protect(sessions)

    async def main() -> None:
        with kit.security.job("a", org=A):
            async with sessions() as s:
                assert {order.org_id for order in (await s.scalars(select(Order))).all()} == {A}
                assert [order.id async for order in await s.stream_scalars(select(Order))] == ["a1", "a2", "a3"]
                assert await s.get(Order, "b1") is None
                with pytest.raises(Misuse, match="passes no wall"):
                    await s.execute(text("SELECT 1"))
        async with sessions() as s:  # async_for_without_org
            with pytest.raises(Misuse, match="no gate ran"):
                async for _ in await s.stream(select(Order)):
                    raise AssertionError
        async with engine.connect() as connection:
            with pytest.raises(Misuse, match="no gate ran"):
                await connection.execute(select(ORDERS))
        await engine.dispose()

    asyncio.run(main())
    admin.dispose()


def test_ids_that_only_differ_by_a_quote(on_sqlite: World, kit: Kit) -> None:
    for org in ("*", "%", "' OR '1'='1", "org_a ", "ORG_A", "org_a\u200b"):
        try:
            job = kit.security.job("probe", org=org)
        except Misuse:
            continue
        with job, on_sqlite.sessions() as s:
            assert s.scalars(select(Order)).all() == [], org


def test_a_database_that_compares_without_case() -> None:
    """On MariaDB org_a and ORG_A are one text, unless the column says otherwise."""
    from sqlalchemy.dialects.mysql import dialect

    with pytest.raises(Misuse, match="_bin"):
        OrgWall(Base, shared=SHARED)._dialect(dialect())
    metadata = MetaData()
    orders = Table("orders", metadata, Column("org_id", String(128, collation="utf8mb4_bin"), nullable=False))
    wall = OrgWall(metadata)
    made = wall._dialect(dialect())
    for statement in (update(orders).values(org_id="x"), select(orders), orders.delete()):
        if statement.is_update:
            with pytest.raises(NotFound):
                statement.compile(dialect=made)
        else:
            assert "WHERE" in str(statement.compile(dialect=made))
