"""Row-level security of PostgreSQL for the tables of a wall: the statements, and what is wrong in a catalogue.

The policy is RESTRICTIVE, so that no other policy can widen it, beside one permissive `true`, since PostgreSQL shows
nothing without one. The organization is a setting of the transaction (`SET LOCAL bartizan.org`), which a connection
that goes back to its pool has left behind as an empty text; an empty text is nobody's.

It is a second wall behind code that forgot something. It is none against SQL of an attacker's own by the same role,
which calls `set_config` itself; nor against whoever may bypass policies, which `findings` looks for.
"""

# ruff: noqa: S608 - names are quoted, and no value comes from a request

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from bartizan.errors import Misuse

SETTING = "bartizan.org"
ALL, OWN, NAMED = "bartizan_all", "bartizan_own", "bartizan_org_named"
TYPES = ("text", "uuid")
Ask = Callable[[str], Iterable[Sequence[Any]]]


class Guarded(NamedTuple):
    """A table with a column that names the organization. `type` is the column's: text or uuid."""

    name: str
    column: str = "org_id"
    schema: str = "public"
    type: str = "text"

    @property
    def quoted(self) -> str:
        """Schema and name, as SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def quoted(name: str) -> str:
    """An identifier, as SQL."""
    if not name or "\0" in name or "$do$" in name:
        raise Misuse("a name of the database is not empty, and has no NUL and no $do$")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text, as SQL."""
    if "\0" in text or "\\" in text or "$do$" in text:
        raise Misuse("a name of the database has no NUL, no backslash and no $do$ here")
    return "'" + text.replace("'", "''") + "'"


def policies(tables: Iterable[Guarded], *, role: str) -> list[str]:
    """The statements, for the owner to run for each table and partition; `role` is whom the program connects as."""
    found = []
    for table in tables:
        if table.type not in TYPES:
            raise Misuse(f"{table.name}: the column of the organization is text or uuid")
        cast = "" if table.type == "text" else f"::{table.type}"
        own = f"{quoted(table.column)} = NULLIF(current_setting({literal(SETTING)}, true), ''){cast}"
        found += [
            f"ALTER TABLE {table.quoted} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table.quoted} FORCE ROW LEVEL SECURITY",
            f"DROP POLICY IF EXISTS {ALL} ON {table.quoted}",
            f"DROP POLICY IF EXISTS {OWN} ON {table.quoted}",
            f"CREATE POLICY {ALL} ON {table.quoted} AS PERMISSIVE FOR ALL TO PUBLIC USING (true) WITH CHECK (true)",
            f"CREATE POLICY {OWN} ON {table.quoted} AS RESTRICTIVE FOR ALL TO PUBLIC USING ({own}) WITH CHECK ({own})",
            f"REVOKE TRUNCATE, REFERENCES, TRIGGER ON {table.quoted} FROM {quoted(role)}, PUBLIC",
            f"ALTER TABLE {table.quoted} ALTER COLUMN {quoted(table.column)} SET NOT NULL",
        ]
        if table.type == "text":
            found.append(  # a partition has it from its parent
                f"DO $do$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = {literal(NAMED)} AND "
                f"conrelid = to_regclass({literal(table.quoted)})) THEN ALTER TABLE {table.quoted} "
                f"ADD CONSTRAINT {NAMED} CHECK ({quoted(table.column)} <> ''); END IF; END $do$"
            )
    return found


def partitions(ask: Ask, tables: Iterable[Guarded]) -> list[Guarded]:
    """The tables, each before its partitions: one that is asked directly has its own policies, or none."""
    found = []
    for table in tables:
        below = ask(
            "WITH RECURSIVE below AS (SELECT inhrelid FROM pg_inherits WHERE inhparent = "
            f"to_regclass({literal(table.quoted)}) UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b "
            "ON i.inhparent = b.inhrelid) SELECT n.nspname, c.relname FROM below JOIN pg_class c ON c.oid = inhrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2"
        )
        found += [table, *(table._replace(schema=schema, name=name) for schema, name in below)]
    return found


class Finding(NamedTuple):
    """Something by which the role reaches another organization's rows, or learns of them."""

    what: str
    where: str


def findings(ask: Ask, tables: Iterable[Guarded], *, role: str) -> list[Finding]:
    """What is wrong in the catalogue; nothing is what it should be. `ask` runs one SELECT and gives its rows.

    It is read only, and takes no lock. Every table of the registry is given, not only those with policies.
    """
    named = list(tables)
    known = partitions(ask, named)
    if not known:
        raise Misuse("no tables: nothing would be looked at")
    who = literal(role)
    if not list(ask(f"SELECT 1 FROM pg_roles WHERE rolname = {who}")):
        return [Finding("role_missing", role)]
    oids = ", ".join(f"to_regclass({literal(table.quoted)})" for table in known)
    found = [
        Finding("table_missing", table.quoted)
        for table in known
        if not list(ask(f"SELECT 1 WHERE to_regclass({literal(table.quoted)}) IS NOT NULL"))
    ]
    for what, text in _questions(who, f"ARRAY[{oids}]::oid[]").items():
        found += [Finding(what, str(row[0])) for row in ask(text)]
    for table in known:
        found += _of_table(ask, table, f"ARRAY[{oids}]::oid[]")
    return found


def _questions(who: str, oids: str) -> dict[str, str]:
    may = f"has_table_privilege({who}, c.oid, 'SELECT')"
    depends = (
        "SELECT DISTINCT r.ev_class AS view, d.refobjid AS on_table FROM pg_depend d "
        "JOIN pg_rewrite r ON r.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass "
        "AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class"
    )
    over = (
        f"WITH RECURSIVE uses AS ({depends}), reach AS (SELECT view FROM uses WHERE on_table = ANY ({oids}) "
        "UNION SELECT u.view FROM uses u JOIN reach r ON u.on_table = r.view) "
        "SELECT c.oid::regclass::text FROM pg_class c JOIN reach ON reach.view = c.oid WHERE "
    )
    guarded = f"SELECT c.oid::regclass::text FROM pg_class c WHERE c.oid = ANY ({oids}) AND"
    return {
        "role_is_superuser": f"SELECT rolname FROM pg_roles WHERE rolname = {who} AND rolsuper",
        "role_bypasses_policies": f"SELECT rolname FROM pg_roles WHERE rolname = {who} AND rolbypassrls",
        "role_may_become": (
            f"SELECT r.rolname FROM pg_roles r WHERE r.rolname <> {who} AND pg_has_role({who}, r.oid, 'MEMBER') "
            f"AND (r.rolsuper OR r.rolbypassrls OR r.oid IN (SELECT relowner FROM pg_class WHERE oid = ANY ({oids})))"
        ),
        "role_creates_roles": f"SELECT rolname FROM pg_roles WHERE rolname = {who} AND rolcreaterole",
        "owner": (
            f"SELECT c.oid::regclass::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner "
            f"WHERE c.oid = ANY ({oids}) AND r.rolname = {who}"
        ),
        "no_policies": f"{guarded} NOT relrowsecurity",
        "not_forced": f"{guarded} NOT relforcerowsecurity",
        "other_permissive_policy": (
            "SELECT p.polrelid::regclass::text || ' ' || p.polname FROM pg_policy p "
            f"WHERE p.polrelid = ANY ({oids}) AND p.polpermissive AND p.polname <> {literal(ALL)}"
        ),
        "view_of_its_owner": (
            f"{over}c.relkind = 'v' AND {may} AND NOT COALESCE(c.reloptions::text[] && "
            "ARRAY['security_invoker=true', 'security_invoker=on', 'security_invoker=1'], false)"
        ),
        "materialized_view": f"{over}c.relkind = 'm' AND {may}",
        "foreign_table": (f"SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'f' AND {may}"),
        "security_definer": (
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema') "
            f"AND has_schema_privilege({who}, n.oid, 'USAGE') AND has_function_privilege({who}, p.oid, 'EXECUTE')"
        ),
        **{
            f"may_{verb.lower()}": (
                f"SELECT c.oid::regclass::text FROM pg_class c WHERE c.oid = ANY ({oids}) "
                f"AND has_table_privilege({who}, c.oid, '{verb}')"
            )
            for verb in ("TRUNCATE", "REFERENCES", "TRIGGER")
        },
        "shared_sequence": (
            "SELECT c.oid::regclass::text || ' ' || a.attname FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid "
            f"LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE c.oid = ANY ({oids}) "
            "AND NOT a.attisdropped AND a.attnum > 0 AND (a.attidentity <> '' OR "
            "left(pg_get_expr(d.adbin, d.adrelid), 8) = 'nextval(')"
        ),
    }


def _of_table(ask: Ask, table: Guarded, oids: str) -> list[Finding]:
    """What has to be so in each table: the policy itself, and that each key of it begins with whose it is."""
    oid = f"to_regclass({literal(table.quoted)})"
    column = literal(table.column)
    name = f"quote_ident({column})"
    setting = f"NULLIF(current_setting({literal(SETTING)}::text, true), ''::text)"
    # As PostgreSQL writes the policy of `policies` back, for text, varchar and uuid.
    shapes = (("(", f" = {setting})"), ("((", f")::text = {setting})"), ("(", f" = ({setting})::uuid)"))
    forms = ", ".join(f"{literal(before)} || {name} || {literal(after)}" for before, after in shapes)
    has = f"EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = {oid} AND a.attname = {column} AND a.attnum = ANY"
    questions = {
        "no_restrictive_policy": (
            f"SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = {oid} AND NOT p.polpermissive "
            f"AND p.polcmd = '*' AND p.polroles = '{{0}}' AND p.polname = {literal(OWN)} "
            f"AND pg_get_expr(p.polqual, p.polrelid) IN ({forms}) "
            "AND pg_get_expr(p.polqual, p.polrelid) = pg_get_expr(p.polwithcheck, p.polrelid))"
        ),
        "org_may_be_null": (
            f"SELECT 1 FROM pg_attribute a WHERE a.attrelid = {oid} AND a.attname = {column} AND NOT a.attnotnull"
        ),
        "key_without_org": (
            f"SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = {oid} AND i.indisunique "
            f"AND NOT {has} (i.indkey::int2[]))"
        ),
        "foreign_key_without_org": (
            f"SELECT k.conname FROM pg_constraint k WHERE k.conrelid = {oid} AND k.contype = 'f' "
            f"AND k.confrelid = ANY ({oids}) AND NOT {has} (k.conkey))"
        ),
    }
    if table.type == "text":
        questions["org_may_be_empty"] = (
            f"SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conrelid = {oid} AND k.contype = 'c' "
            f"AND k.conname = {literal(NAMED)} AND k.convalidated)"
        )
    return [
        Finding(what, table.quoted if row[0] == 1 else f"{table.quoted} {row[0]}")
        for what, text in questions.items()
        for row in ask(text)
    ]
