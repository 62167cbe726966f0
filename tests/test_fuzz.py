from fuzz import proofs
from fuzz.gate_requests import fuzzed


def test_mutated_requests_are_admitted_or_refused() -> None:
    seen = fuzzed(100_000)
    assert {200, 400, 401, 403, 404, 405} <= set(seen)  # it got everywhere
    assert sum(seen.values()) == 200_000


def test_mutated_proofs_are_refused_or_of_their_key() -> None:
    seen = proofs.fuzzed(20_000)
    assert {name for name in seen if name.startswith("proof_")} == {
        "proof_malformed", "proof_forged", "proof_other_request", "proof_other_token", "proof_out_of_time",
        "proof_without_nonce",
    }  # fmt: skip
    assert seen["session_misbound"] > 0
    assert seen["taken"] > 0
    assert proofs.tickets_fuzzed(20_000) > 19_000
