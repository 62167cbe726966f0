"""A shop for many organizations: FastAPI and SQLAlchemy, where a query that forgets whose it is finds no other's.

uvicorn --factory tenants:shop    with BARTIZAN_URL, _ENVIRONMENT, _SECRETS, _ISSUER and _AUDIENCE in the environment
pytest -p bartizan.testing.plugin --org-leaks tenants:leaks
"""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, Depends, FastAPI
from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool

from bartizan import Bartizan, Guard, NotFound, OrgAccess, Rule, allow
from bartizan.core.ring import new_root
from bartizan.integrations.fastapi import install
from bartizan.integrations.sqlalchemy import OrgWall
from bartizan.testing import OrgLeaks, Seeded

read_orders, write_orders = Guard("orders:read"), Guard("orders:write")
Reading = Annotated[OrgAccess, Depends(read_orders)]
Writing = Annotated[OrgAccess, Depends(write_orders)]

RULES = [
    Rule("/orders/**", allow.secret_key() | allow.consumer()),
    Rule("/reports/**", allow.secret_key("orders:read")),
]


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    org_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    subject: Mapped[str | None] = mapped_column(String(128))
    what: Mapped[str] = mapped_column(String(100))

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "organization_id": self.org_id, "what": self.what}


def order_of(s: Session, guard: Guard, order_id: str) -> Order:
    """The repository looks up what the caller may see, and asks the proof for what it found."""
    mine = guard.filter(Order.org_id, Order.subject)
    order = s.scalars(select(Order).where(mine, Order.id == order_id)).one_or_none()
    if order is None:
        raise NotFound
    guard.require().confirm(org=order.org_id, subject=order.subject)
    return order


def behind_a_gate(security: Bartizan, sessions: Any, *, forgetful: bool = False) -> FastAPI:
    """The shop; with `forgetful` one of its queries forgets whose it is, for the probe to look at."""
    app = FastAPI(openapi_url=None)

    @app.get("/orders")
    def orders(_: Reading) -> list[dict[str, Any]]:
        with sessions() as s:
            mine = read_orders.filter(Order.org_id, Order.subject)
            return [order.shown() for order in s.scalars(select(Order).where(mine).order_by(Order.id))]

    @app.get("/orders/{order_id}")
    def order(_: Reading, order_id: str) -> dict[str, Any]:
        with sessions() as s:
            return order_of(s, read_orders, order_id).shown()

    @app.post("/orders", status_code=201)
    def create(access: Writing, what: Annotated[str, Body(embed=True, max_length=100)]) -> dict[str, Any]:
        with sessions() as s:
            made = Order(id=uuid4().hex, subject=access.subject, what=what)  # whose it is, the wall fills in
            s.add(made)
            s.commit()
            return made.shown()

    @app.delete("/orders/{order_id}", status_code=204)
    def remove(_: Writing, order_id: str) -> None:
        with sessions() as s:
            s.delete(order_of(s, write_orders, order_id))
            s.commit()

    @app.get("/reports/names")
    def names(_: Reading) -> list[str]:
        names = select(Order.what)
        if not forgetful:
            names = names.where(read_orders.filter(Order.org_id, Order.subject))
        with sessions() as s:
            return list(s.scalars(names))  # where the filter is forgotten, the wall is there

    install(app, security.gate(RULES))
    return app


def database(url: str = "sqlite://", *, wall: bool = True) -> Any:
    pool = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} if url == "sqlite://" else {}
    engine = create_engine(url, **pool)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    if wall:
        OrgWall(Base).protect(sessions)
    return sessions


def shop() -> FastAPI:
    return behind_a_gate(Bartizan.from_env(), database("sqlite:///tenants.db"))


def probe(*, wall: bool = True) -> OrgLeaks:
    """What `--org-leaks` runs: the factory is the application's own."""
    security = Bartizan("memory://", environment="test", secrets=[new_root()], issuer="shop", audience="shop-api")
    sessions = database(wall=wall)

    def seed(org: str) -> Seeded:
        with security.job("seed", org=org), sessions() as s:
            s.add(Order(org_id=org, id=f"order-of-{org}", what=f"a kite for {org}"))
            s.commit()
        return Seeded(params={"order_id": f"order-of-{org}"}, markers=[f"a kite for {org}"])

    def caller(org: str) -> dict[str, str]:
        issued = security.blocking.keys.create(org=org, kind="secret", scopes={"orders:read", "orders:write"})
        return {"Authorization": f"Bearer {issued.key}"}

    def every_order() -> list[Order]:
        with sessions() as s:
            return list(s.scalars(select(Order).where(read_orders.filter(Order.org_id))))

    return OrgLeaks(
        security=security,
        app=behind_a_gate(security, sessions, forgetful=True),
        seed=seed,
        caller=caller,
        endpoints=["GET /orders", "GET /orders/{order_id}", "GET /reports/names", "DELETE /orders/{order_id}"],
        queries={"every_order": every_order},
        scopes=["orders:read"],
    )


def __getattr__(name: str) -> OrgLeaks:
    if name in {"leaks", "leaks_without_a_wall"}:
        return probe(wall=name == "leaks")
    raise AttributeError(name)
