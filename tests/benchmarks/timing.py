"""Thread CPU time of every case in rounds, interleaved, so that what slows the machine slows them all."""

import gc
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import thread_time, thread_time_ns

import bartizan
from benchmarks.cases import HOSTILE, Case, compiled

PIECE = 2_000_000  # nanoseconds of a case at a time: the clock's own resolution is no part of it
WARM = 400  # calls before anything counts


def rounds(cases: Mapping[str, Case], *, count: int, pieces: int, piece: int = PIECE) -> dict[str, list[float]]:
    """Nanoseconds of one call of each case, a number for each round; the garbage collector rests meanwhile."""
    sizes = {}
    for name, case in cases.items():
        case.calls(WARM)
        case.settle()
        sizes[name] = max(1, int(piece / max(1, _spent(case, WARM) / WARM)))
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(count):
        total = dict.fromkeys(cases, 0)
        gc.collect()
        gc.disable()
        try:
            for _ in range(pieces):
                for name, case in cases.items():
                    total[name] += _spent(case, sizes[name])
        finally:
            gc.enable()
        for name, spent in total.items():
            found[name].append(spent / (pieces * sizes[name]))
    return found


def _spent(case: Case, calls: int) -> int:
    started = thread_time_ns()
    case.calls(calls)
    spent = thread_time_ns() - started
    case.settle()
    return spent


def hostile() -> dict[str, tuple[float, bool]]:
    """Seconds to compile or refuse each hostile rule set, and whether it was accepted."""
    found = {}
    for name, made in HOSTILE.items():
        patterns = made()
        started = thread_time()
        accepted = compiled(patterns)
        found[name] = (thread_time() - started, accepted)
    return found


def importing(pairs: int) -> tuple[float, int]:
    """Milliseconds of CPU that `import bartizan` adds to an empty interpreter, and how many submodules it loads."""
    start = f"import sys; sys.path.insert(0, {str(Path(bartizan.__file__).parents[1])!r})"
    load = f"{start}; import bartizan"
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{load}; print(sum(m.startswith('bartizan.') for m in sys.modules))"],
        stdout=subprocess.PIPE,
        check=True,
    )
    _child(load)  # the bytecode is written
    return median(_child(load) - _child(start) for _ in range(pairs)), int(told.stdout)


def _child(program: str) -> float:
    before = os.times()
    clock = _precise()
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
    if clock is not None and (after := _precise()) is not None:
        return (after - clock) * 1000
    end = os.times()
    return (end.children_user + end.children_system - before.children_user - before.children_system) * 1000


def _precise() -> float | None:
    """Seconds of CPU of all children that have ended."""
    try:
        from resource import RUSAGE_CHILDREN, getrusage
    except ImportError:
        return None
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def paired(ours: list[float], base: list[float], unit: list[float] | None = None) -> float:
    """The median over the rounds of the difference, in units of the same round."""
    units = unit or [1.0] * len(ours)
    return median((a - b) / u for a, b, u in zip(ours, base, units, strict=True))
