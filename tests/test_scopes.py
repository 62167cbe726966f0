import pytest
from hypothesis import given, strategies as st

from bartizan import Misuse, allow
from bartizan.core.scopes import beyond_publishable, covers, exact, lacking, whole
from bartizan.testing import Kit, a_secret_key

SEGMENT = st.text(alphabet="abr*", min_size=1, max_size=3)
SCOPE = st.builds("{}:{}".format, SEGMENT, SEGMENT)


@pytest.mark.parametrize(
    ("granted", "asked", "holds"),
    [
        ({"orders:read"}, "orders:read", True),
        ({"orders:*"}, "orders:read", True),
        ({"*:read"}, "orders:read", True),
        ({"*:*"}, "orders:read", True),
        ({"orders:*"}, "orders_archive:read", False),
        ({"orders:read"}, "orders:readonly", False),
        ({"orders:readonly"}, "orders:read", False),
        ({"order:*"}, "orders:read", False),
        ({"*:*"}, "admin", False),
        ({"admin"}, "orders:read", False),
        ({"*:read"}, "orders:write", False),
        ({"ORDERS:read"}, "orders:read", False),
        (set(), "orders:read", False),
    ],
)
def test_wildcard_prefix_scope(granted: set[str], asked: str, holds: bool) -> None:
    assert covers(granted, asked) is holds
    assert lacking(frozenset({asked}), granted) == (frozenset() if holds else {asked})
    assert a_secret_key(scopes=granted).may(asked) is holds


@pytest.mark.parametrize("scope", ["read*:orders", "orders:re*", "*", "**:read", "a:*:b", "*read:x", "orders:**"])
def test_a_wildcard_is_a_whole_segment(scope: str) -> None:
    with pytest.raises(Misuse, match="whole segment"):
        Kit().key(org="org_1", scopes={scope})


@pytest.mark.parametrize("scope", ["orders:*", "*:read", "*:*"])
def test_what_is_asked_for_is_exact(scope: str) -> None:
    assert whole(scope)
    for ask in (allow.secret_key, allow.consumer, allow.member, lambda s: exact(frozenset({s}))):
        with pytest.raises(Misuse, match="exact"):
            ask(scope)


@given(SCOPE.filter(whole), SCOPE.filter(lambda s: "*" not in s))
def test_a_grant_covers_what_it_equals_segment_by_segment(granted: str, asked: str) -> None:
    pairs = zip(granted.split(":"), asked.split(":"), strict=True)
    assert covers({granted}, asked) is all(a in ("*", b) for a, b in pairs)


def test_publishable_key_holds_what_everybody_may_see() -> None:
    writes = frozenset({"consumers:create"})
    assert not beyond_publishable(frozenset({"orders:read", "consumers:create"}), writes)
    for scope in ("orders:write", "orders:*", "*:*", "*:read", "admin", "orders:readonly", "consumers:*"):
        assert beyond_publishable(frozenset({scope}), writes) == {scope}
    kit = Kit(publishable_writes={"consumers:create"})
    kit.key(org="org_1", kind="publishable", scopes={"orders:read", "consumers:create"})
    with pytest.raises(Misuse, match="publishable_writes"):
        kit.key(org="org_1", kind="publishable", scopes={"orders:write"})
    kit.key(org="org_1", scopes={"orders:write", "*:*"})  # a secret key may hold all
