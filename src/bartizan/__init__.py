"""Bartizan: the security architecture of a multi-tenant Python web service, as one library.

What you call is here, what you annotate with in `bartizan.types`, what a rule asks for in `bartizan.allow`. Importing
the package loads nothing; each name loads its module when it is first used (PEP 562).
"""

TYPE_CHECKING = False  # the name is what type checkers know; importing `typing` for it would cost 10 ms
if TYPE_CHECKING:
    from bartizan import allow as allow
    from bartizan.core.passage import Rule as Rule
    from bartizan.core.principal import (
        JobPrincipal as JobPrincipal,
        Principal as Principal,
        PublishablePrincipal as PublishablePrincipal,
        SecretPrincipal as SecretPrincipal,
        current_principal as current_principal,
    )
    from bartizan.credentials.key_format import KeyFormat as KeyFormat
    from bartizan.errors import (
        BartizanError as BartizanError,
        Misuse as Misuse,
        NotFound as NotFound,
        Rejected as Rejected,
        Unavailable as Unavailable,
    )
    from bartizan.gate.gate import Gate as Gate
    from bartizan.wiring import Bartizan as Bartizan

_HOME = {
    "Bartizan": "wiring",
    "BartizanError": "errors",
    "Gate": "gate.gate",
    "JobPrincipal": "core.principal",
    "KeyFormat": "credentials.key_format",
    "Misuse": "errors",
    "NotFound": "errors",
    "Principal": "core.principal",
    "PublishablePrincipal": "core.principal",
    "Rejected": "errors",
    "Rule": "core.passage",
    "SecretPrincipal": "core.principal",
    "Unavailable": "errors",
    "allow": "",
    "current_principal": "core.principal",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{home or name}")
    value: object = module if not home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
