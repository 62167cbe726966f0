"""The object that `--app pkg.module:name` names."""

import sys
from importlib import import_module

from bartizan.errors import Misuse


def loaded(text: str) -> object:
    """What stands under `pkg.module:name`; its module is imported, from the working directory too."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise Misuse("--app is pkg.module:name")
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")
    try:
        found: object = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise Misuse(f"--app: {error}") from None
    return found
