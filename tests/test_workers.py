"""A store in memory serves one process: a second is refused, declared or seen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bartizan import Bartizan, Misuse
from bartizan.core.ring import new_root
from bartizan.testing.kit import Kit

MEMORY = """
import os
from bartizan import Bartizan, Misuse
from bartizan.core.ring import new_root
security = Bartizan("memory://", environment="test", secrets=[new_root()])
child = os.fork()
try:
    security.blocking.keys.create(org="org_1", kind="secret")
    outcome = 7
except Misuse:
    outcome = 8
if not child:
    os._exit(outcome)
print(outcome, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_memory_is_one_processs() -> None:
    """A fork after the store was opened is seen at the child's first use, also where the parent never used it."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", "8"]


@pytest.mark.parametrize("number", ["2", "16"])
def test_memory_with_workers_refused(number: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="workers"):
        Kit(url="memory://", workers=int(number))
    monkeypatch.setenv("WEB_CONCURRENCY", number)
    with pytest.raises(Misuse, match="WEB_CONCURRENCY"):
        Kit(url="memory://")
    Kit().key(org="org_1")  # tests run on machines that serve, too
    Kit(url=f"sqlite:///{tmp_path}/store.db", workers=int(number))


@pytest.mark.parametrize("number", ["1", "", "many"])
def test_memory_with_one_worker(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", number)
    assert Kit(workers=1).key(org="org_1").record.org == "org_1"


@pytest.mark.parametrize("workers", [0, -1, True])
def test_workers_is_a_number(workers: int) -> None:
    with pytest.raises(Misuse, match="workers"):
        Kit(workers=workers)


def test_workers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"URL": "memory://", "ENVIRONMENT": "test", "SECRETS": new_root(), "WORKERS": "2"}.items():
        monkeypatch.setenv(f"SHOP_{name}", value)
    with pytest.raises(Misuse, match="one process"):
        Bartizan.from_env("SHOP")
    monkeypatch.setenv("SHOP_WORKERS", "two")
    with pytest.raises(Misuse, match="workers"):
        Bartizan.from_env("SHOP")
