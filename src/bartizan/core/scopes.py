"""Scopes: `resource:action`, compared whole. A wildcard is a whole segment of what was granted, never of what is asked.

What may be held: a publishable key reads, and writes only what the program has declared; everything else is for others.
"""

from collections.abc import Collection

from bartizan.errors import Misuse

Scopes = frozenset[str]


def covers(granted: Collection[str], scope: str) -> bool:
    """Whether `scope` was granted: itself, or by `resource:*`, `*:action` or `*:*`."""
    if scope in granted:
        return True
    resource, colon, action = scope.partition(":")
    return bool(colon) and (f"{resource}:*" in granted or f"*:{action}" in granted or "*:*" in granted)


def lacking(asked: Scopes, granted: Collection[str]) -> Scopes:
    """What of `asked` was not granted."""
    return frozenset([scope for scope in asked if not covers(granted, scope)])


def whole(scope: str) -> bool:
    """Whether the scope has no wildcard but as one of two segments: `read*` would be a prefix."""
    return "*" not in scope or (
        scope.count(":") == 1 and all(part == "*" or "*" not in part for part in scope.split(":"))
    )


def exact(scopes: Scopes) -> Scopes:
    """`scopes`, where each names one thing: what is asked for has no wildcard."""
    if any("*" in scope for scope in scopes):
        raise Misuse("what is asked for is exact: a wildcard stands only in what is granted")
    return scopes


def beyond_publishable(scopes: Scopes, writes: Collection[str]) -> Scopes:
    """What of `scopes` no publishable key may hold, which everybody can read: `orders:read` it may, `*:read` not."""
    return frozenset([s for s in scopes if s not in writes and (not s.endswith(":read") or s.startswith("*"))])
