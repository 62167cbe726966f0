"""The decision over a refresh token, as a function: every case once, and what holds of all of them."""

from dataclasses import replace
from itertools import product
from typing import Any

from hypothesis import given, strategies as st

from bartizan.sessions.families import UNTOUCHED, EpochRow, FamilyRow, unpassed
from bartizan.sessions.refresh import (
    ANSWERED,
    DAY,
    GIVEN_LATE,
    REASONS,
    Outcome,
    Presented,
    decide_refresh,
    kill,
    lates,
    recovered,
    rotation,
)
from bartizan.stores.memory import met

GRACE, RECOVERY = 10, 3600
T = 20_000 * DAY + 40_000  # when the newest generation came
NEW, OLD, OTHER = b"newer-01", b"older-01", b"others01"
FAMILY = FamilyRow(
    id="f" * 32, environment="live", org="org_1", subject="cons_1", guest=0, granted="[null,[],{}]", generation=5,
    salt=NEW, previous_salt=OLD, rotated_at=T, confirmed=0, late=0, binding=None, subject_epoch=1, org_epoch=2,
    everyone_epoch=3, created_at=T - 1000, idle_ends=T + 14 * DAY, absolute_ends=T + 80 * DAY, revoked_at=None,
    revoked_for=None, device=None,
)  # fmt: skip
CLEAR = (UNTOUCHED, UNTOUCHED, UNTOUCHED)


def epoch(number: int, **fields: int | str | None) -> EpochRow:
    return replace(UNTOUCHED, epoch=number, **fields)  # type: ignore[arg-type]


def decided(
    family: FamilyRow | None = FAMILY,
    generation: int = 5,
    salt: bytes = NEW,
    *,
    at: int = GRACE,
    epochs: tuple[EpochRow, EpochRow, EpochRow] = CLEAR,
    binding: str | None = None,
    environment: str = "live",
    recovery: int = RECOVERY,
) -> Outcome:
    return decide_refresh(
        family, Presented("f" * 32, generation, salt), epochs=epochs, binding=binding, environment=environment,
        now=T + at, grace=GRACE, recovery=recovery,
    )  # fmt: skip


def test_the_newest_generation() -> None:
    assert decided(at=GRACE) is Outcome.ROTATED
    assert decided(at=GRACE - 1) is decided(at=0) is Outcome.FRESH
    assert decided(at=-500) is Outcome.FRESH  # clock_skew_between_workers: a rotation in the future is a young one
    assert decided(replace(FAMILY, rotated_at=0), at=-500) is Outcome.ROTATED


def test_the_generation_before() -> None:
    assert decided(generation=4, salt=OLD, at=0) is decided(generation=4, salt=OLD, at=GRACE) is Outcome.GRACE
    assert decided(generation=4, salt=OLD, at=-500) is Outcome.GRACE
    assert decided(generation=4, salt=OLD, at=GRACE + 1) is Outcome.LATE_RECOVERY
    assert decided(generation=4, salt=OLD, at=RECOVERY) is Outcome.LATE_RECOVERY
    assert decided(generation=4, salt=OLD, at=RECOVERY + 1) is Outcome.REUSE
    assert decided(generation=4, salt=OLD, at=GRACE + 1, recovery=0) is Outcome.REUSE


def test_what_was_received_is_not_given_late() -> None:
    assert decided(replace(FAMILY, confirmed=1), 4, OLD, at=GRACE) is Outcome.GRACE
    assert decided(replace(FAMILY, confirmed=1), 4, OLD, at=GRACE + 1) is Outcome.REUSE


def test_late_recovery_is_capped_by_the_day() -> None:
    today = (T + GRACE + 1) // DAY
    for late, outcome in (
        (today * 1000, Outcome.LATE_RECOVERY), (today * 1000 + 1, Outcome.LATE_RECOVERY),
        (today * 1000 + 2, Outcome.REUSE), ((today - 1) * 1000 + 2, Outcome.LATE_RECOVERY),
    ):  # fmt: skip
        assert decided(replace(FAMILY, late=late), 4, OLD, at=GRACE + 1) is outcome
    step = recovered(replace(FAMILY, late=today * 1000 + 1), now=T + GRACE + 1, recovery=RECOVERY)
    assert step.set == (("confirmed", GIVEN_LATE), ("late", today * 1000 + 2))
    assert recovered(replace(FAMILY, late=7), now=T, recovery=RECOVERY).set[1] == ("late", T // DAY * 1000 + 1)
    # A generation is counted once: the six requests of one burst are one lost answer.
    given = replace(FAMILY, confirmed=GIVEN_LATE, late=today * 1000 + 2)
    assert decided(given, 4, OLD, at=RECOVERY) is Outcome.LATE_RECOVERY
    assert decided(given, 4, OLD, at=RECOVERY + 1) is Outcome.REUSE
    assert lates(replace(FAMILY, late=today * 1000 + 2), T) == 2


def test_refresh_gen_minus_2() -> None:
    for generation, at in product((0, 1, 2, 3), (-500, 0, GRACE, DAY)):
        for salt in (NEW, OLD, OTHER):
            assert decided(generation=generation, salt=salt, at=at) is Outcome.REUSE


test_grace_second_generation = test_refresh_gen_minus_2


def test_ahead_is_of_another_history() -> None:
    for at in (0, GRACE, DAY):
        assert decided(generation=6, salt=OTHER, at=at) is Outcome.AHEAD
        assert decided(generation=5, salt=OTHER, at=at) is Outcome.AHEAD
        assert decided(generation=4, salt=OTHER, at=at) is Outcome.AHEAD


def test_whatever_has_ended_is_dead_before_anything_else() -> None:
    ended: dict[str, tuple[FamilyRow, tuple[EpochRow, EpochRow, EpochRow], dict[str, Any]]] = {
        "revoked": (replace(FAMILY, revoked_at=T), CLEAR, {}),
        "idle": (replace(FAMILY, idle_ends=T + GRACE), CLEAR, {}),
        "abs_expiry_beats_sliding": (replace(FAMILY, absolute_ends=T + GRACE), CLEAR, {}),
        "subject epoch": (FAMILY, (epoch(2), UNTOUCHED, UNTOUCHED), {}),
        "another was spared": (FAMILY, (epoch(2, spared="e" * 32), UNTOUCHED, UNTOUCHED), {}),
        "organization epoch": (FAMILY, (UNTOUCHED, epoch(3), UNTOUCHED), {}),
        "everyone": (FAMILY, (UNTOUCHED, UNTOUCHED, epoch(4)), {}),
        "organization, though spared": (FAMILY, (epoch(2, spared="f" * 32), epoch(3), UNTOUCHED), {}),
        "user_disabled_at_refresh": (FAMILY, (epoch(0, disabled=1), UNTOUCHED, UNTOUCHED), {}),
        "disabled, though spared": (FAMILY, (epoch(2, disabled=1, spared="f" * 32), UNTOUCHED, UNTOUCHED), {}),
        "organization disabled": (FAMILY, (UNTOUCHED, epoch(0, disabled=1), UNTOUCHED), {}),
        "refresh_test_token_on_live": (replace(FAMILY, environment="test"), CLEAR, {}),
    }
    for name, (family, epochs, more) in ended.items():
        for generation, salt, binding in product((3, 4, 5, 6), (NEW, OLD, OTHER), (None, "device")):
            assert decided(family, generation, salt, epochs=epochs, binding=binding, **more) is Outcome.DEAD, name
    assert decided(None) is Outcome.UNKNOWN


def test_the_epochs_of_its_beginning_do_not_end_it() -> None:
    assert decided(epochs=(epoch(1), epoch(2), epoch(3))) is Outcome.ROTATED
    assert decided(epochs=(epoch(9, spared="f" * 32), epoch(2), epoch(3))) is Outcome.ROTATED


def test_refresh_misbound_does_not_rotate_or_revoke() -> None:
    """refresh_stolen_without_binding, refresh_grace_without_binding: in every state, before anything is said of it."""
    bound = replace(FAMILY, binding="device")
    for generation, salt, at in product((3, 4, 5, 6), (NEW, OLD, OTHER), (0, GRACE, GRACE + 1, DAY)):
        for binding in (None, "another"):
            assert decided(bound, generation, salt, at=at, binding=binding) is Outcome.MISBOUND
    assert decided(bound, binding="device") is Outcome.ROTATED
    assert decided(FAMILY, binding="device") is Outcome.MISBOUND


test_refresh_grace_without_binding = test_refresh_misbound_does_not_rotate_or_revoke


def test_outcomes_are_answers_or_have_a_reason() -> None:
    assert set(Outcome) == ANSWERED | set(REASONS)


# --- the steps say what the decision says ---

families = st.builds(
    lambda **fields: replace(FAMILY, **fields),
    generation=st.integers(1, 6),
    rotated_at=st.integers(T - 2 * RECOVERY, T + 20),
    confirmed=st.integers(0, 2),
    late=st.sampled_from([0, T // DAY * 1000 + 1, T // DAY * 1000 + 2]),
    idle_ends=st.sampled_from([T - 1, T, T + 1]),
    absolute_ends=st.sampled_from([T - 1, T, T + 1]),
    revoked_at=st.sampled_from([None, T]),
    environment=st.sampled_from(["live", "test"]),
    binding=st.sampled_from([None, "device"]),
)
numbered = st.builds(
    epoch,
    st.integers(0, 4),
    disabled=st.integers(0, 1),
    spared=st.sampled_from([None, "f" * 32, "e" * 32]),
)
presenteds = st.builds(Presented, st.just("f" * 32), st.integers(0, 7), st.sampled_from([NEW, OLD, OTHER]))


@given(families, presenteds, numbered, numbered, numbered, st.sampled_from([None, "device"]))
def test_the_change_matches_exactly_where_the_decision_is_to_rotate(  # noqa: PLR0917 - each is drawn
    family: FamilyRow, token: Presented, subject: EpochRow, org: EpochRow, everyone: EpochRow, binding: str | None
) -> None:
    """What one statement does in a store, and what is decided from rows, are the same thing written twice."""
    epochs = (subject, org, everyone)
    outcome = decide_refresh(
        family, token, epochs=epochs, binding=binding, environment="live", now=T, grace=GRACE, recovery=RECOVERY
    )
    step = rotation(token, binding=binding, environment="live", salt=OTHER, grace=GRACE, idle=1)
    spared = subject.epoch > family.subject_epoch
    holds = unpassed(family, spared=spared)
    matches = met(family, step.where, T) and all(
        met(row, hold.where, T) for row, hold in zip(epochs, holds, strict=True)
    )
    assert matches is (outcome is Outcome.ROTATED)


@given(families, presenteds)
def test_reuse_kills_by_the_same_clock_and_recovery_counts(family: FamilyRow, token: Presented) -> None:
    outcome = decide_refresh(
        family, token, epochs=CLEAR, binding=None, environment="live", now=T, grace=GRACE, recovery=RECOVERY
    )
    ends = kill(family, token, now=T, grace=GRACE, recovery=RECOVERY)
    gives = recovered(family, now=T, recovery=RECOVERY)
    if outcome is Outcome.REUSE:
        assert met(family, ends.where, T)
        # A process whose clock runs ahead of the store's takes grace for reuse: the store does not.
        if family.generation - token.generation == 1:
            assert not met(family, ends.where, family.rotated_at + GRACE)
    if outcome is Outcome.LATE_RECOVERY and family.confirmed == GIVEN_LATE:
        assert not met(family, gives.where, T)
    elif outcome is Outcome.LATE_RECOVERY:
        assert met(family, gives.where, T)
        assert not met(replace(family, confirmed=1), gives.where, T)
        assert not met(replace(family, late=family.late + 1), gives.where, T)
    if outcome is Outcome.GRACE and family.generation - token.generation == 1:
        assert not met(family, ends.where, T)


def test_a_condition_for_every_part_of_the_state() -> None:
    where: Any = rotation(Presented("f", 1, OLD), binding=None, environment="live", salt=NEW, grace=10, idle=1).where
    columns = {each.column for each in where}
    assert columns == {
        "generation", "salt", "binding", "environment", "revoked_at", "absolute_ends", "idle_ends", "rotated_at",
    }  # fmt: skip
