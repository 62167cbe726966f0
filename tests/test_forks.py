"""Processes: what a fork, a kill and a pre-forking server leave of the house."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from servers import ask

from bartizan import Bartizan
from bartizan.core.ring import new_root

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

HEAD = """
import os, signal, sys, threading, time, warnings
from bartizan.core.drive import run
from bartizan.core.tables import ANYTHING, Insert, Update
from bartizan.errors import Misuse, Unavailable
from bartizan.stores.sql import Statement
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing.samples import SAMPLES, Sample
warnings.simplefilter("ignore")  # newer Pythons warn of any fork beside a thread
file = SqliteFile(sys.argv[1])
put = lambda key: run(file.blocking.change(Insert(SAMPLES, Sample(id=key))))
ids = lambda: {row.id for row in run(SqliteFile(sys.argv[1]).blocking.find(SAMPLES, (), limit=100_000))}
"""


def script(text: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-c", HEAD + text, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


TWENTY = """
stop, written = threading.Event(), threading.Semaphore(0)
told = []
def write(name):
    number = 0
    while not stop.is_set():
        number += 1
        put(f"{name} {number}")
        told.append(f"{name} {number}")
        written.release()
def look():
    while not stop.is_set():
        run(file.blocking.get(SAMPLES, "0 1"))
threads = [threading.Thread(target=write, args=(name,)) for name in range(4)] + [threading.Thread(target=look)]
for thread in threads:
    thread.start()
children = []
for number in range(20):
    for _ in range(5):
        written.acquire()  # they are in the middle of it
    child = os.fork()
    if not child:
        for turn in range(3):
            put(f"child {number} {turn}")
        run(file.blocking.get(SAMPLES, "0 1"))
        os._exit(7)
    children.append(child)
ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
for thread in threads:
    thread.join()
file.close()
wanted = {*told, *[f"child {number} {turn}" for number in range(20) for turn in range(3)]}
print(ends.count(7), wanted <= ids(), len(told) >= 100)
"""


def test_fork_reopens_writer(tmp_path: Path) -> None:
    """20 forks while 4 threads write and one reads: every child writes, and nothing acknowledged is lost."""
    assert script(TWENTY, tmp_path / "store.db") == ["20", "True", "True"]


KEPT = """
put("before")
go_on, tell = os.pipe()
done, told = os.pipe()
child = os.fork()
if not child:
    put("child 1")
    os.write(told, b"1")
    os.read(go_on, 1)
    put("child 2")
    os.write(told, b"2")
    os.read(go_on, 1)
    sys.exit(0)
os.read(done, 1)
run(file.blocking.get(SAMPLES, "before"))
file.close()  # the last of this process: SQLite folds the log back into the file if nobody else has it open
os.write(tell, b"1")
os.read(done, 1)
print(len(ids()))
os.write(tell, b"2")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_child_keeps_its_log_when_the_parent_closes(tmp_path: Path) -> None:
    """A child that had inherited SQLite's bookkeeping would hold no lock: its second commit would be in a deleted file."""
    assert script(KEPT, tmp_path / "store.db") == ["3", "0"]


INSIDE = """
from bartizan.stores import sqlite
put("before")
run(file.blocking.get(SAMPLES, "before"))
sqlite.ANSWER_FOR = 0.01
children = []
def plan():
    children.append(os.fork())
    yield Statement("SELECT 1", ())
    return True
file.read([SAMPLES], plan)
if not children[0]:
    try:
        put("child")
    except Misuse as error:
        os._exit(8 if "middle of a transaction" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
sqlite.ANSWER_FOR = 60
put("after")
print(len(ids()))
"""


def test_fork_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    """The parent goes on; the child, which cannot have locks of its own, is refused."""
    assert script(INSIDE, tmp_path / "store.db") == ["8", "2"]


TOGETHER = """
put("before")
def forks():
    for _ in range(5):
        child = os.fork()
        if not child:
            put(str(os.getpid()))
            os._exit(0)
        os.waitpid(child, 0)
threads = [threading.Thread(target=forks) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
put("after")
print(len(ids()))
"""


def test_threads_that_fork_at_once(tmp_path: Path) -> None:
    assert script(TOGETHER, tmp_path / "store.db") == ["22"]


KILLED = """
acknowledged = []
for turn in range(50):
    heard, tell = os.pipe()
    child = os.fork()
    if not child:
        def write(name):
            number = 0
            while True:
                number += 1
                put(f"{turn} {name} {number}")
                os.write(tell, f"{turn} {name} {number}\\n".encode())
        for name in range(4):
            threading.Thread(target=write, args=(name,)).start()
        signal.pause()
    os.close(tell)
    got = b""
    while got.count(b"\\n") < 5 + turn % 7:
        got += os.read(heard, 4096)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(heard, 4096):
        got += more
    os.close(heard)
    acknowledged += got.decode().splitlines()
    assert set(acknowledged) <= ids(), turn
print(len(acknowledged) >= 50 * 5)
"""


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """50 rounds of four writing threads, killed in the middle."""
    assert script(KILLED, tmp_path / "store.db") == ["True"]


APP = """
import os
from bartizan import Bartizan, InvalidKey
security = Bartizan("sqlite:///" + os.environ["TEST_STORE"], environment="test", secrets=[os.environ["TEST_ROOT"]])
issued = security.blocking.keys.create(org="org_1", kind="secret")  # the master uses the store before it forks
master = os.getpid()

def app(environ, start_response):
    keys = security.blocking.keys
    key = environ["HTTP_AUTHORIZATION"].removeprefix("Bearer ") if "HTTP_AUTHORIZATION" in environ else issued.key
    caller = keys.authenticate(key)
    made = keys.create(org="org_1", kind="secret")
    body = f"{os.getpid() != master} {caller.org} {keys.authenticate(made.key).key_id == made.record.id}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_gunicorn_preload(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(APP.replace(", InvalidKey", ""), encoding="utf-8")
    store, root = tmp_path / "store.db", new_root()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [
            sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "--bind", f"fd://{listening.fileno()}",
            "--chdir", str(tmp_path), "--no-control-socket", "--log-level", "error", "preloaded:app",
        ]  # fmt: skip
        environ = {**os.environ, "TEST_STORE": str(store), "TEST_ROOT": root, "PYTHONWARNINGS": "ignore"}
        server = subprocess.Popen(command, env=environ, pass_fds=[listening.fileno()])
    try:
        answers = [ask(port, "/").body for _ in range(20)]
    finally:
        server.terminate()
        assert server.wait(30) == 0
    assert set(answers) == {b"True org_1 True"}
    with Bartizan(f"sqlite:///{store}", environment="test", secrets=[root]).blocking as security:
        assert len(security.keys.list(org="org_1")) == 21
