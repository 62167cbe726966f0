"""The table of what everything costs, and which bounds are met: `python -m benchmarks`, by `nox -s bench`.

B is one call of an application that does nothing. Times are medians over rounds of the difference from the bare call in
the same round; instructions are counted by callgrind. A bound that is missed is printed; only `--check` fails on it.
"""

import argparse
import json
import platform
import ssl
import sys
from collections.abc import Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any

from benchmarks import instructions, timing
from benchmarks.cases import BARE, EMPTY, Bound, entries

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where `--check` found a bound of instructions missed."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="What a request costs behind the gate.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no instructions")
    parser.add_argument("--check", action="store_true", help="fail where a bound of instructions is missed")
    chosen = parser.parse_args(arguments)
    rows = copy_context().run(measured, quick=chosen.quick)  # what gates leave in a context is nobody else's
    print(f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}")
    print(table(rows))
    if chosen.json is not None:
        told = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION, "rows": rows}
        chosen.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        print(f"written to {chosen.json}")
    uncounted = any(bound["gated"] and bound["met"] is None for row in rows for bound in row["bounds"])
    if chosen.check and uncounted:
        print("NOTHING WAS CHECKED: no instructions were counted", file=sys.stderr)
    missed = [row for row in rows for bound in row["bounds"] if bound["gated"] and bound["met"] is False]
    return 1 if chosen.check and (missed or uncounted) else 0


def measured(
    *, quick: bool = False, count: int | None = None, pieces: int = 10, piece: int = timing.PIECE
) -> list[Row]:
    """Every row; `count` rounds, eleven unless it has to be quick."""
    planned = entries()
    cases = {name: entry.make() for name, entry in planned.items()}
    for case in cases.values():
        case.check()
    rounds = timing.rounds(cases, count=count or (3 if quick else 11), pieces=pieces, piece=piece)
    unit = [a - b for a, b in zip(rounds[BARE], rounds[EMPTY], strict=True)]
    counted: dict[str, float] = {}
    if not quick and instructions.valgrind() is not None:
        found = instructions.counts(name for name in planned if name != EMPTY)
        counted = {name: case - base for name, (base, case) in found.items()}
    elif not quick:
        print("NO INSTRUCTIONS: valgrind is not on this machine, and nothing below is checked against their bounds")
    rows: list[Row] = []
    for name, entry in planned.items():
        if name == EMPTY:
            continue
        row: Row = {
            "case": name,
            "over": entry.base,
            "us": timing.paired(rounds[name], rounds[entry.base]) / 1000,
            "B": timing.paired(rounds[name], rounds[entry.base], unit),
            "instructions": counted.get(name),
        }
        row["bounds"] = [_bound(bound, row, rounds, counted) for bound in entry.bounds]
        rows.append(row)
    milliseconds, submodules = timing.importing(count or (5 if quick else 21))
    rows += [
        _plain("import bartizan over an empty interpreter", milliseconds, "ms", 4),
        _plain("submodules that import bartizan loads", submodules, "", 0),
    ]
    for name, (seconds, accepted) in timing.hostile().items():
        rows.append(_plain(f"{name}: {'compiled' if accepted else 'refused'}", seconds, "s", 5))
    return rows


def _bound(bound: Bound, row: Row, rounds: dict[str, list[float]], counted: dict[str, float]) -> Row:
    found: float | None
    if bound.unit == "B":
        found = row["B"]
    elif bound.unit == "us":
        found = row["us"]
    elif bound.unit == "times":
        # Of two differences, each from its own base in the same round.
        planned = entries()
        ours, theirs = (
            [a - b for a, b in zip(rounds[name], rounds[planned[name].base], strict=True)]
            for name in (row["case"], bound.of)
        )
        found = timing.paired(ours, [0.0] * len(ours), theirs)
    elif bound.unit == "instructions":
        found = row["instructions"]
    else:
        found = counted[row["case"]] / counted[bound.of] if counted else None
    met = None if found is None else found <= bound.limit
    return {**bound._asdict(), "gated": bound.gated, "found": found, "met": met}


def _plain(name: str, value: float, unit: str, limit: float) -> Row:
    bound = {"limit": limit, "unit": unit, "of": "", "gated": False, "found": value, "met": value <= limit}
    return {"case": name, "value": value, "unit": unit, "bounds": [bound]}


def table(rows: list[Row]) -> str:
    """The rows for reading, and the bounds that are missed once more under them."""
    lines = [f"{'':44}{'us':>8}{'B':>8}{'instructions':>14}  bounds", "-" * 110]
    missed = []
    for row in rows:
        if "value" in row:
            start = f"{row['case']:<44}{_number(row['value']):>8} {row['unit']:<21}"
        else:
            counted = "" if row["instructions"] is None else f"{row['instructions']:,.0f}"
            start = f"{row['case']:<44}{row['us']:>8.2f}{row['B']:>8.2f}{counted:>14}"
        lines.append(f"{start}  {'; '.join(_told(bound) for bound in row['bounds'])}".rstrip())
        missed += [f"  {row['case']}: {_told(bound)}" for bound in row["bounds"] if bound["met"] is False]
    bounds = sum(bound["met"] is not None for row in rows for bound in row["bounds"])
    lines.append("-" * 110)
    lines += [f"{len(missed)} of {bounds} bounds are MISSED:", *missed] if missed else [f"all {bounds} bounds are met"]
    return "\n".join(lines)


def _told(bound: Row) -> str:
    found = bound["found"]
    if bound["unit"] in {"times", "instruction times"}:
        by = "" if bound["unit"] == "times" else " in instructions"
        limit = f"{bound['limit']:g} times {bound['of']}{by}"
    else:
        limit = f"{_number(bound['limit'])} {bound['unit']}".rstrip()
    if found is None:
        return f"<= {limit}: not counted"
    return f"<= {limit}: {'met' if bound['met'] else 'MISSED'} ({_number(found)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
