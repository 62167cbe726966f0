"""A target that two routers could read differently is refused before any rule is looked at."""

from re import compile as regex
from typing import Final
from urllib.parse import unquote_to_bytes

# `//`, a `.` or `..` segment, a backslash, a control character, what stands for bytes that were no UTF-8.
_BAD = regex(r"//|/\.\.?(?:/|\Z)|[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\ufffd]")
_ENCODED_SLASH = regex(rb"%(?:2[fF]|5[cC])")


PLAIN: Final = 0
ENCODED_SLASH: Final = 1  # `%2F` or `%5C` in the raw path, which some routers decode before they split
MALFORMED: Final = 2


def judged(path: str, raw: bytes | None, mount: str) -> int:
    """How a target is: `MALFORMED` where it is not `/…` or two readers of it could differ."""
    if (
        path[:1] == "/"
        and path.isascii()
        and path.isprintable()
        and "//" not in path
        and "/." not in path
        and "\\" not in path
        and (raw is None or (raw == path.encode() and "%" not in path))
    ):
        return PLAIN  # what nearly every request is; the rest says the same, slowly and for any text
    if path[:1] != "/" or _BAD.search(path) is not None:
        return MALFORMED
    if raw is None:
        return PLAIN
    if not raw.isascii():
        return MALFORMED
    try:
        decoded = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return MALFORMED
    if decoded not in {path, mount + path}:
        return MALFORMED
    return ENCODED_SLASH if _ENCODED_SLASH.search(raw) is not None else PLAIN
