"""A verified body as a type: TypedDict, dataclass, pydantic or msgspec model, or any function of the JSON value.

Dataclasses and TypedDicts are checked here, member by member, so that a model means the same with and without a schema
library installed. Members that a model does not name are left out.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from bartizan.errors import Misuse
from bartizan.webhooks.bodies import loads

Read = Callable[[Any], Any]


def reader_of(model: Any) -> Callable[[bytes], Any]:
    """What makes the model of a body; it raises whatever it likes. `Misuse` for a type that JSON does not carry."""
    validate = getattr(model, "model_validate_json", None)
    if validate is not None:
        return partial(_utf8, validate)
    if hasattr(model, "__struct_fields__"):  # a msgspec.Struct, so that msgspec is loaded
        return partial(_utf8, partial(sys.modules["msgspec"].json.decode, type=model))
    if is_typeddict(model) or (isinstance(model, type) and is_dataclass(model)) or get_origin(model) in {list, dict}:
        read = _of(model, set())
        return lambda body: read(loads(body))
    if not callable(model):
        raise Misuse("a body is parsed as a TypedDict, a dataclass, a pydantic or msgspec model, or by a function")
    return lambda body: model(loads(body))


def _utf8(read: Read, body: bytes) -> Any:
    return read(body.decode("utf-8").encode())


def _of(kind: Any, above: set[Any]) -> Read:
    """What checks a JSON value against a type, and makes it; a ValueError or TypeError where it does not fit."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return lambda value: value
    if kind is None or kind is NoneType:
        return partial(_plain, NoneType)
    if kind in {str, bool, int, float}:
        return partial(_plain, kind)
    if origin in {Required, NotRequired}:
        return _of(arguments[0], above)
    if origin is Literal:
        return partial(_literal, arguments)
    if origin in {Union, UnionType}:
        return partial(_first, [_of(argument, above) for argument in arguments])
    if kind is list or origin is list:
        item = _of(arguments[0], above) if arguments else _of(Any, above)
        return lambda value: [item(entry) for entry in _plain(list, value)]
    if kind is dict or (origin in {dict, Mapping} and arguments[0] is str):
        item = _of(arguments[1], above) if arguments else _of(Any, above)
        return lambda value: {name: item(entry) for name, entry in _plain(dict, value).items()}
    if kind in above:
        raise Misuse("a model that holds itself is read by a schema library")
    if is_typeddict(kind):
        return _typed_dict(kind, above | {kind})
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, above | {kind})
    raise Misuse("a member of this type is read by a schema library: JSON has no such value")


def _typed_dict(kind: "type[TypedDict]", above: set[Any]) -> Read:  # type: ignore[valid-type]
    hints = get_type_hints(kind)
    readers = {name: _of(hint, above) for name, hint in hints.items()}
    required: frozenset[str] = kind.__required_keys__  # type: ignore[attr-defined]

    def read(value: Any) -> Any:
        given = _plain(dict, value)
        if not required <= given.keys():
            raise ValueError
        return {name: reader(given[name]) for name, reader in readers.items() if name in given}

    return read


def _dataclass(kind: Any, above: set[Any]) -> Read:
    hints = get_type_hints(kind)
    named = [field for field in fields(kind) if field.init]
    readers = {field.name: _of(hints[field.name], above) for field in named}
    required = {field.name for field in named if field.default is MISSING and field.default_factory is MISSING}

    def read(value: Any) -> Any:
        given = _plain(dict, value)
        if not required <= given.keys():
            raise ValueError
        return kind(**{name: reader(given[name]) for name, reader in readers.items() if name in given})

    return read


def _plain(kind: type, value: Any) -> Any:
    """The value, of exactly this JSON type; a whole number is a float too, and a boolean is no number."""
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise ValueError


def _literal(allowed: tuple[Any, ...], value: Any) -> Any:
    if not any(type(value) is type(item) and value == item for item in allowed):
        raise ValueError
    return value


def _first(readers: list[Read], value: Any) -> Any:
    for reader in readers:
        try:
            return reader(value)
        except (ValueError, TypeError):
            continue
    raise ValueError
