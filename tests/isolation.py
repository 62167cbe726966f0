"""Two organizations in one database, and everything by which one of them has reached the other's rows.

A probe acts for `org_a` and says whether it saw, counted, changed or learned something of `org_b`. What refuses it is an
error of Bartizan's, of the database's or of SQLAlchemy's; anything else that a probe raises is a broken probe.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ForeignKey,
    MetaData,
    String,
    Table,
    bindparam,
    cast,
    collate,
    column,
    delete,
    exc as sa_exc,
    exists,
    extract,
    func,
    insert,
    literal,
    literal_column,
    select,
    table as lightweight,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    aliased,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
)
from sqlalchemy.sql.elements import quoted_name

from bartizan.errors import BartizanError
from bartizan.testing import Kit

A, B = "org_a", "org_b"
SECRET = "of b"  # stands in every row of B's and nowhere else


class Base(DeclarativeBase):
    metadata = MetaData()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    org_id: Mapped[str] = mapped_column(String(128))
    note: Mapped[str] = mapped_column(String(100))
    total: Mapped[int] = mapped_column(default=0)
    items: Mapped[list["Item"]] = relationship(back_populates="order")
    tags: Mapped[list["Tag"]] = relationship(secondary="order_tags")


class Item(Base):
    __tablename__ = "items"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    org_id: Mapped[str] = mapped_column(String(128))
    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id"))
    note: Mapped[str] = mapped_column(String(100))
    order: Mapped[Order] = relationship(back_populates="items")


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    org_id: Mapped[str] = mapped_column(String(128))
    note: Mapped[str] = mapped_column(String(100))


class Ticket(Base):
    """As a table ought to be: nothing in it tells whether another organization has this id."""

    __tablename__ = "tickets"
    org_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    note: Mapped[str] = mapped_column(String(100))


class Country(Base):
    __tablename__ = "countries"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)


order_tags = Table(
    "order_tags",
    Base.metadata,
    Column("org_id", String(128), nullable=False),
    Column("order_id", ForeignKey("orders.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)
SHARED = (Country,)
ORDERS: Any = Order.__table__
TAGS: Any = Tag.__table__
TICKETS: Any = Ticket.__table__


class World(NamedTuple):
    """A database with rows of both, and how a program of A's reaches it."""

    engine: Any
    sessions: Any
    admin: Any  # an engine that no wall stands before
    acting: Callable[[str], AbstractContextManager[Any]]  # in the name of an organization
    nobody: Callable[[], AbstractContextManager[Any]]


def seed(admin: Any) -> None:
    """The same rows for both, under other ids. `odd` is of A's, and points to an order of B's, as a mistake left it."""
    with admin.begin() as connection:
        for each in reversed(Base.metadata.sorted_tables):
            connection.execute(delete(each))
        for org, letter in ((A, "a"), (B, "b")):
            note = f"of {letter}"
            connection.execute(
                insert(Order), [{"id": f"{letter}{n}", "org_id": org, "note": note, "total": n} for n in (1, 2, 3)]
            )
            connection.execute(
                insert(Item), [{"id": f"{letter}1", "org_id": org, "order_id": f"{letter}1", "note": note}]
            )
            connection.execute(insert(Tag), [{"id": f"{letter}1", "org_id": org, "note": note}])
            connection.execute(insert(order_tags), [{"org_id": org, "order_id": f"{letter}1", "tag_id": f"{letter}1"}])
            connection.execute(insert(Ticket), [{"org_id": org, "id": f"{letter}1", "note": note}])
        connection.execute(insert(Item), [{"id": "odd", "org_id": A, "order_id": "b1", "note": "of a"}])
        connection.execute(insert(order_tags), [{"org_id": A, "order_id": "a2", "tag_id": "b1"}])
        connection.execute(insert(Country), [{"id": "nz"}])


REFUSALS = (BartizanError, sa_exc.SQLAlchemyError, sa_exc.SAWarning)
Probe = Callable[[World], bool]
PROBES: dict[str, Probe] = {}
BELOW: set[str] = set()  # what a database's policies hold by themselves; the rest never reaches the database


def probe(*, below: bool = True) -> Callable[[Probe], Probe]:
    def kept(function: Probe) -> Probe:
        PROBES[function.__name__] = function
        if below:
            BELOW.add(function.__name__)
        return function

    return kept


def reached(world: World, name: str) -> bool:
    """Whether the probe reached B, or changed what B has."""
    before = of_b(world)
    try:
        found = PROBES[name](world)
    except REFUSALS:
        found = False
    return found or of_b(world) != before


def of_b(world: World) -> list[list[Any]]:
    with world.admin.connect() as connection:
        tables = [table for table in Base.metadata.sorted_tables if "org_id" in table.c]
        return [
            sorted(tuple(row) for row in connection.execute(select(table).where(table.c.org_id == B)))
            for table in tables
        ]


def tells(found: Any) -> bool:
    """Whether anything in it is B's."""
    return SECRET in repr(list(found) if not isinstance(found, (str, int)) else found)


def notes(orders: Any) -> list[str]:
    return [order.note for order in orders]


# --- reading: the ORM ---


@probe()
def select_all(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(notes(s.scalars(select(Order)))) or len(notes(s.scalars(select(Order)))) != 3


@probe()
def wall_or_true(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(notes(s.scalars(select(Order).where((Order.org_id == A) | true()))))


@probe()
def query_api(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(notes(s.query(Order).filter(Order.id.in_(["b1", "a1"])).all())) or s.query(Order).count() != 3


@probe()
def get_by_key(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return s.get(Order, "b1") is not None


@probe()
def joins_and_aliases(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        other = aliased(Order)
        found = s.execute(select(Order.note, other.note).join(other, other.total == Order.total)).all()
        return tells(found) or len(found) != 3


@probe()
def outer_join(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        found = s.execute(select(Item.id, Order.note).outerjoin(Order, Order.id == Item.order_id)).all()
        return tells(found) or ("odd", None) not in [tuple(row) for row in found]


@probe()
def subquery_and_cte(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        inner = select(Order.note).where(Order.id == "b1")
        named = select(Order).cte("named")
        again = select(Order.id, Order.note).where(Order.id == "b1").cte("again", recursive=True)
        again = again.union_all(
            select(Order.id, Order.note).join(again, again.c.id != Order.id).where(Order.id == "b2")
        )
        return (
            tells(s.execute(select(inner.scalar_subquery())).all())
            or tells(s.execute(select(named.c.note)).all())
            or tells(s.execute(select(again.c.note)).all())
            or tells(s.execute(select(select(Order).subquery().c.note)).all())
        )


@probe()
def union(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(s.execute(union_all(select(Order.note), select(Item.note), select(Tag.note))).all())


@probe()
def exists_oracle(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        told = s.execute(select(Country.id).where(exists().where(Order.id == "b1"))).all()
        return bool(told) or bool(s.scalar(select(exists().where(Order.id == "b1"))))


@probe()
def correlated_exists(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        there = exists().where(Order.id == Item.order_id)
        return "odd" in s.scalars(select(Item.id).where(there)).all()


@probe()
def count_orm(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        count, total = s.scalar(select(func.count()).select_from(Order)), s.scalar(select(func.sum(Order.total)))
        return (count, total) != (3, 6)


@probe()
def lateral_join(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        inner = select(Order.note).where(Order.id == Item.order_id).lateral("inner_orders")
        return tells(s.execute(select(Item.id, inner.c.note).join(inner, true())).all())


@probe()
def fk_traversal_foreign_row(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return s.get_one(Item, "odd").order is not None


@probe()
def select_related_foreign(w: World) -> bool:
    with w.acting(A):
        for loads in (joinedload, selectinload, subqueryload):
            with w.sessions() as s:
                found = s.scalars(select(Item).options(loads(Item.order)).where(Item.id == "odd")).one()
                if found.order is not None:
                    return True
    return False


@probe()
def values_join_foreign(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(s.execute(select(Item.id, Order.note).join(Item.order)).all())


@probe()
def secondary_table(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        order = s.get_one(Order, "a2")
        return bool(order.tags) or len(s.execute(select(order_tags)).all()) != 2


@probe()
def lazy_collection(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(item.note for order in s.scalars(select(Order)) for item in order.items)


@probe()
def for_update(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(notes(s.scalars(select(Order).with_for_update())))


# --- reading: Core, text, connections ---


@probe()
def core_table_select(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(s.execute(select(ORDERS)).all())


@probe()
def count_table(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        count: int | None = s.scalar(select(func.count()).select_from(ORDERS))
        return count != 3


@probe()
def text_sql(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(s.execute(text("SELECT note FROM orders")).all())


@probe()
def from_statement(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(notes(s.scalars(select(Order).from_statement(text("SELECT * FROM orders")))))


@probe()
def textual_columns(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(s.execute(text("SELECT note FROM orders").columns(Order.note)).all())


@probe()
def connection_execute(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(s.connection().execute(select(ORDERS.c.note)).all())


@probe()
def wall_connection_execute(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        s.connection().execute(update(ORDERS).values(total=55))
        s.connection().execute(delete(TICKETS))
        s.commit()
    return False


@probe()
def engine_execute(w: World) -> bool:
    with w.acting(A), w.engine.connect() as connection:
        return tells(connection.execute(select(ORDERS.c.note)).all())


@probe()
def engine_with_options(w: World) -> bool:
    with w.acting(A), w.engine.execution_options(anything=1).connect() as connection:
        return tells(connection.execute(select(ORDERS.c.note)).all())


@probe()
def wall_exec_driver_sql(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(s.connection().exec_driver_sql("SELECT note FROM orders").all())


@probe()
def text_fragment(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        for fragment in (
            select(Order.id, text("(SELECT max(note) FROM orders)")),
            select(Order.id, literal_column("(SELECT max(note) FROM orders)")),
            select(Order.note).where(text("1=1 OR 1=1")),
            select(Order.id).order_by(text("(SELECT max(note) FROM orders)")),
            select(Order.id, Order.total.op("|| (SELECT max(note) FROM orders) ||")("")),
            select(Order.id).with_statement_hint("UNION SELECT note FROM orders"),
            select(Order.id).prefix_with("note,"),
            select(Order.id).suffix_with("UNION SELECT note FROM orders"),
        ):
            with suppress(*REFUSALS):
                if tells(s.execute(fragment).all()):
                    return True
            s.rollback()
    return False


@probe()
def name_that_is_not_quoted(w: World) -> bool:
    def raw(name: str) -> Any:
        return quoted_name(name, False)

    tries = [
        select(collate(Order.id, raw("binary, (SELECT max(note) FROM orders)"))),
        select(Order.id.label(raw("x, (SELECT max(note) FROM orders) AS y"))),
        select(column(raw("note FROM orders --"))),
        select(func.max(Order.id).label(raw("x FROM orders UNION SELECT note"))),
    ]
    for query in tries:
        with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
            if tells(s.connection().execute(query).cursor.fetchall()):
                return True
    return False


@probe()
def operator_that_is_a_clause(w: World) -> bool:
    note: Any = column("note")
    for query in (
        select(note.op("FROM orders WHERE")(1)),
        select(note.op("FROM")(column("orders"))),
        select(cast(Order.id, String(raw_length("1)), (SELECT max(note) FROM orders")))),
        select(extract("year FROM now()), (SELECT max(note) FROM orders), (now()", Order.id)),
    ):
        with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
            if tells(s.connection().execute(query).all()):
                return True
    return False


def raw_length(text: str) -> Any:
    return text


@probe()
def foreign_metadata(w: World) -> bool:
    elsewhere = Table("orders", MetaData(), Column("note", String))
    plain: Any = lightweight("orders", literal_column("note"))
    with w.acting(A), w.sessions() as s:
        for query in (select(elsewhere.c.note), select(literal_column("note")).select_from(plain)):
            with suppress(*REFUSALS):
                if tells(s.execute(query).all()):
                    return True
            s.rollback()
    return False


@probe()
def parameter_of_the_same_name(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(
            s.execute(
                select(Order.note).where(Order.id != bindparam("x")),
                {"x": "", "bartizan_org": B, "bartizan_org_1": B, "org_id": B, "org_id_1": B},
            ).all()
        )


@probe()
def statement_compiled_for_another(w: World) -> bool:
    """What is written once for each statement holds nobody's organization."""
    query = select(Order.note)
    with w.acting(B), w.sessions() as s:
        s.execute(query).all()
    with w.acting(A), w.sessions() as s:
        return tells(s.execute(query).all())


@probe()
def yielded_in_parts(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        return tells(notes(s.scalars(select(Order).execution_options(yield_per=1))))


# --- reading: what is in memory ---


@probe(below=False)
def identity_map_other_org(w: World) -> bool:
    s = w.sessions()
    with w.acting(B):
        theirs = s.get(Order, "b1")  # held, or the identity map lets it go
    with w.acting(A):
        try:
            return s.get(Order, "b1") is not None and theirs is not None
        finally:
            s.close()


@probe()
def refresh_detached_other_org(w: World) -> bool:
    with w.acting(B), w.sessions() as s:
        theirs = s.get_one(Order, "b1")
        s.expunge(theirs)
    theirs.note = "?"
    with w.acting(A), w.sessions() as s:
        s.add(theirs)
        s.refresh(theirs)
        return tells(theirs.note)


@probe()
def merge_other_org(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        merged = s.merge(Order(id="b1", total=99))
        s.commit()
        return tells(merged.note)


@probe(below=False)
def merge_without_asking(w: World) -> bool:
    with w.acting(B), w.sessions() as s:
        theirs = s.get_one(Order, "b1")
    with w.acting(A), w.sessions() as s:
        return tells(s.merge(theirs, load=False).note)


@probe(below=False)
def lazy_load_of_a_session_of_another(w: World) -> bool:
    s = w.sessions()
    with w.acting(B):
        theirs = s.get_one(Order, "b1")
        list(theirs.items)
    with w.acting(A):
        try:
            return s.get(Item, "b1") is not None
        finally:
            s.close()


# --- no organization ---


@probe()
def no_org_fails_open(w: World) -> bool:
    with w.nobody(), w.sessions() as s:
        return bool(s.scalars(select(Order)).all())


@probe()
def core_without_org(w: World) -> bool:
    with w.nobody(), w.engine.connect() as connection:
        return bool(connection.execute(select(ORDERS)).all())


@probe()
def exists_oracle_without_org(w: World) -> bool:
    with w.nobody(), w.sessions() as s:
        return bool(s.scalar(select(exists().where(Order.id == "b1"))))


@probe()
def exclude_exists_boolean_oracle(w: World) -> bool:
    with w.nobody(), w.sessions() as s:
        return bool(s.scalar(select(exists().where(Order.id != "a1", Order.note == SECRET))))


@probe()
def explain_without_org(w: World) -> bool:
    with w.nobody(), w.engine.connect() as connection:
        return bool(connection.exec_driver_sql("EXPLAIN SELECT note FROM orders").all())


@probe()
def text_without_org(w: World) -> bool:
    with w.nobody(), w.engine.connect() as connection:
        return bool(connection.execute(text("SELECT note FROM orders")).all())


@probe()
def insert_without_org(w: World) -> bool:
    with w.nobody(), w.sessions() as s:
        s.add(Order(id="n1", org_id=B, note="forged"))
        s.commit()
        return True


# --- writing ---


@probe()
def create_into_other_org(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        s.add(Order(id="x1", org_id=B, note="forged"))
        s.commit()
        return True


@probe()
def org_id_in_body_mass_assignment(w: World) -> bool:
    body = {"id": "x2", "note": "forged", "org_id": B}
    with w.acting(A), w.sessions() as s:
        order = Order(**{**body, "org_id": A})
        s.add(order)
        order.org_id = body["org_id"]
        s.commit()
        return True


@probe()
def bulk_create_into_other_org(w: World) -> bool:
    rows = [{"id": "x3", "org_id": A, "note": "x"}, {"id": "x4", "org_id": B, "note": "forged"}]
    tries: list[Callable[[Any], Any]] = [
        lambda s: s.execute(insert(Order), rows),
        lambda s: s.execute(insert(Order).values(rows)),
        lambda s: s.execute(insert(ORDERS), rows),
        lambda s: s.execute(insert(Order).values(rows[1])),
        lambda s: s.execute(insert(Order).values(id="x4", note="x", org_id=bindparam("o")), {"o": B}),
        lambda s: s.execute(insert(Order).values(id="x4", note="x", org_id=func.lower(B))),
        lambda s: s.execute(insert(ORDERS).values(("x4", B, "forged", 0))),
        lambda s: s.execute(insert(ORDERS).values([("x4", B, "forged", 0)])),
        lambda s: s.connection().execute(insert(ORDERS), rows),
    ]
    for act in tries:
        with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
            act(s)
            s.commit()
    return False


@probe()
def wall_bulk_mappings(w: World) -> bool:
    with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
        s.bulk_insert_mappings(Order, [{"id": "x5", "org_id": B, "note": "forged"}])
        s.commit()
    with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
        s.bulk_save_objects([Order(id="x6", org_id=B, note="forged")])
        s.commit()
    with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
        s.bulk_update_mappings(Order, [{"id": "b1", "total": 99}])
        s.commit()
    return False


@probe()
def update_moves_row_out(w: World) -> bool:
    tries: list[Callable[[Any], Any]] = [
        lambda s: setattr(s.get_one(Order, "a1"), "org_id", B),
        lambda s: s.execute(update(Order).where(Order.id == "a1").values(org_id=B)),
        lambda s: s.execute(update(ORDERS).values({ORDERS.c.org_id: B})),
        lambda s: s.execute(update(ORDERS).where(Order.id == "a1"), {"org_id": B}),
        lambda s: s.execute(update(Order).ordered_values((Order.org_id, B), (Order.total, 1))),
        lambda s: s.execute(update(Order), [{"id": "a1", "org_id": B}]),
    ]
    for act in tries:
        with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
            act(s)
            s.commit()
    return False


@probe()
def bulk_update_by_pk(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        s.execute(update(Order), [{"id": "b1", "total": 99}, {"id": "a1", "total": 98}])
        s.commit()
    return False


@probe()
def update_everything(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        s.execute(update(Order).values(total=99))
        s.execute(update(ORDERS).values(total=97))
        s.commit()
    return False


@probe()
def update_from(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        s.execute(update(Item).values(note=Order.note).where(Order.id == Item.order_id, Item.id == "odd"))
        s.commit()
        return tells(s.scalars(select(Item.note)).all())


@probe()
def update_by_subquery(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        inner = select(func.max(Order.note)).where(Order.id == "b1").scalar_subquery()
        s.execute(update(Tag).values(note=func.coalesce(inner, "none")))
        s.commit()
        return tells(s.scalars(select(Tag.note)).all())


@probe()
def delete_everything(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        s.execute(delete(order_tags))
        s.execute(delete(Item))
        s.execute(delete(ORDERS))
        s.commit()
    return False


@probe()
def delete_detached_other_org(w: World) -> bool:
    with w.acting(B), w.sessions() as s:
        theirs = s.get_one(Ticket, (B, "b1"))
        s.expunge(theirs)
    with w.acting(A), w.sessions() as s:
        s.delete(theirs)
        s.commit()
    return False


@probe()
def insert_from_select(w: World) -> bool:
    with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
        every = select(literal("x") + Order.id, Order.org_id, Order.note)
        s.execute(insert(Tag).from_select(["id", "org_id", "note"], every))
        s.commit()
    with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
        s.execute(insert(Tag).from_select(["id", "note"], select(literal("y") + Order.id, Order.note)))
        s.commit()
    with w.acting(A), w.sessions() as s:
        return tells(s.scalars(select(Tag.note).where(Tag.id != "b1")).all())


@probe()
def insert_from_select_into_other_org(w: World) -> bool:
    with w.acting(A), w.sessions() as s:
        forged: Any = select(literal("z") + Order.id, literal_column(f"'{B}'"), Order.note)
        s.execute(insert(Tag).from_select(["id", "org_id", "note"], forged))
        s.commit()
    return False


@probe()
def wall_upsert(w: World) -> bool:
    dialect = w.engine.dialect.name
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as upsert
    else:
        from sqlalchemy.dialects.sqlite import insert as upsert  # type: ignore[assignment]
    row = {"id": "b1", "org_id": A, "note": "taken", "total": 99}
    for kept in ({"note": "taken"}, {"org_id": A}, {"note": "taken", "org_id": A}):
        with suppress(*REFUSALS), w.acting(A), w.sessions() as s:
            s.execute(upsert(Order).values(row).on_conflict_do_update(index_elements=["id"], set_=kept))
            s.commit()
    return False


@probe()
def cte_that_writes(w: World) -> bool:
    if w.engine.dialect.name != "postgresql":
        return False
    with w.acting(A), w.sessions() as s:
        gone = delete(TICKETS).returning(TICKETS.c.note).cte("gone")
        found = s.execute(select(gone.c.note)).all()
        made = update(ORDERS).values(total=77).returning(ORDERS.c.note).cte("made")
        found += s.execute(select(made.c.note)).all()
        s.commit()
        return tells(found)


@probe()
def unique_key_oracle(w: World) -> bool:
    """With a key that begins with the organization, an id that B has tells nothing."""
    with w.acting(A), w.sessions() as s:
        s.add(Ticket(id="b1", note="of a", org_id=A))
        try:
            s.commit()
        except sa_exc.IntegrityError:
            return True
    return False


# --- threads, tasks, generators ---


@probe()
def executor_loses_org(w: World) -> bool:
    from concurrent.futures import ThreadPoolExecutor

    def work() -> bool:
        with w.sessions() as s:
            return bool(s.scalars(select(Order)).all())

    with w.acting(A), ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@probe()
def worker_thread_residue(w: World) -> bool:
    """A job leaves its principal behind in a pooled thread; the next piece of work there, another's, reads."""
    from concurrent.futures import ThreadPoolExecutor

    def careless() -> None:
        w.acting(B).__enter__()

    def next_one() -> bool:
        with w.acting(A), w.sessions() as s:
            return tells(notes(s.scalars(select(Order))))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(careless).result()
        return pool.submit(next_one).result()


@probe()
def async_generator_leaks_scope(w: World) -> bool:
    async def rows() -> Any:
        with w.acting(B), w.sessions() as s:
            for note in notes(s.scalars(select(Order))):
                yield note

    async def main() -> bool:
        with w.acting(A):
            steps = rows()
            await steps.__anext__()
            try:
                with w.sessions() as s:
                    return tells(notes(s.scalars(select(Order))))
            finally:
                with suppress(Exception):
                    await steps.aclose()

    return asyncio.run(main())


@contextmanager
def nobody() -> Iterator[None]:
    yield


def world(engine: Any, sessions: Any, admin: Any, kit: Kit) -> World:
    return World(engine, sessions, admin, lambda org: kit.security.job("probe", org=org), nobody)
