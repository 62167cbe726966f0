import pytest
from hypothesis import given, settings, strategies as st

from bartizan.core.box import Box
from bartizan.core.encoding import joined
from bartizan.core.ring import Purpose, SecretRing, new_root
from bartizan.errors import Reason, Unavailable

OLD, NEW = new_root(), new_root()
HERE = joined(b"signing-key", b"1")


def box(*roots: str, environment: str = "live") -> Box:
    return Box(SecretRing(roots or (NEW, OLD)), environment)  # type: ignore[arg-type]


@given(st.binary(max_size=300), st.binary(max_size=50))
@settings(max_examples=50, deadline=None)
def test_what_is_sealed_opens_again(content: bytes, context: bytes) -> None:
    sealed = box().seal(content, context=context)
    assert box().open(sealed, context=context) == content
    assert len(sealed) == 97 + len(content)
    assert len(content) < 8 or content not in sealed


def test_no_two_boxes_are_alike() -> None:
    assert len({box().seal(b"x", context=HERE) for _ in range(100)}) == 100


def test_every_byte_counts() -> None:
    sealed = box(NEW).seal(b"secret", context=HERE)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(Unavailable) as caught:
            box(NEW).open(bytes(changed), context=HERE)
        assert caught.value.reason in {Reason.SEAL_BROKEN, Reason.SECRET_MISSING}
        with pytest.raises(Unavailable):
            box(NEW).open(sealed[:place], context=HERE)
    with pytest.raises(Unavailable):
        box(NEW).open(sealed + b"\0", context=HERE)


def test_a_box_opens_at_its_place_and_in_its_environment_only() -> None:
    sealed = box().seal(b"secret", context=HERE)
    for opener, context in ((box(), joined(b"signing-key", b"2")), (box(), b""), (box(environment="test"), HERE)):
        with pytest.raises(Unavailable) as caught:
            opener.open(sealed, context=context)
        assert caught.value.reason is Reason.SEAL_BROKEN


def test_a_root_is_replaced_without_touching_what_is_sealed() -> None:
    sealed = box(OLD).seal(b"secret", context=HERE)
    with pytest.raises(Unavailable) as caught:
        box(NEW).open(sealed, context=HERE)
    assert caught.value.reason is Reason.SECRET_MISSING
    assert box(NEW, OLD).open(sealed, context=HERE) == b"secret"
    wrapped = box(NEW, OLD).rewrap(sealed, context=HERE)
    assert box(NEW).open(wrapped, context=HERE) == b"secret"
    assert wrapped[69:] == sealed[69:]
    with pytest.raises(Unavailable):
        box(NEW, OLD).rewrap(sealed, context=b"elsewhere")


def test_two_boxes_do_not_lend_each_other_their_keys() -> None:
    a, b = box().seal(b"a", context=HERE), box().seal(b"b", context=HERE)
    with pytest.raises(Unavailable):
        box().open(a[:69] + b[69:], context=HERE)


def test_the_key_is_no_other_purposes() -> None:
    ring = SecretRing([NEW])
    subkeys = [ring.subkey(ring.newest, purpose, "live") for purpose in Purpose]
    assert len({key.mac(b"box/v1 wrap") for key in subkeys if key is not None}) == len(Purpose)


def test_nothing_is_shown() -> None:
    assert "secret" not in repr(box())
