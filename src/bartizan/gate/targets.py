"""A target that two routers could read differently is refused before any rule is looked at."""

from re import compile as regex
from urllib.parse import unquote_to_bytes

from bartizan.core.request import Request

# `//`, a `.` or `..` segment, a backslash, a control character, what stands for bytes that were no UTF-8.
_BAD = regex(r"//|/\.\.?(?:/|\Z)|[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\ufffd]")
_ENCODED_SLASH = regex(rb"%(?:2[fF]|5[cC])")


def malformed(request: Request) -> bool:
    """Whether the target is ambiguous, an encoded slash aside: not `/…`, or its raw and decoded forms disagree."""
    path, raw = request.path, request.raw_path
    if path[:1] != "/" or _BAD.search(path) is not None:
        return True
    if raw is None:
        return False
    if b"%" in raw:
        try:
            decoded = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            return True
    elif raw.isascii():
        decoded = raw.decode()
    else:
        return True
    return decoded != path and decoded != request.mount + path


def encoded_slash(request: Request) -> bool:
    """Whether the raw path has `%2F` or `%5C` in it, which some routers decode before they split."""
    raw = request.raw_path
    return raw is not None and b"%" in raw and _ENCODED_SLASH.search(raw) is not None
