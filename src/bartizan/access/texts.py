"""What no compiler of the wall writes: text that nobody has read, in the place of a name, a type or a function."""

# ruff: noqa: D102 - each method is SQLAlchemy's own, and says no

from typing import Any

from bartizan.access.statements import AS_TEXT, NAME, QUERY, RUNS_TEXT, plain_name, plain_operator
from bartizan.errors import Misuse


class Names:
    """For a preparer, the one of the engine's dialect: it lets no text pass for a name."""

    def quote(self, ident: Any, *args: Any, **kw: Any) -> Any:
        parent: Any = super()
        return parent.quote(plain_name(ident), *args, **kw)

    def format_collation(self, name: Any, *args: Any, **kw: Any) -> Any:
        if not NAME.fullmatch(name):
            raise Misuse(AS_TEXT)
        parent: Any = super()
        return parent.format_collation(name, *args, **kw)


class Texts:
    """For a compiler, the one of the engine's dialect: it refuses text."""

    def visit_textclause(self, *_: Any, **__: Any) -> Any:
        raise Misuse(AS_TEXT)

    visit_tstring: Any = visit_textclause
    visit_tstring_text: Any = visit_textclause
    visit_textual_select: Any = visit_textclause

    def visit_function(self, func: Any, *args: Any, **kw: Any) -> Any:
        if RUNS_TEXT.fullmatch(str(func.name).lower()):
            raise Misuse(AS_TEXT)
        parent: Any = super()
        return parent.visit_function(func, *args, **kw)

    def visit_extract(self, extract: Any, **kw: Any) -> Any:
        if not NAME.fullmatch(extract.field):
            raise Misuse(AS_TEXT)
        parent: Any = super()
        return parent.visit_extract(extract, **kw)

    def visit_typeclause(self, typeclause: Any, **kw: Any) -> Any:
        parent: Any = super()
        text = parent.visit_typeclause(typeclause, **kw)
        if QUERY.search(text):
            raise Misuse(AS_TEXT)
        return text

    def visit_custom_op_binary(self, element: Any, operator: Any, **kw: Any) -> Any:
        parent: Any = super()
        return parent.visit_custom_op_binary(element, plain_operator(operator), **kw)

    def visit_custom_op_unary_operator(self, element: Any, operator: Any, **kw: Any) -> Any:
        parent: Any = super()
        return parent.visit_custom_op_unary_operator(element, plain_operator(operator), **kw)

    def visit_custom_op_unary_modifier(self, element: Any, operator: Any, **kw: Any) -> Any:
        parent: Any = super()
        return parent.visit_custom_op_unary_modifier(element, plain_operator(operator), **kw)

    def get_statement_hint_text(self, *_: Any) -> Any:
        raise Misuse(AS_TEXT)

    get_from_hint_text: Any = get_statement_hint_text
    get_crud_hint_text: Any = get_statement_hint_text

    def get_select_hint_text(self, byfroms: Any) -> Any:
        if byfroms:
            raise Misuse(AS_TEXT)
        parent: Any = super()
        return parent.get_select_hint_text(byfroms)
