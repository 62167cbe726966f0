"""What a scope, a role and the wall cost, beside a filter by hand, SQLAlchemy's own criteria, and PyCasbin.

"Grants" are what was granted in all: to one principal (scopes), or in all organizations (roles). What grows with them
is cache misses. SQLAlchemy's rows are of one statement whose text is compiled already.
"""

from collections.abc import Callable
from contextvars import copy_context
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from bartizan import Bartizan, Guard
from bartizan.access.roles import RoleSet
from bartizan.core.ring import new_root
from bartizan.operations.upkeep import Upkeep
from bartizan.testing import Kit, a_secret_key
from benchmarks.cases import EMPTY, Bound, Case, Entry

FEW, MANY = 10, 100_000
GRANTS = (FEW, MANY)
ASKED = 100  # scopes that the rules of a program name, or organizations that are busy


def calling(work: Callable[[], object], expected: object) -> Case:
    def calls(n: int) -> None:
        for _ in range(n):
            work()

    def check() -> None:
        if work() != expected:
            raise RuntimeError("it says something else")

    return Case(calls, check)


def house() -> Bartizan:
    with patch.object(Upkeep, "need", lambda _: None):
        return Bartizan("memory://", environment="live", secrets=[new_root(bytes)], staleness=300)


def scopes(grants: int) -> Callable[[], Case]:
    def make() -> Case:
        every = [f"resource_{n}:read" for n in range(grants)]
        may = a_secret_key(scopes=frozenset(every)).may
        names = every[:: max(1, grants // ASKED)]
        asked = iter(names * (1 + 1_000_000 // len(names)))
        held: list[Any] = [asked]

        def one() -> bool:
            for name in held[0]:
                return may(name)
            held[0] = iter(names)
            return True

        return calling(one, True)

    return make


def walked(grants: int) -> Callable[[], Case]:
    """What the rows of scopes do besides: to take the next name."""

    def make() -> Case:
        names = [f"resource_{n}:read" for n in range(grants)][:: max(1, grants // ASKED)]
        held: list[Any] = [iter(names * (1 + 1_000_000 // len(names)))]

        def one() -> bool:
            for _ in held[0]:
                return True
            held[0] = iter(names)
            return True

        return calling(one, True)

    return make


def roles(grants: int, busy: int) -> Callable[[], Case]:
    """A role of one of `busy` organizations, where all of them have defined so many."""

    def make() -> Case:
        service = house()._shared.blocking_side.roles
        each = min(grants, 100)  # an organization has no more
        for n in range(grants // each):
            defined = {f"role_{r}": frozenset({f"resource_{r}:read"}) for r in range(each)}
            service._cache.put(f"org_{n}", RoleSet(defined, 1), service._cache.begin())
        count = min(grants // each, busy)
        asked = [(f"org_{n}", frozenset({f"role_{n % each}"})) for n in range(count)]
        at = 0

        def one() -> bool:
            nonlocal at
            at = (at + 1) % count
            org, role = asked[at]
            granted = service.known(org, role)
            return granted is not None and bool(granted.scopes)

        for _ in range(count):
            one()
        return calling(one, True)

    return make


def guard() -> Case:
    kit = Kit()
    context = copy_context()
    context.run(kit.security.job("bench", org="org_1", scopes={"orders:read"}).__enter__)
    require = Guard("orders:read").require

    def calls(n: int) -> None:
        def loop() -> None:
            for _ in range(n):
                require()

        context.run(loop)

    def check() -> None:
        if context.run(lambda: require().org) != "org_1":
            raise RuntimeError("it proves something else")

    return Case(calls, check)


def casbin(policies: int) -> Callable[[], Case]:
    """RBAC with domains, as its documentation writes it; the last policy is the one that decides."""

    def make() -> Case:
        module: Any = import_module("casbin")
        model = module.Model()
        model.load_model_from_text(
            "[request_definition]\nr = sub, dom, obj, act\n[policy_definition]\np = sub, dom, obj, act\n"
            "[role_definition]\ng = _, _, _\n[policy_effect]\ne = some(where (p.eft == allow))\n"
            "[matchers]\nm = g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.obj == p.obj && r.act == p.act\n"
        )
        enforcer = module.Enforcer(model)
        for n in range(policies):
            enforcer.add_policy(f"role_{n}", f"org_{n}", "orders", "read")
        last = policies - 1
        enforcer.add_grouping_policy("user", f"role_{last}", f"org_{last}")
        return calling(lambda: enforcer.enforce("user", f"org_{last}", "orders", "read"), True)

    return make


# --- the wall ---


class Shop:
    """A table of 1,000 orders of ten organizations in SQLite, in memory, and a session of one of them."""

    def __init__(self, *, wall: bool = False) -> None:
        self.sa: Any = import_module("sqlalchemy")
        self.orm: Any = import_module("sqlalchemy.orm")
        pool: Any = import_module("sqlalchemy.pool")
        base = self.orm.declarative_base()
        columns = {
            "__tablename__": "orders",
            "id": self.sa.Column(self.sa.Integer, primary_key=True),
            "org_id": self.sa.Column(self.sa.String(40), nullable=False, index=True),
            "total": self.sa.Column(self.sa.Integer, nullable=False),
        }
        self.order: Any = type("Order", (base,), columns)
        engine = self.sa.create_engine("sqlite://", poolclass=pool.StaticPool)
        base.metadata.create_all(engine)
        rows = [{"id": n, "org_id": f"org_{n % 10}", "total": n} for n in range(1000)]
        with engine.begin() as connection:
            connection.execute(self.sa.insert(self.order), rows)
        self.sessions: Any = self.orm.sessionmaker(engine)
        if wall:
            walls: Any = import_module("bartizan.access.sqlalchemy")
            walls.OrgWall(base).protect(self.sessions)
        self.session: Any = self.sessions()
        self.context = copy_context()
        self.context.run(Kit().security.job("bench", org="org_1").__enter__)


SHAPES = ("one row", "ten rows, Core", "a join")


def statement(shop: Shop, shape: str, *, by_hand: bool) -> Callable[[], Any]:
    sa, order = shop.sa, shop.order
    if shape == "one row":
        query = sa.select(order.total).where(order.id == 11)
    elif shape == "ten rows, Core":
        query = sa.select(order.__table__).where(order.__table__.c.id < 100)
    else:
        other = shop.orm.aliased(order)
        query = sa.select(order.total, other.total).join(other, other.id == order.id).where(order.id < 100)
        if by_hand:
            query = query.where(other.org_id == "org_1")
    if by_hand:
        query = query.where(order.org_id == "org_1")
    session = shop.session
    return lambda: session.execute(query).all()


def queried(shape: str, how: str) -> Callable[[], Case]:
    def make() -> Case:
        shop = Shop(wall=how == "wall")
        if how == "criteria":
            criteria = shop.orm.with_loader_criteria

            def add(state: Any) -> None:
                org = "org_1"
                state.statement = state.statement.options(
                    criteria(shop.order, lambda cls: cls.org_id == org, include_aliases=True)
                )

            shop.sa.event.listen(shop.sessions, "do_orm_execute", add)
        work = statement(shop, shape, by_hand=how == "by hand")

        def calls(n: int) -> None:
            def loop() -> None:
                for _ in range(n):
                    work()

            shop.context.run(loop)

        def check() -> None:
            rows = shop.context.run(work)
            if len(rows) != (1 if shape == "one row" else 10):
                raise RuntimeError(f"{len(rows)} rows")

        return Case(calls, check)

    return make


def access_entries() -> dict[str, Entry]:
    """The rows, after those of `cases`."""
    rows: dict[str, Entry] = {}
    for grants in GRANTS:
        name = f"scope, {grants:,} grants"
        more = (Bound(6, "times", f"scope, {FEW:,} grants"),) if grants == MANY else ()
        rows[f"{name}: the loop"] = Entry(walked(grants), EMPTY)
        rows[name] = Entry(scopes(grants), f"{name}: the loop", (Bound(0.1), *more))
    for grants in GRANTS:
        more = (Bound(6, "times", f"role, {FEW:,} grants"),) if grants == MANY else ()
        rows[f"role, {grants:,} grants"] = Entry(roles(grants, ASKED), EMPTY, (Bound(0.5), *more))
    rows[f"role, {MANY:,} grants, all asked for"] = Entry(roles(MANY, MANY), EMPTY)
    rows["guard.require()"] = Entry(guard, EMPTY)
    if find_spec("casbin") is not None:
        rows |= {f"PyCasbin, {n} policies": Entry(casbin(n), EMPTY) for n in (30, 300)}
    if find_spec("sqlalchemy") is not None:
        for shape in SHAPES:
            hand, wall, criteria = (f"{shape}: {how}" for how in ("by hand", "the wall", "with_loader_criteria"))
            rows[hand] = Entry(queried(shape, "by hand"), EMPTY)
            rows[wall] = Entry(queried(shape, "wall"), EMPTY, (Bound(1.12, "times", hand),))
            if shape != "ten rows, Core":  # it does not see Core
                rows[criteria] = Entry(queried(shape, "criteria"), EMPTY)
                added = f"{criteria}, added"
                rows[added] = Entry(queried(shape, "criteria"), hand)
                rows[f"{wall}, added"] = Entry(queried(shape, "wall"), hand, (Bound(0.4, "times", added),))
    return rows
