"""How many instructions a call adds, counted by callgrind: two runs agree where two times do not.

One process for each case makes `CALLS` calls of its base and as many of the case. It calls `os.getloadavg` before,
between and behind them, at which callgrind writes down what it has counted since: start-up is in neither count.
"""

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from benchmarks.cases import entries

CALLS = 500
WARM = 100  # calls of each before the count: what the interpreter specialises, it has
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def valgrind() -> str | None:
    """Where it is, if it is."""
    return which("valgrind")


def counts(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The instructions of one call of each case's base, and of one call of the case."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = list(names)
        return dict(zip(names, pool.map(_counted, names), strict=True))


def _counted(name: str) -> tuple[float, float]:
    with TemporaryDirectory() as place:
        out = Path(place, "out")
        command = [
            str(valgrind()), "--tool=callgrind", "--dump-before=getloadavg", f"--callgrind-out-file={out}",
            sys.executable, "-m", "benchmarks.instructions", name,
        ]  # fmt: skip
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        # The parts: start-up, the base, the case; what comes at the end has no number.
        parts = [Path(f"{out}.{part}") for part in (1, 2, 3)]
        if done.returncode or not all(part.exists() for part in parts):
            raise RuntimeError(f"callgrind counts nothing for {name!r}:\n{done.stderr}")
        base, case = [int(_TOTALS.findall(part.read_text("utf-8"))[0]) for part in parts[1:]]
    return base / CALLS, case / CALLS


def _environment() -> dict[str, str]:
    # Where modules are found here they are found there; hashes do not differ from run to run, and no tracer comes along.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}


def count(name: str) -> None:
    """The calls that are counted."""
    rows = entries()
    case, base = rows[name].make(), rows[rows[name].base].make()
    for one in (base, case):
        one.check()
        one.calls(WARM)
        one.settle()
    gc.collect()
    gc.disable()
    os.getloadavg()
    base.calls(CALLS)
    os.getloadavg()
    case.calls(CALLS)
    os.getloadavg()


if __name__ == "__main__":
    count(sys.argv[1])
