from fuzz.webhooks import fuzzed, seeds


def test_a_million_mutated_messages() -> None:
    outcomes = fuzzed(1_000_000)
    assert sum(outcomes.values()) == 1_000_000
    assert outcomes["misuse"] == 0
    assert len(seeds()) > 60
    assert {
        "event", "signature_mismatch", "malformed_signature", "malformed_header", "header_missing", "repeated_header",
        "malformed_timestamp", "timestamp_too_old", "timestamp_in_future", "no_supported_signature", "body_not_signed",
    } <= set(outcomes)  # fmt: skip
