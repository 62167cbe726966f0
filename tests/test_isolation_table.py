"""The tables of the page are of the probes that there are, and ours hold."""

import re
from pathlib import Path

import django_world
import isolation
import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "isolation.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("mark", "names", "ours"), [("sqlalchemy", isolation.PROBES, 4), ("django", django_world.PROBES, 1)]
)
def test_the_table_is_of_todays_probes(mark: str, names: dict[str, object], ours: int) -> None:
    text = PAGE.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0]
    rows = [[cell.strip(" `") for cell in line.strip("| ").split("|")] for line in text.splitlines()[2:]]
    assert [row[0] for row in rows] == list(names)
    below = isolation.BELOW
    for name, *cells in rows:
        if mark == "sqlalchemy" and name not in below:
            cells = [cells[0], cells[1], cells[3]]  # the policies alone never see it
        assert set(cells[: ours - (mark == "sqlalchemy" and name not in below)]) == {"held"}, name
    assert any("leaks" in cell for row in rows for cell in row[ours + 1 :]), "nothing is compared"
    assert re.search(r"five that SQLite, a job or a composite key", PAGE)
