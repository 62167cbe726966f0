"""How many changes a second SQLite takes, at 1, 16 and 128 writers, beside one commit alone: `python -m benchmarks.commits`.

The figures are of the disk as much as of the code: the file is made where this is run.
"""

import asyncio
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bartizan.core.drive import run
from bartizan.core.tables import Insert
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing.samples import SAMPLES, Sample

Row = dict[str, Any]

WRITERS = (1, 16, 128)


def rows(seconds: float = 2.0) -> list[Row]:
    """One row for each: `name`, `writers`, `changes_per_second`, `changes_per_commit`."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        out = [alone(Path(folder) / "alone.db", seconds)]
        for writers in WRITERS:
            out += [
                threads(Path(folder) / f"threads{writers}.db", writers, seconds),
                tasks(Path(folder) / f"tasks{writers}.db", writers, seconds),
            ]
    return out


def alone(path: Path, seconds: float) -> Row:
    """The driver itself: one INSERT and one durable COMMIT after the other."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE samples (id TEXT NOT NULL, text TEXT, PRIMARY KEY (id))")
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO samples VALUES (?, '')", (str(done),))
        connection.execute("COMMIT")
        done += 1
    took = time.perf_counter() - began
    connection.close()
    return _row("one commit alone", 1, done, done, took)


def threads(path: Path, writers: int, seconds: float) -> Row:
    """Threads that write through the blocking form."""
    file, commits = _opened(path)
    end = time.perf_counter() + seconds

    def write(writer: int) -> int:
        done = 0
        while time.perf_counter() < end:
            run(file.blocking.change(Insert(SAMPLES, Sample(id=f"{writer} {done}"))))
            done += 1
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(writers) as pool:
        done = sum(pool.map(write, range(writers)))
    took = time.perf_counter() - began
    file.close()
    return _row("threads", writers, done, len(commits), took)


def tasks(path: Path, writers: int, seconds: float) -> Row:
    """Tasks of one event loop that write through the async form."""
    file, commits = _opened(path)

    async def write(writer: int, end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            await file.asynchronous.change(Insert(SAMPLES, Sample(id=f"{writer} {done}")))
            done += 1
        return done

    async def all_of_them() -> tuple[int, float]:
        began = time.perf_counter()
        done = sum(await asyncio.gather(*(write(writer, began + seconds) for writer in range(writers))))
        return done, time.perf_counter() - began

    done, took = asyncio.run(all_of_them())
    file.close()
    return _row("tasks", writers, done, len(commits), took)


def _opened(path: Path) -> tuple[SqliteFile, list[str]]:
    file, commits = SqliteFile(path), []
    run(file.blocking.get(SAMPLES, "-"))
    if file._writes is not None:
        file._writes.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    return file, commits


def _row(name: str, writers: int, done: int, commits: int, took: float) -> Row:
    return {
        "name": name,
        "writers": writers,
        "changes_per_second": round(done / took),
        "changes_per_commit": round(done / max(commits, 1), 1),
    }


def table(found: list[Row]) -> str:
    """The rows as text."""
    lines = [f"{'':18}{'writers':>8}{'changes/s':>11}{'a commit':>10}"]
    lines += [
        f"{row['name']:18}{row['writers']:8}{row['changes_per_second']:11,}{row['changes_per_commit']:10}"
        for row in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(rows()))
