"""What a wall knows of a statement without the library that made it: whose rows it names, which text it may carry."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from re import ASCII, compile as regex
from typing import Any
from uuid import UUID

from bartizan.errors import Misuse

AS_TEXT = "SQL as text passes no wall: write it with the library's own constructs, or within unsafe_every_org(...)"
LITERAL = regex(r"\*|-?\d{1,20}|'[^'\\%:]{0,100}'|NULL|TRUE|FALSE", ASCII)
_OPERATOR = regex(r"[-+*/<>=~!@#%^&|?]{1,6}", ASCII)
_WORDS = frozenset({
    "AND", "OR", "XOR", "LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE", "GLOB", "MATCH", "REGEXP", "RLIKE", "SIMILAR TO",
    "SOUNDS LIKE", "IS", "IS NOT", "IN", "NOT IN", "DIV", "MOD", "OVERLAPS", "COLLATE", "AT TIME ZONE",
})  # fmt: skip
_COMMENT = regex(r"--|/\*")
NAME = regex(r"[\w$.@-]{1,130}", ASCII)  # of what goes out without quotes
QUERY = regex(r"(?i)\b(select|from|union|table)\b|;|--|/\*", ASCII)  # what a type or a function's text is not
# Functions that run a text as SQL, read tables by name, or change what the policies of the database ask for.
RUNS_TEXT = regex(
    r"(query|cursor|table|schema|database)_to_xml\w*|dblink\w*|ts_(stat|rewrite)|set_config|lo_\w+"
    r"|pg_(read|ls|stat)_\w+|load_\w+|xpath_table|query_to_\w+"
    r"|pg_logical_\w+|sqlite_db\w+|dbstat",
    ASCII,
)


def as_text(value: Any) -> Any:
    """An organization as we name it, where a column keeps it as a UUID."""
    return str(value) if isinstance(value, UUID) else value


def key_of(name: Any) -> Any:
    """The key of a column, however it was named."""
    return getattr(name, "key", name)


def plain_operator(operator: Any) -> Any:
    """An operator that is one; the text of a custom one could be a query."""
    text = operator.opstring
    if text.strip().upper() not in _WORDS and (not _OPERATOR.fullmatch(text) or _COMMENT.search(text)):
        raise Misuse(AS_TEXT)
    return operator


def plain_name(name: Any) -> Any:
    """A name that is one, where it asks not to be quoted."""
    if getattr(name, "quote", None) is False and not NAME.fullmatch(name):
        raise Misuse(AS_TEXT)
    return name


def rows_of(columns: Iterable[str], group: Iterable[Any]) -> list[Mapping[Any, Any]]:
    """The rows of one VALUES, each by column."""
    names = list(columns)
    return [dict(zip(names, row, strict=False)) if isinstance(row, (list, tuple)) else row for row in group]


def given_orgs(statement: Any, key: str, rows: Sequence[Any]) -> Iterator[Any]:
    """The organizations that an INSERT names: in the rows of its execution, and in its own values."""
    for row in rows:
        if isinstance(row, Mapping) and key in row:
            yield row[key]
    values: list[Mapping[Any, Any]] = [statement._values or {}]  # noqa: SLF001 - SQLAlchemy has no other word for it
    for group in statement._multi_values:  # noqa: SLF001
        values += rows_of(statement.table.c.keys(), group)
    for row in values:
        for name, value in row.items():
            if key_of(name) == key:
                yield from _known(value, rows)


def _known(value: Any, rows: Sequence[Any]) -> Iterator[Any]:
    if isinstance(value, (str, UUID)) or value is None:
        yield value
    elif not hasattr(value, "effective_value"):
        yield None  # an expression: nobody knows what it will be
    else:
        named = [row[value.key] for row in rows if isinstance(row, Mapping) and value.key in row]
        yield from named or [value.effective_value]
