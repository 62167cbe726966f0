import pytest
from benchmarks.cases import EMPTY
from benchmarks.webhooks import webhook_entries

ROWS = webhook_entries()


@pytest.mark.parametrize("name", ROWS)
def test_every_case_does_what_its_name_says(name: str) -> None:
    entry = ROWS[name]
    assert entry.base in {EMPTY, *ROWS}
    assert all(bound.of in ROWS for bound in entry.bounds if bound.of)
    entry.make().check()
