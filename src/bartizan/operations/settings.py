"""What differs between deployments, read from the environment."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bartizan.errors import Misuse

_NUMBERS = {"workers": "the number of processes that serve", "proxy_hops": "the number of proxies before this service"}
_NAMES = {
    name.upper(): name
    for name in ("url", "environment", "issuer", "audience", "key_prefix", "proxy_header", *_NUMBERS)
}  # fmt: skip


def settings(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """The arguments of `Bartizan` that `environ` gives under names with this prefix."""
    given = {name.removeprefix(f"{prefix}_"): value for name, value in environ.items() if name.startswith(f"{prefix}_")}
    out: dict[str, Any] = {_NAMES[name]: value for name, value in given.items() if name in _NAMES}
    for name, what in _NUMBERS.items():
        if name in out:
            if not out[name].isdecimal():
                raise Misuse(f"{prefix}_{name.upper()}: {name} is {what}")
            out[name] = int(out[name])
    if "SECRETS" in given and "SECRETS_FILE" in given:
        raise Misuse(f"{prefix}_SECRETS or {prefix}_SECRETS_FILE, not both")
    if "SECRETS" in given:
        out["secrets"] = given["SECRETS"].split()
    if "SECRETS_FILE" in given:
        try:
            out["secrets"] = Path(given["SECRETS_FILE"]).read_text(encoding="ascii").split()
        except (OSError, ValueError):
            raise Misuse(f"{prefix}_SECRETS_FILE cannot be read") from None
    if "ORIGINS" in given:
        out["origins"] = given["ORIGINS"].split()
    for name in sorted(given.keys() - _NAMES.keys() - {"SECRETS", "SECRETS_FILE", "ORIGINS"}):
        if not name.startswith(("TEST_", "REQUIRE_")):
            warnings.warn(f"{prefix}_{name} is not a setting of Bartizan", stacklevel=3)
    return out
