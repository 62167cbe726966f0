"""What no compiler of the wall writes: text that nobody has read, in the place of a name, a type or a function."""

# ruff: noqa: D102 - each method is SQLAlchemy's own, and says no

from typing import Any

from bartizan.access.statements import AS_TEXT, NAME, QUERY, RUNS_TEXT, plain_name, plain_operator
from bartizan.errors import Misuse

_Preparer: Any = object  # the one of the engine's dialect, which is known when the engine is
_Compiler: Any = object


class Names(_Preparer):  # type: ignore[misc]
    """A preparer that lets no text pass for a name."""

    def quote(self, ident: Any, *args: Any, **kw: Any) -> Any:
        return super().quote(plain_name(ident), *args, **kw)

    def format_collation(self, name: Any, *args: Any, **kw: Any) -> Any:
        if not NAME.fullmatch(name):
            raise Misuse(AS_TEXT)
        return super().format_collation(name, *args, **kw)


class Texts(_Compiler):  # type: ignore[misc]
    """A compiler that refuses text."""

    def visit_textclause(self, *_: Any, **__: Any) -> Any:
        raise Misuse(AS_TEXT)

    visit_tstring = visit_tstring_text = visit_textual_select = visit_textclause

    def visit_function(self, func: Any, *args: Any, **kw: Any) -> Any:
        if RUNS_TEXT.fullmatch(str(func.name).lower()):
            raise Misuse(AS_TEXT)
        return super().visit_function(func, *args, **kw)

    def visit_extract(self, extract: Any, **kw: Any) -> Any:
        if not NAME.fullmatch(extract.field):
            raise Misuse(AS_TEXT)
        return super().visit_extract(extract, **kw)

    def visit_typeclause(self, typeclause: Any, **kw: Any) -> Any:
        text = super().visit_typeclause(typeclause, **kw)
        if QUERY.search(text):
            raise Misuse(AS_TEXT)
        return text

    def visit_custom_op_binary(self, element: Any, operator: Any, **kw: Any) -> Any:
        return super().visit_custom_op_binary(element, plain_operator(operator), **kw)

    def visit_custom_op_unary_operator(self, element: Any, operator: Any, **kw: Any) -> Any:
        return super().visit_custom_op_unary_operator(element, plain_operator(operator), **kw)

    def visit_custom_op_unary_modifier(self, element: Any, operator: Any, **kw: Any) -> Any:
        return super().visit_custom_op_unary_modifier(element, plain_operator(operator), **kw)

    def get_statement_hint_text(self, *_: Any) -> Any:
        raise Misuse(AS_TEXT)

    get_from_hint_text = get_crud_hint_text = get_statement_hint_text

    def get_select_hint_text(self, byfroms: Any) -> Any:
        if byfroms:
            raise Misuse(AS_TEXT)
        return super().get_select_hint_text(byfroms)
