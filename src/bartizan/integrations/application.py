"""The table of any application that has a gate: who asks for it need not know the framework."""

from collections.abc import Iterable
from typing import Any

from bartizan.errors import Misuse
from bartizan.gate.gate import BlockingGate, Gate
from bartizan.integrations.coverage import Coverage, coverage
from bartizan.integrations.routes import Route, routes_of


def table_of(app: Any) -> Coverage:
    """Every route of an application with the rule that decides over it; `Misuse` where it has no gate."""
    inner = app
    for _ in range(100):  # whatever wraps it
        found = _found(inner)
        if found is not None:
            return coverage(*found)
        inner = getattr(inner, "app", None) or getattr(inner, "application", None)
    raise Misuse("no gate stands before this application: it has none installed, or it is not the application")


def _found(app: Any) -> tuple[Gate, Iterable[Route]] | None:
    if hasattr(app, "load_middleware"):  # Django's handlers
        from bartizan.integrations.django import gate_of_settings, routes_of_settings  # noqa: PLC0415 - who has it

        return gate_of_settings(), routes_of_settings()
    gate = _gate(getattr(app, "gate", None))
    if gate is not None:
        return gate, routes_of(app)
    gates = [getattr(item, "kwargs", {}).get("gate") for item in getattr(app, "user_middleware", ())]
    extensions = getattr(app, "extensions", None)
    gates.append(extensions.get("bartizan") if isinstance(extensions, dict) else None)
    around = getattr(app, "asgi_handler", None)  # Litestar's
    while around is not None and around is not app:
        gates.append(getattr(around, "gate", None))
        around = getattr(around, "app", None)
    return next(((gate, routes_of(app)) for gate in map(_gate, gates) if gate is not None), None)


def _gate(value: Any) -> Gate | None:
    if isinstance(value, BlockingGate):
        return value._service  # noqa: SLF001 - the same rules, without `await`
    return value if isinstance(value, Gate) else None
