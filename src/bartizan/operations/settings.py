"""What differs between deployments, read from the environment."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bartizan.errors import Misuse

_NAMES = {name.upper(): name for name in ("url", "environment", "issuer", "audience", "key_prefix", "workers")}


def settings(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """The arguments of `Bartizan` that `environ` gives under names with this prefix."""
    given = {name.removeprefix(f"{prefix}_"): value for name, value in environ.items() if name.startswith(f"{prefix}_")}
    out: dict[str, Any] = {_NAMES[name]: value for name, value in given.items() if name in _NAMES}
    if "workers" in out:
        if not out["workers"].isdecimal():
            raise Misuse(f"{prefix}_WORKERS: workers is the number of processes that serve")
        out["workers"] = int(out["workers"])
    if "SECRETS" in given and "SECRETS_FILE" in given:
        raise Misuse(f"{prefix}_SECRETS or {prefix}_SECRETS_FILE, not both")
    if "SECRETS" in given:
        out["secrets"] = given["SECRETS"].split()
    if "SECRETS_FILE" in given:
        try:
            out["secrets"] = Path(given["SECRETS_FILE"]).read_text(encoding="ascii").split()
        except (OSError, ValueError):
            raise Misuse(f"{prefix}_SECRETS_FILE cannot be read") from None
    for name in sorted(given.keys() - _NAMES.keys() - {"SECRETS", "SECRETS_FILE"}):
        if not name.startswith(("TEST_", "REQUIRE_")):
            warnings.warn(f"{prefix}_{name} is not a setting of Bartizan", stacklevel=3)
    return out
