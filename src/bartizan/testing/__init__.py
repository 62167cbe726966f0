"""What tests of a service behind Bartizan need: a clock that stands still, a client's key, the contract of stores."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bartizan.testing.clock import FakeClock
    from bartizan.testing.contract import BackendContract
    from bartizan.testing.kit import Kit, a_secret_key, acting_as
    from bartizan.testing.leaks import OrgLeaks, Seeded
    from bartizan.testing.proofs import ProofKey
    from bartizan.testing.vectors import vectors_of

__all__ = [
    "BackendContract",
    "FakeClock",
    "Kit",
    "OrgLeaks",
    "ProofKey",
    "Seeded",
    "a_secret_key",
    "acting_as",
    "vectors_of",
]

_HOMES = {
    "BackendContract": "bartizan.testing.contract",
    "FakeClock": "bartizan.testing.clock",
    "Kit": "bartizan.testing.kit",
    "OrgLeaks": "bartizan.testing.leaks",
    "ProofKey": "bartizan.testing.proofs",
    "Seeded": "bartizan.testing.leaks",
    "a_secret_key": "bartizan.testing.kit",
    "acting_as": "bartizan.testing.kit",
    "vectors_of": "bartizan.testing.vectors",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - loaded with the first name, as the front door does

    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
