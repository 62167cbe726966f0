"""What the gate asks for, written into a finished OpenAPI document."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bartizan.core.passage import Rule
from bartizan.gate.gate import Gate

_log = logging.getLogger("bartizan.integrations")

_OPERATIONS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
_PARAMETER = re.compile(r"\{[^{}/]*\}")
_FRESH: Final = "{}"  # what no pattern has as a literal
_NOBODY: Final = "**Refused**: no rule of the gate admits this operation."
_SCHEMES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "secret": ("secret_key", {"type": "http", "scheme": "bearer", "description": "A secret API key."}),
    "publishable": (
        "publishable_key",
        {"type": "apiKey", "in": "header", "name": "X-Publishable-Key", "description": "A publishable API key."},
    ),
    "consumer": (
        "consumer",
        {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A consumer's access token."},
    ),
    "member": (
        "member",
        {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A member's access token."},
    ),
}


def lock(document: dict[str, Any], gate: Gate) -> None:
    """Write `security` into every operation: one entry for each alternative of its rule.

    What no rule admits gets `x-bartizan: refused`, says so, and is named in one warning. Under `untouched()` an
    operation keeps what the application says of it; elsewhere both are needed, the application's own and the gate's.
    """
    refused: list[str] = []
    used: dict[str, Mapping[str, str]] = {}
    for path, method, operation in _operations(document):
        rule = gate.rule_for(method.upper(), _PARAMETER.sub(_FRESH, path))
        if rule is None:
            operation["x-bartizan"] = "refused"
            # A page of documentation shows no lock here, as it does where everybody may come.
            operation["description"] = f"{_NOBODY}\n\n{operation.get('description', '')}".rstrip()
            refused.append(f"{method.upper()} {path}")
        elif rule.requirement.look != "away":
            own = operation.get("security", document.get("security")) or [{}]
            operation["security"] = [{**theirs, **ours} for theirs in own for ours in _entries(rule, gate, used)]
    if used:
        known = document.setdefault("components", {}).setdefault("securitySchemes", {})
        for name, scheme in used.items():
            known[name] = dict(scheme)
    if refused:
        _log.warning("in the schema, but no rule admits: %s", ", ".join(refused))


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document.get("paths", {}).items():
        for method in _OPERATIONS:
            if method in item:
                yield path, method, item[method]


def _entries(rule: Rule, gate: Gate, used: dict[str, Mapping[str, str]]) -> list[dict[str, list[str]]]:
    entries = []
    for kinds in sorted(rule.requirement.ways, key=lambda way: (len(way) == 0, sorted(way))):
        entry: dict[str, list[str]] = {}
        for kind in sorted(kinds):
            name, scheme = _SCHEMES.get(kind) or (kind, _door(gate, kind))
            used[name] = scheme
            # Which scopes each takes is known where one credential is enough; OpenAPI 3.1 lists them for any scheme.
            entry[name] = sorted(rule.requirement.lone.get(kind, ())) if len(kinds) == 1 else []
        entries.append(entry)
    return entries


def _door(gate: Gate, kind: str) -> Mapping[str, str]:
    return {"type": "apiKey", "in": "header", "name": gate.slot_of(kind), "description": f"As {kind} is presented."}
