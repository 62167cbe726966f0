"""`OrgWall` for Django: every queryset sees one organization's rows. Its public path is `bartizan.integrations.django`.

As SQLAlchemy's wall, it is the compiler: wherever a table stands in a FROM, Django's compiler writes
`(SELECT * FROM "orders" WHERE "org_id" = %s) "orders"`, through whichever manager, relation, join or subquery it got
there. UPDATE and DELETE get the condition, INSERT the organization. What no compiler of Django's has written (`raw()`,
cursors, migrations) does not reach the database.
"""

# ruff: noqa: SLF001, S608 - a compiler reads what a query keeps for it; names are quoted, and every value is bound

from collections.abc import Collection
from contextvars import ContextVar
from re import ASCII, compile as regex
from typing import Any

from django.apps import apps  # type: ignore[import-untyped]
from django.db import connections  # type: ignore[import-untyped]
from django.db.backends.signals import connection_created  # type: ignore[import-untyped]
from django.db.models.expressions import Exists, Func, RawSQL, Subquery  # type: ignore[import-untyped]
from django.db.models.sql import datastructures  # type: ignore[import-untyped]
from django.db.models.sql.where import AND, ExtraWhere  # type: ignore[import-untyped]

from bartizan.access.bypass import Accesses, Bypass
from bartizan.access.statements import AS_TEXT, as_text
from bartizan.core.context import current_org
from bartizan.errors import Misuse, NotFound, Reason

_TRANSACTION = regex(
    r'BEGIN( DEFERRED| IMMEDIATE| EXCLUSIVE)?|(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT) ["`]?\w{1,80}["`]?',
    ASCII,
)
_QUERY = regex(r"(?i)\b(select|from|union|with|table|insert|update|delete)\b|;|--|/\*", ASCII)
_written: ContextVar[object | None] = ContextVar("bartizan_written", default=None)  # the compiler that executes now

Compiler: Any = object


class OrgWall:
    """The wall before the database `using`, around every model that is installed.

    Every table has the column that names its organization, those of many-to-many relations too (give them a
    `through`), or is in `shared`, by its model or table name. `protect` stands it up, once, when the applications are
    ready.
    """

    def __init__(self, *, using: str = "default", column: str = "org_id", shared: Collection[Any] = ()) -> None:
        self.using: str = using
        self.column: str = column
        self._shared = frozenset(each if isinstance(each, str) else each._meta.db_table for each in shared)
        self._fields: dict[str, Any] = {}
        self._bypass: ContextVar[Bypass | None] = ContextVar("bartizan_bypass", default=None)
        self._accesses = Accesses()
        self._compilers: dict[Any, Any] = {}

    def protect(self, *models: Any) -> None:
        """Stand it up. `models` are those that are walled in, by default every one that is installed."""
        for model in models or apps.get_models(include_auto_created=True):
            for meta in [model._meta, *[field.remote_field.through._meta for field in model._meta.local_many_to_many]]:
                if not meta.proxy and meta.db_table not in self._shared:
                    self._fields[meta.db_table] = self._field(meta)
        operations = connections[self.using].ops
        kind = type(operations)
        original = kind.compiler
        wall = self

        def compiler(ops: Any, name: str) -> Any:
            plain = original(ops, name)
            return plain if ops.connection.alias != wall.using else wall._walled(plain)

        kind.compiler = compiler
        connection_created.connect(self._connected, weak=False)
        if connections[self.using].connection is not None:
            self._connected(connection=connections[self.using])

    def unsafe_every_org(self, *, reason: str, seconds: int = 60) -> Bypass:
        """A block without this wall, for the request or job that runs now; it is an event when it begins and ends."""
        return Bypass(self._bypass, reason, seconds)

    def bypassed(self) -> bool:
        """Whether the wall is down for the code that runs now."""
        held = self._bypass.get()
        return held is not None and held.holds()

    def field_of(self, table: str) -> Any:
        """The field that names the organization; None for a shared table. `Misuse` for one that nobody knows."""
        if table in self._shared:
            return None
        field = self._fields.get(table)
        if field is None:
            raise Misuse("a table that is of no model of this wall: what is behind its name is not known")
        return field

    def note(self, table: str, access: str) -> None:
        """A table was touched."""
        self._accesses.note(current_org(), table, access)

    def _field(self, meta: Any) -> Any:
        found = [field for field in meta.local_concrete_fields if field.column == self.column and not field.null]
        if not found:
            raise Misuse(f"{meta.db_table}: give it a column {self.column} that is not null, or name it in shared=")
        return found[0]

    def _walled(self, plain: Any) -> Any:
        made = self._compilers.get(plain)
        if made is None:
            kinds = [kind for name, kind in _KINDS.items() if any(base.__name__ == name for base in plain.__mro__)]
            made = type(plain.__name__, (*kinds, _Walled, plain), {"wall": self})
            self._compilers[plain] = made
        return made

    def _connected(self, *, connection: Any, **_: Any) -> None:
        if connection.alias == self.using and self._execute not in connection.execute_wrappers:
            connection.execute_wrappers.insert(0, self._execute)

    def _execute(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if _written.get() is not self and not _TRANSACTION.fullmatch(sql.strip()):
            if not self.bypassed():
                raise Misuse(AS_TEXT)
            held = self._bypass.get()
            if held is not None:
                held.statements += 1
        return execute(sql, params, many, context)


class _Walled(Compiler):  # type: ignore[misc]
    """A compiler that writes the wall into what it compiles."""

    wall: OrgWall

    def compile(self, node: Any) -> Any:
        if self.wall.bypassed():
            return super().compile(node)
        if isinstance(node, (RawSQL, ExtraWhere)) or (isinstance(node, Func) and _queries(node)):
            raise Misuse(AS_TEXT)
        if not isinstance(node, (datastructures.BaseTable, datastructures.Join)):
            return super().compile(node)
        field = self.wall.field_of(node.table_name)
        self.wall.note(node.table_name, "read")
        sql, params = super().compile(node)
        if field is None:
            return sql, params
        quote = self.connection.ops.quote_name
        table = quote(node.table_name)
        alias = f" {table if node.table_alias == node.table_name else node.table_alias}"
        body = f"(SELECT * FROM {table} WHERE {quote(field.column)} = %s){alias}"
        before, shown = (f"{node.join_type} ", node) if isinstance(node, datastructures.Join) else ("", node)
        plain = f"{before}{self.quote_name_unless_alias(node.table_name)}"
        plain += "" if shown.table_alias == shown.table_name else f" {shown.table_alias}"
        if not sql.startswith(plain):
            raise Misuse("a join that is not written as Django writes it: the wall does not know it")
        return f"{before}{body}{sql[len(plain) :]}", [self._own(field), *params]

    def get_from_clause(self) -> Any:
        if self.query.extra_tables and not self.wall.bypassed():
            raise Misuse(AS_TEXT)
        return super().get_from_clause()

    def execute_sql(self, *args: Any, **kwargs: Any) -> Any:
        if self.wall.bypassed():
            return super().execute_sql(*args, **kwargs)
        current_org()
        token = _written.set(self.wall)
        try:
            return super().execute_sql(*args, **kwargs)
        finally:
            _written.reset(token)

    def _own(self, field: Any) -> Any:
        return field.get_db_prep_value(field.to_python(current_org()), self.connection)

    def _owned(self, query: Any) -> Any:
        """The query, where it finds rows of the organization only."""
        table = query.get_meta().db_table
        field = self.wall.field_of(table)
        self.wall.note(table, "write")
        if field is not None:
            exact = field.get_lookup("exact")(field.get_col(table), field.to_python(current_org()))
            query.where.add(exact, AND)
        return field


def _queries(node: Any) -> bool:
    """Whether a function's own text is more than a function."""
    if isinstance(node, Subquery):  # its template stands around a query that Django writes
        return node.template not in (Subquery.template, Exists.template) or bool(
            {"template", "function"} & set(node.extra)
        )
    texts = [node.function, node.template, node.arg_joiner, *node.extra.values()]
    return any(isinstance(text, str) and _QUERY.search(text) for text in texts)


class _Inserts(Compiler):  # type: ignore[misc]
    def as_sql(self) -> Any:
        if self.wall.bypassed():
            return super().as_sql()
        meta = self.query.get_meta()
        field = self.wall.field_of(meta.db_table)
        self.wall.note(meta.db_table, "write")
        if field is not None:
            if field not in self.query.fields:
                self.query.fields = [*self.query.fields, field]
            if getattr(self.query.on_conflict, "name", "") == "UPDATE":
                raise Misuse("an update at a conflict has no condition, and would write another organization's row")
            org = current_org()
            for each in self.query.objs:
                given = getattr(each, field.attname)
                if given in (None, ""):
                    setattr(each, field.attname, field.to_python(org))
                elif as_text(given) != org:
                    raise NotFound(Reason.WRONG_ORGANIZATION)
        return super().as_sql()


class _Updates(Compiler):  # type: ignore[misc]
    def pre_sql_setup(self, *args: Any, **kwargs: Any) -> Any:
        found = super().pre_sql_setup(*args, **kwargs)
        if not self.wall.bypassed():
            field = self._owned(self.query)
            for named, _, value in self.query.values:
                if field is not None and named.column == field.column and as_text(value) != current_org():
                    raise NotFound(Reason.WRONG_ORGANIZATION)  # a row does not move
        return found


class _Deletes(Compiler):  # type: ignore[misc]
    def _as_sql(self, query: Any) -> Any:
        if not self.wall.bypassed():
            query = query.clone()
            self._owned(query)
        return super()._as_sql(query)


_KINDS = {"SQLInsertCompiler": _Inserts, "SQLUpdateCompiler": _Updates, "SQLDeleteCompiler": _Deletes}
