from fuzz.gate_requests import fuzzed


def test_mutated_requests_are_admitted_or_refused() -> None:
    seen = fuzzed(100_000)
    assert {200, 400, 401, 403, 404, 405} <= set(seen)  # it got everywhere
    assert sum(seen.values()) == 200_000
