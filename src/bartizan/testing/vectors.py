"""Test vectors from JSON files."""

import json
from pathlib import Path
from typing import Any


def vectors_of(directory: Path, pattern: str = "*.json") -> list[tuple[str, Any]]:
    """Every vector of the files below `directory`, each under a name of its own, in the order of the files' names.

    A file is a JSON array or object of vectors. No file, and a file without a vector, are an `AssertionError`: a test
    over nothing would pass.
    """
    found = []
    for path in sorted(directory.rglob(pattern)):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, (list, dict)) or not content:
            raise AssertionError(f"{path} has no vectors")
        named = content.items() if isinstance(content, dict) else enumerate(content)
        stem = path.relative_to(directory).with_suffix("").as_posix()
        found += [(f"{stem}[{name}]", vector) for name, vector in named]
    if not found:
        raise AssertionError(f"{directory} has no vectors")
    return found
