"""`OrgWall`: SQLAlchemy sees one organization's rows, whatever a query forgot. Its public path is `integrations`.

Every statement is written by a compiler of SQLAlchemy's, so the wall is one: wherever a table of the registry stands in
a FROM, it writes `(SELECT * FROM orders WHERE org_id = :org) AS orders`, and no condition beside it, join, CTE,
subquery or lazy load reaches further. UPDATE, DELETE and ON CONFLICT get the condition, INSERT the organization. The
value is bound at each execution; the text is written once for each statement and kept in SQLAlchemy's own cache. What
the wall has not written (text, DDL, the driver's own SQL) does not reach the cursor.
"""

from collections.abc import Collection
from contextvars import ContextVar
from copy import copy
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, Column, MetaData, Table, Uuid, event, select
from sqlalchemy.sql.dml import Insert

from bartizan.access.bypass import MOST_SAMPLES, SAMPLED_EVERY, Accesses, Bypass
from bartizan.access.rls import Guarded
from bartizan.access.statements import AS_TEXT, LITERAL, as_text, given_orgs, key_of, rows_of
from bartizan.access.texts import Names, Texts
from bartizan.access.walled_session import EVERY, WalledSession
from bartizan.core.context import current_org
from bartizan.core.principal import current_unit
from bartizan.errors import Misuse, NotFound, Reason

# ruff: noqa: SLF001, S608 - a compiler reads what a statement keeps for it; names are quoted, and every value is bound


class OrgWall:
    """The wall around the tables of a declarative base (or a `MetaData`).

    Every table has the column that names its organization, or is in `shared`, by its class, table or name. `protect`
    puts the wall before the engine of a sessionmaker, sync or async, and everything else that uses that engine. `rls`
    also tells PostgreSQL the organization for the policies of `policies`.
    """

    def __init__(self, base: Any, *, column: str = "org_id", shared: Collection[Any] = (), rls: bool = False) -> None:
        self.metadata: MetaData = base if isinstance(base, MetaData) else base.metadata
        self.column: str = column
        self._shared = frozenset(str(getattr(getattr(each, "__table__", each), "fullname", each)) for each in shared)
        self._bypass: ContextVar[Bypass | None] = ContextVar("bartizan_bypass", default=None)
        self._dialects: dict[int, tuple[Any, Any]] = {}
        self._pools: dict[int, Any] = {}  # each is kept alive: its id is the key
        self._accesses = Accesses()
        self._rls = rls
        if self._shared - self.metadata.tables.keys():
            raise Misuse("shared= names a table that is not of this base")
        for table in self.metadata.tables.values():
            self.column_of(table)

    def column_of(self, table: Any) -> Column[Any] | None:
        """The organization's column of a table; None for a shared one. `Misuse` for one that is not of the registry."""
        if getattr(table, "metadata", None) is not self.metadata:
            raise Misuse("a table that is not of this wall's base: what is behind its name is not known")
        if table.fullname in self._shared:
            return None
        column: Column[Any] | None = table.c.get(self.column)
        if column is None or column.nullable:
            raise Misuse(f"{table.name}: give it a column {self.column} that is not null, or name it in shared=")
        return column

    def guarded(self, *, schema: str = "public") -> list[Guarded]:
        """The tables of the registry, for `policies` and `findings`; `schema` is for those that name none."""
        found = []
        for table in self.metadata.sorted_tables:
            column = self.column_of(table)
            if column is not None:
                kind = "uuid" if isinstance(column.type, Uuid) else "text"
                found.append(Guarded(table.name, column.name, table.schema or schema, kind))
        return found

    def protect(self, maker: Any) -> None:
        """The wall before every session of this sessionmaker, and before its engine."""
        maker = getattr(maker, "session_factory", maker)
        bind = maker.kw.get("bind")
        if bind is None:
            raise Misuse("protect takes a sessionmaker with a bind: sessionmaker(engine)")
        self._guard(getattr(bind, "sync_engine", bind))
        sync = getattr(maker.class_, "sync_session_class", None)
        if sync is None:
            maker.class_ = self._session(maker.class_)
        else:
            maker.kw["sync_session_class"] = self._session(maker.kw.get("sync_session_class") or sync)

    def unsafe_every_org(self, *, reason: str, seconds: int = 60) -> Bypass:
        """A block without this wall, for the request or job that runs now: `with wall.unsafe_every_org(reason=…):`.

        It is an event when it begins and when it ends, and lasts for `seconds` at most.
        """
        return Bypass(self._bypass, reason, seconds)

    def bypassed(self) -> bool:
        """Whether the wall is down for the code that runs now."""
        held = self._bypass.get()
        return held is not None and held.holds()

    def lowered(self) -> bool:
        """Whether it may be down: within `unsafe_every_org`, or after it in a context that has it still."""
        return self._bypass.get() is not None

    def owner(self) -> str:
        """For whom this code runs: what sessions and connections are held against. Raises where that is nobody."""
        return EVERY if self.bypassed() else current_org()

    def _guard(self, engine: Any) -> None:
        if self.guards(engine):
            return
        self._pools[id(engine.pool)] = engine.pool
        event.listen(engine, "before_execute", self._before_execute, retval=True)
        event.listen(engine, "before_cursor_execute", self._before_cursor)
        if self._rls:
            announce(engine, self.owner)

    def guards(self, engine: Any) -> bool:
        """Whether the wall stands before this engine."""
        return id(engine.pool) in self._pools

    def _before_execute(self, connection: Any, statement: Any, many: Any, one: Any, _: Any) -> Any:
        kept = connection.__dict__
        unit = current_unit.get()
        # The same piece of work on the same connection was looked at before: it is whose it was, unless it is over.
        if kept.get("_bartizan_unit") is not unit or unit.over or self._bypass.get() is not None:
            owner = self.owner()
            if kept.setdefault("_bartizan_owner", owner) != owner:
                raise Misuse("this connection was begun for another organization: use one of your own")
            plain = connection.engine.dialect
            if owner == EVERY:
                connection.dialect = plain
                kept["_bartizan_unit"] = None
                return statement, many, one
            connection.dialect = self._dialect(plain)
            kept["_bartizan_unit"] = unit
        if isinstance(statement, Insert):
            column = self.column_of(statement.table)
            if column is not None:
                for given in given_orgs(statement, column.key, [*(many or ()), *([one] if one else ())]):
                    if as_text(given) != kept["_bartizan_owner"]:
                        raise NotFound(Reason.WRONG_ORGANIZATION)
        return statement, many, one

    def _dialect(self, plain: Any) -> Any:
        found = self._dialects.get(id(plain))
        if found is None:
            if plain.name in {"mysql", "mariadb"}:
                for table in self.metadata.tables.values():
                    column = self.column_of(table)
                    told = getattr(column.type, "collation", None) if column is not None else "_bin"
                    if not str(told).endswith("_bin"):  # org_1 and ORG_1 would be one
                        raise Misuse(f"{table.name}: give {self.column} a collation that ends in _bin")
            walled = copy(plain)
            names = copy(plain.identifier_preparer)
            names.__class__ = type("Named", (Names, type(names)), {})
            names.dialect = walled
            walled.identifier_preparer = names
            walled.statement_compiler = type("Walled", (_Walled, plain.statement_compiler), {"wall": self})
            found = self._dialects[id(plain)] = (plain, walled)  # the first is kept alive: its id is the key
        return found[1]

    def _before_cursor(self, connection: Any, _: Any, __: Any, ___: Any, context: Any, ____: Any) -> None:
        held = self._bypass.get()
        if held is not None and self.bypassed():
            held.statements += 1
            return
        compiled = getattr(context, "compiled", None)
        if not isinstance(compiled, _Walled) or compiled.wall is not self:
            raise Misuse(AS_TEXT)
        kept = connection.__dict__
        org, unit = kept["_bartizan_owner"], kept["_bartizan_unit"]  # as `_before_execute` has just seen them
        # Whatever named a parameter as ours is named: the value that goes out is what counts.
        for name in compiled.orgs:
            for row in context.compiled_parameters:
                if as_text(row.get(name, org)) != org:
                    raise NotFound(Reason.WRONG_ORGANIZATION)
        key, now = (org, unit.label), unit.home.seconds()
        before = compiled.told.get(key)
        if before is None or not 0 <= now - before < SAMPLED_EVERY:
            if len(compiled.told) >= MOST_SAMPLES:
                compiled.told.clear()
            compiled.told[key] = now
            for table, access in compiled.touched:
                self._accesses.note(org, table, access)

    def _session(self, kind: type[Any]) -> type[Any]:
        return kind if issubclass(kind, WalledSession) else type(kind.__name__, (WalledSession, kind), {"wall": self})


def announce(engine: Any, owner: Any = current_org) -> None:
    """Tell PostgreSQL at the start of each transaction whose it is (`SET LOCAL`), for the policies of `policies`."""

    def begin(connection: Any) -> None:
        org = owner()
        mark = "$1" if connection.dialect.paramstyle == "numeric_dollar" else "%s"
        cursor = connection.connection.cursor()
        try:
            cursor.execute(f"SELECT set_config('bartizan.org', {mark}, true)", ("" if org == EVERY else org,))
        finally:
            cursor.close()

    event.listen(engine, "begin", begin)


_Texts: Any = Texts  # before a dialect's compiler, which is known when the engine is


class _Walled(_Texts):  # type: ignore[misc]
    """A compiler that writes the wall into what it compiles."""

    wall: OrgWall
    orgs: list[str]
    touched: list[tuple[str, str]]
    told: dict[tuple[str, str], int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.orgs = []
        self.touched = []
        self.told = {}
        super().__init__(*args, **kwargs)

    def visit_table(self, table: Any, **kw: Any) -> Any:
        text = super().visit_table(table, **kw)
        if kw.get("iscrud") or kw.get("ashint") or not (kw.get("asfrom") or kw.get("within_tstring")):
            return text
        column = self.wall.column_of(table)
        self.touched.append((table.fullname, "read"))
        if column is None:
            return text
        quote = self.preparer.quote
        name = quote(table.name)
        schema = self.preparer.schema_for_object(table)
        if schema:
            name = f"{self.preparer.quote_schema(schema)}.{name}"
        body = f"(SELECT * FROM {name} WHERE {quote(column.name)} = {self._org(column)})"
        alias = kw.get("enclosing_alias")
        if alias is not None and alias.element is table:
            return body
        return body + (text[len(name) :] or self.get_render_as_alias_suffix(quote(table.name)))

    def visit_column(self, column: Any, *args: Any, **kw: Any) -> Any:
        if column.is_literal and not LITERAL.fullmatch(str(column.name)):
            raise Misuse(AS_TEXT)
        text = super().visit_column(column, *args, **kw)
        table = column.table
        schema = self.preparer.schema_for_object(table) if isinstance(table, Table) else None
        # The derived table has the bare name.
        return text.removeprefix(f"{self.preparer.quote_schema(schema)}.") if schema else text

    def visit_insert(self, insert_stmt: Any, *args: Any, **kw: Any) -> Any:
        column = self._target(insert_stmt)
        if column is not None:
            insert_stmt = self._filled(insert_stmt, column)
        return super().visit_insert(insert_stmt, *args, **kw)

    def visit_update(self, update_stmt: Any, *args: Any, **kw: Any) -> Any:
        column = self._target(update_stmt)
        if column is None:
            return super().visit_update(update_stmt, *args, **kw)
        ordered = getattr(update_stmt, "_ordered_values", None) or ()
        named = {key_of(name) for name in update_stmt._values or ()} | {key_of(name) for name, _ in ordered}
        if column.key in named or (not self.stack and column.key in (self.column_keys or ())):
            raise NotFound(Reason.WRONG_ORGANIZATION)  # a row does not move
        return super().visit_update(update_stmt.where(column == self._bind(column)), *args, **kw)

    def visit_delete(self, delete_stmt: Any, *args: Any, **kw: Any) -> Any:
        column = self._target(delete_stmt)
        if column is not None:
            delete_stmt = delete_stmt.where(column == self._bind(column))
        return super().visit_delete(delete_stmt, *args, **kw)

    def visit_on_conflict_do_update(self, on_conflict: Any, **kw: Any) -> Any:
        column = self.wall.column_of(self.stack[-1]["selectable"].table)
        if column is None:
            return super().visit_on_conflict_do_update(on_conflict, **kw)
        if any(key_of(name) == column.key for name in dict(on_conflict.update_values_to_set)):
            raise NotFound(Reason.WRONG_ORGANIZATION)
        clause = copy(on_conflict)
        own = column == self._bind(column)
        before = on_conflict.update_whereclause
        clause.update_whereclause = own if before is None else own & before
        return super().visit_on_conflict_do_update(clause, **kw)

    def visit_on_duplicate_key_update(self, on_duplicate: Any, **kw: Any) -> Any:
        if self.wall.column_of(self.stack[-1]["selectable"].table) is not None:
            raise Misuse("ON DUPLICATE KEY UPDATE has no condition, and would write another organization's row")
        return super().visit_on_duplicate_key_update(on_duplicate, **kw)

    def update_tables_clause(self, update_stmt: Any, from_table: Any, extra_froms: Any, **kw: Any) -> Any:
        if self.dialect.name not in {"mysql", "mariadb"}:
            return super().update_tables_clause(update_stmt, from_table, extra_froms, **kw)
        target = from_table._compiler_dispatch(self, asfrom=True, iscrud=True, **kw)
        return ", ".join([target, *(each._compiler_dispatch(self, asfrom=True, **kw) for each in extra_froms)])

    def _target(self, statement: Any) -> Column[Any] | None:
        if not isinstance(statement.table, Table):
            raise Misuse("INSERT, UPDATE and DELETE name a table of the registry, and no join or alias")
        self.touched.append((statement.table.fullname, "write"))
        return self.wall.column_of(statement.table)

    def _bind(self, column: Column[Any], name: str | None = None) -> BindParameter[Any]:
        def value() -> Any:
            org = current_org()
            return UUID(org) if isinstance(column.type, Uuid) and column.type.as_uuid else org

        return BindParameter(name or "bartizan_org", type_=column.type, callable_=value, unique=name is None)

    def _org(self, column: Column[Any]) -> str:
        text: str = self.visit_bindparam(self._bind(column))
        return text

    def visit_bindparam(self, bindparam: Any, *args: Any, **kw: Any) -> Any:
        text = super().visit_bindparam(bindparam, *args, **kw)
        if bindparam.callable is not None and bindparam.callable.__qualname__.startswith("_Walled._bind."):
            name = self.bind_names[bindparam]
            if name not in self.orgs:
                self.orgs.append(name)
        return text

    def _filled(self, statement: Any, column: Column[Any]) -> Any:
        key = column.key
        bind = self._bind(column, key)
        if statement._select_names:
            names, inner = list(statement._select_names), statement.select.subquery()
            kept = [each for name, each in zip(names, inner.c, strict=True) if name != key]
            clone = statement._generate()
            clone._select_names = [*(name for name in names if name != key), key]
            clone.select = select(*kept, self._bind(column))
            if key in names:  # what it selects of others is not copied
                clone.select = clone.select.where(list(inner.c)[names.index(key)] == self._bind(column))
            return clone
        if statement._multi_values:
            clone = statement._generate()
            columns = statement.table.c.keys()
            groups = []
            for group in statement._multi_values:
                rows = rows_of(columns, group)
                groups.append(
                    [{**{n: v for n, v in row.items() if key_of(n) != key}, column: self._bind(column)} for row in rows]
                )
            clone._multi_values = tuple(groups)
            return clone
        rest = {name: value for name, value in (statement._values or {}).items() if key_of(name) != key}
        clone = statement._generate()
        clone._values = type(statement._values)(rest) if statement._values else None
        return clone.values({key: bind})
