"""Policies on a real PostgreSQL, and every hole of a catalogue that `findings` has to see."""

from collections.abc import Iterator
from typing import Any

import pytest
from services import Place, need_postgres, postgres_place
from sqlalchemy import exc, text

from bartizan import Misuse
from bartizan.access.rls import literal, quoted
from bartizan.integrations.postgres import Finding, Guarded, findings, partitions, policies

A, B = "org_a", "org_b"


@pytest.fixture(scope="module")
def made() -> Iterator[Place]:
    need_postgres()
    with postgres_place() as place:
        yield place


@pytest.fixture
def place(made: Place) -> Iterator[Place]:
    """A guarded table `orders`, and `items` that refers to it, as they should be."""
    made.sql(
        "CREATE TABLE orders (org_id text, id text, note text, PRIMARY KEY (org_id, id))",
        "CREATE TABLE items (org_id text, id text, order_id text, PRIMARY KEY (org_id, id),"
        " FOREIGN KEY (org_id, order_id) REFERENCES orders (org_id, id))",
        *policies(tables(made), role=made.role),
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {made.schema} TO {made.role}",
        f"INSERT INTO orders VALUES ('{A}', '1', 'of a'), ('{B}', '1', 'of b')",
    )
    yield made
    made.sql(
        f"DROP OWNED BY {made.role} CASCADE",
        f"DROP SCHEMA {made.schema} CASCADE",
        f"CREATE SCHEMA {made.schema}",
        f"GRANT USAGE ON SCHEMA {made.schema} TO {made.role}",
    )


def tables(place: Place, *names: str) -> list[Guarded]:
    return [Guarded(name, schema=place.schema) for name in names or ("orders", "items")]


def as_app(place: Place, org: str | None, statement: str) -> list[Any]:
    """By the program's role, for one organization, in a transaction of its own."""
    with place.app.begin() as connection:
        if org is not None:
            connection.execute(text("SELECT set_config('bartizan.org', :org, true)"), {"org": org})
        result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else [result.rowcount]


def found(place: Place, *names: str) -> set[str]:
    return {finding.what for finding in findings(place.ask, tables(place, *names), role=place.role)}


def test_nothing_is_found_where_all_is_well(place: Place) -> None:
    assert findings(place.ask, tables(place), role=place.role) == []


def test_policies_hold(place: Place) -> None:
    assert as_app(place, A, "SELECT note FROM orders") == [("of a",)]
    assert as_app(place, None, "SELECT note FROM orders") == []
    assert as_app(place, A, f"UPDATE orders SET note = 'x' WHERE org_id = '{B}'") == [0]
    for forged in (f"INSERT INTO orders VALUES ('{B}', '9', 'forged')", f"UPDATE orders SET org_id = '{B}', id = '7'"):
        with pytest.raises(exc.ProgrammingError, match="row-level security"):
            as_app(place, A, forged)


def test_rls_session_set_leaks_in_pool(place: Place) -> None:
    """What a transaction has set is gone with it: the next one on the same connection sees nothing."""
    with place.app.connect() as connection:
        with connection.begin():
            connection.execute(text("SELECT set_config('bartizan.org', :org, true)"), {"org": B})
            assert connection.exec_driver_sql("SELECT note FROM orders").scalars().all() == ["of b"]
        assert connection.exec_driver_sql("SELECT note FROM orders").all() == []
        assert connection.exec_driver_sql("SELECT current_setting('bartizan.org', true)").scalar() == ""


def test_rls_empty_setting_after_set_local(place: Place) -> None:
    """The setting is an empty text by then, and no row has an empty organization."""
    with pytest.raises(exc.IntegrityError, match="bartizan_org_named"):
        place.sql("INSERT INTO orders VALUES ('', '1', 'nobody')")
    place.sql("ALTER TABLE orders DROP CONSTRAINT bartizan_org_named", "INSERT INTO orders VALUES ('', '1', 'nobody')")
    assert as_app(place, "", "SELECT note FROM orders") == []
    assert found(place) == {"org_may_be_empty"}


def test_rls_owner_bypass(place: Place) -> None:
    place.sql("GRANT USAGE ON SCHEMA public TO PUBLIC", f"ALTER TABLE orders OWNER TO {place.role}")
    assert "owner" in found(place)
    assert as_app(place, A, "SELECT note FROM orders") == [("of a",)], "FORCE holds the owner"
    place.sql("ALTER TABLE orders OWNER TO CURRENT_USER")


def test_rls_missing_force(place: Place) -> None:
    place.sql("ALTER TABLE orders NO FORCE ROW LEVEL SECURITY")
    assert found(place) == {"not_forced"}


def test_rls_none_at_all(place: Place) -> None:
    place.sql("ALTER TABLE orders DISABLE ROW LEVEL SECURITY")
    assert found(place) == {"no_policies"}


@pytest.mark.parametrize(
    ("attribute", "what"),
    [("SUPERUSER", "role_is_superuser"), ("BYPASSRLS", "role_bypasses_policies"), ("CREATEROLE", "role_creates_roles")],
)
def test_rls_role_that_no_policy_holds(place: Place, attribute: str, what: str) -> None:
    place.sql(f"ALTER ROLE {place.role} {attribute}")
    try:
        assert what in found(place)
    finally:
        place.sql(f"ALTER ROLE {place.role} NO{attribute}")


def test_rls_member_of_the_owner(place: Place) -> None:
    owner = f"{place.schema}_owner"
    place.sql(f"CREATE ROLE {owner}", f"ALTER TABLE items OWNER TO {owner}", f"GRANT {owner} TO {place.role}")
    try:
        assert "role_may_become" in found(place)
    finally:
        place.sql("ALTER TABLE items OWNER TO CURRENT_USER", f"DROP ROLE {owner}")


def test_rls_second_permissive_policy(place: Place) -> None:
    """OR-ed with the other permissive one; the restrictive policy stands against both."""
    place.sql("CREATE POLICY wide ON orders USING (true) WITH CHECK (true)")
    assert as_app(place, A, "SELECT note FROM orders") == [("of a",)]
    assert found(place) == {"other_permissive_policy"}


def test_rls_policy_that_was_loosened(place: Place) -> None:
    place.sql("ALTER POLICY bartizan_own ON orders USING (true)")
    assert found(place) == {"no_restrictive_policy"}
    place.sql("DROP POLICY bartizan_own ON orders")
    assert found(place) == {"no_restrictive_policy"}
    assert as_app(place, A, "SELECT count(*) FROM orders") == [(2,)]


def test_rls_view_owner(place: Place) -> None:
    place.sql("CREATE VIEW seen AS SELECT * FROM orders", f"GRANT SELECT ON seen TO {place.role}")
    assert as_app(place, A, "SELECT count(*) FROM seen") == [(2,)], "as its owner, whom no policy holds"
    assert found(place) == {"view_of_its_owner"}
    place.sql("CREATE VIEW over_seen AS SELECT * FROM seen", f"GRANT SELECT ON over_seen TO {place.role}")
    where = {str(f.where) for f in findings(place.ask, tables(place), role=place.role)}
    assert {name.rpartition(".")[2] for name in where} == {"seen", "over_seen"}
    place.sql("ALTER VIEW seen SET (security_invoker = true)", "ALTER VIEW over_seen SET (security_invoker = true)")
    assert as_app(place, A, "SELECT count(*) FROM over_seen") == [(1,)]
    assert found(place) == set()


def test_rls_materialized_view(place: Place) -> None:
    place.sql("CREATE MATERIALIZED VIEW kept AS SELECT * FROM orders", f"GRANT SELECT ON kept TO {place.role}")
    assert as_app(place, A, "SELECT count(*) FROM kept") == [(2,)]
    assert found(place) == {"materialized_view"}


def test_rls_security_definer(place: Place) -> None:
    place.sql("CREATE FUNCTION every() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM orders'")
    assert as_app(place, A, "SELECT every()") == [(2,)]
    assert found(place) == {"security_definer"}
    place.sql(f"REVOKE EXECUTE ON FUNCTION every() FROM PUBLIC, {place.role}")
    assert found(place) == set()


def test_rls_partition_direct(place: Place) -> None:
    place.sql(
        "CREATE TABLE logs (org_id text NOT NULL, id text, note text, PRIMARY KEY (org_id, id)) PARTITION BY HASH (org_id)",
        "CREATE TABLE logs_0 PARTITION OF logs FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        *policies(tables(place, "logs"), role=place.role),
        f"INSERT INTO logs VALUES ('{A}', '1', 'of a'), ('{B}', '1', 'of b')",
        f"GRANT SELECT ON logs, logs_0 TO {place.role}",
    )
    assert as_app(place, A, "SELECT count(*) FROM logs") == [(1,)]
    assert as_app(place, A, "SELECT count(*) FROM logs_0") == [(2,)], "asked directly, it has no policy"
    assert found(place, "logs") >= {"no_policies", "not_forced", "no_restrictive_policy"}
    whole = partitions(place.ask, tables(place, "logs"))
    assert [table.name for table in whole] == ["logs", "logs_0"]
    place.sql(*policies(whole, role=place.role))
    assert as_app(place, A, "SELECT count(*) FROM logs_0") == [(1,)]
    assert found(place, "logs") == set()


def test_rls_fk_cross_org(place: Place) -> None:
    place.sql(
        "CREATE TABLE plain (org_id text, id text UNIQUE, PRIMARY KEY (org_id, id))",
        "CREATE TABLE refers (org_id text, id text, plain_id text REFERENCES plain (id), PRIMARY KEY (org_id, id))",
        *policies(tables(place, "plain", "refers"), role=place.role),
        f"GRANT SELECT, INSERT ON plain, refers TO {place.role}",
        f"INSERT INTO plain VALUES ('{B}', 'of_b')",
    )
    as_app(place, A, f"INSERT INTO refers VALUES ('{A}', '1', 'of_b')")  # the reference is believed: an oracle
    with pytest.raises(exc.IntegrityError):
        as_app(place, A, f"INSERT INTO refers VALUES ('{A}', '2', 'of_nobody')")
    assert found(place, "plain", "refers") == {"key_without_org", "foreign_key_without_org"}
    with pytest.raises(exc.IntegrityError):
        as_app(place, A, f"INSERT INTO items VALUES ('{A}', '1', '2')")
    place.sql(f"INSERT INTO orders VALUES ('{B}', '2', 'of b')")
    with pytest.raises(exc.IntegrityError):
        as_app(place, A, f"INSERT INTO items VALUES ('{A}', '1', '2')")


def test_rls_truncate(place: Place) -> None:
    place.sql(f"GRANT TRUNCATE, REFERENCES, TRIGGER ON items TO {place.role}")
    assert found(place) == {"may_truncate", "may_references", "may_trigger"}
    as_app(place, A, "TRUNCATE items")  # no policy is asked
    place.sql(*policies(tables(place), role=place.role))
    with pytest.raises(exc.ProgrammingError, match="permission denied"):
        as_app(place, A, "TRUNCATE items")


def test_rls_shared_sequence(place: Place) -> None:
    """How many orders others have made is told by the numbers of one's own."""
    place.sql("ALTER TABLE items ADD COLUMN number bigserial")
    assert found(place) == {"shared_sequence"}
    place.sql("ALTER TABLE items DROP COLUMN number", "ALTER TABLE items ADD COLUMN n int GENERATED ALWAYS AS IDENTITY")
    assert found(place) == {"shared_sequence"}


def test_rls_foreign_table(place: Place) -> None:
    place.sql(
        "CREATE EXTENSION IF NOT EXISTS file_fdw WITH SCHEMA pg_catalog",
        f"CREATE SERVER {place.schema}_files FOREIGN DATA WRAPPER file_fdw",
        f"CREATE FOREIGN TABLE elsewhere (a text) SERVER {place.schema}_files OPTIONS (filename '/dev/null')",
        f"GRANT SELECT ON elsewhere TO {place.role}",
    )
    try:
        assert found(place) == {"foreign_table"}
    finally:
        place.sql(f"DROP SERVER {place.schema}_files CASCADE")


def test_rls_null_organization(place: Place) -> None:
    place.sql("CREATE TABLE loose (org_id text, id text)")
    whole = [*policies(tables(place, "loose"), role=place.role)]
    place.sql(*whole, "ALTER TABLE loose ALTER COLUMN org_id DROP NOT NULL")
    assert found(place, "loose") == {"org_may_be_null"}


def test_a_uuid_is_compared_as_one(place: Place) -> None:
    table = Guarded("numbered", schema=place.schema, type="uuid")
    org = "00000000-0000-0000-0000-00000000000a"
    place.sql(
        "CREATE TABLE numbered (org_id uuid, id text, PRIMARY KEY (org_id, id))",
        *policies([table], role=place.role),
        f"GRANT SELECT ON numbered TO {place.role}",
        f"INSERT INTO numbered VALUES ('{org}', '1'), ('00000000-0000-0000-0000-00000000000b', '1')",
    )
    assert as_app(place, org, "SELECT count(*) FROM numbered") == [(1,)]
    assert as_app(place, "", "SELECT count(*) FROM numbered") == [(0,)]
    assert findings(place.ask, [table], role=place.role) == []


def test_the_tables_of_a_registry() -> None:
    from isolation import SHARED, Base

    from bartizan.integrations.sqlalchemy import OrgWall

    found = OrgWall(Base, shared=SHARED).guarded(schema="shop")
    assert {table.name for table in found} == {"orders", "items", "tags", "tickets", "order_tags"}
    assert set(found) == {Guarded(table.name, "org_id", "shop", "text") for table in found}


def test_what_is_not_there_is_told(place: Place) -> None:
    assert found(place, "orders", "gone") >= {"table_missing"}
    assert findings(place.ask, tables(place), role="nobody_of_this_name") == [
        Finding("role_missing", "nobody_of_this_name")
    ]
    with pytest.raises(Misuse, match="no tables"):
        findings(place.ask, [], role=place.role)


def test_names_are_quoted() -> None:
    assert quoted('a"b') == '"a""b"'
    assert literal("a'b") == "'a''b'"
    for name in ("", "a\0"):
        with pytest.raises(Misuse):
            quoted(name)
    for word in ("a\0", "a\\"):
        with pytest.raises(Misuse):
            literal(word)
    with pytest.raises(Misuse, match="text or uuid"):
        policies([Guarded("t", type="int")], role="r")
    said = policies([Guarded('t"; DROP TABLE x; --')], role='r"; --')
    assert all('t""; DROP TABLE x; --"' in statement for statement in said)
