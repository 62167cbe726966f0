"""The simulation of the benchmarks, ours alone: honest clients stay, thieves are found."""

import pytest
from benchmarks.refresh import LOST, MACHINES, THIEVES, Ours, logouts, thefts

BURSTS = 100_000
RUNS = 1000


def test_no_client_is_signed_out_by_concurrency_or_reordering() -> None:
    assert logouts(Ours, BURSTS, lost=0, seed=1) == 0


def test_at_most_one_burst_in_a_thousand_that_lost_replies_signs_somebody_out() -> None:
    assert logouts(Ours, BURSTS, lost=LOST, seed=2) <= BURSTS / 1000


@pytest.mark.parametrize("name", THIEVES)
def test_every_thief_is_found(name: str) -> None:
    found = thefts(Ours, THIEVES[name], RUNS, seed=3)
    assert [theft for theft in found if not theft.caught] == []
    assert sorted(theft.seconds for theft in found)[RUNS // 2] < 3600


def test_the_simulation_tells_machines_apart() -> None:
    """It would see what it is for: others sign clients out, or let a thief go on."""
    assert logouts(MACHINES["strict (RFC 9700)"], 1000, lost=0, seed=1) > 500
    assert logouts(MACHINES["supertokens 5.6, 30 s"], 1000, lost=0, seed=1) > 100
    assert not any(theft.caught for theft in thefts(MACHINES["supabase v2, 10 s"], THIEVES["parasite"], 20, seed=3))
    assert not all(theft.caught for theft in thefts(MACHINES["hydra graceful, 60 s"], THIEVES["active"], 200, seed=3))
