"""The list filter finds exactly the rows for which the single check says yes, on databases that compare in their ways."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from services import need_postgres, postgres_place
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, delete, insert, select
from sqlalchemy.pool import StaticPool

from bartizan import Guard, NotFound
from bartizan.core.principal import ConsumerPrincipal, Principal, verified
from bartizan.testing import Kit, acting_as

READ = Guard("orders:read")
ROWS = Table(
    "rows",
    MetaData(),
    Column("n", Integer, primary_key=True),
    Column("org", String(200)),
    Column("subject", String(200)),
)
# What databases and languages compare in different ways: case, spaces at the end, wildcards, composed letters, nothing.
WORDS = [
    "a",
    "A",
    "a ",
    " a",
    "ab",
    "%",
    "_",
    "a%",
    "\\",
    "'",
    '"',
    "é",
    "e\u0301",
    "ß",
    "ss",
    "1",
    "01",
    "None",
    "null",
    "Ａ",
]
ORGS = st.sampled_from(WORDS)
SUBJECTS = st.none() | st.sampled_from(["", *WORDS])


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "sqlite":
        made = create_engine("sqlite://", poolclass=StaticPool)
        ROWS.create(made)
        yield made
        made.dispose()
        return
    need_postgres()
    with postgres_place() as place:
        ROWS.create(place.admin)
        yield place.admin


def caller(org: str, subject: str | None) -> Principal:
    if subject is None:
        kit = Kit()
        return kit.security.blocking.keys.authenticate(kit.key(org=org, scopes={"orders:read"}).key)
    return verified(
        ConsumerPrincipal, org=org, environment="test", scopes=frozenset({"orders:read"}), expires_at=2**40,
        actor=f"consumer:{subject}", subject=subject, session_id="s", guest=False, factors={},
    )  # fmt: skip


def allowed(access: Any, row: Any) -> bool:
    try:
        access.confirm(org=row.org, subject=row.subject)
    except NotFound:
        return False
    return True


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(st.tuples(st.none() | ORGS, SUBJECTS), max_size=30),
    org=ORGS.filter(str.isprintable),
    subject=st.none() | st.sampled_from(WORDS),
)
def test_the_list_filter_is_the_single_check(
    engine: Any, rows: list[tuple[str | None, str | None]], org: str, subject: str | None
) -> None:
    with engine.begin() as connection:
        connection.execute(delete(ROWS))
        if rows:
            connection.execute(insert(ROWS), [{"n": n, "org": o, "subject": s} for n, (o, s) in enumerate(rows)])
        everything = connection.execute(select(ROWS)).all()
        with acting_as(caller(org, subject)):
            access = READ.require()
            condition = READ.filter(ROWS.c.org, ROWS.c.subject)
            listed = set(connection.execute(select(ROWS.c.n).where(condition)).scalars())
            assert listed == {row.n for row in everything if allowed(access, row)}
