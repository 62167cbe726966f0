"""What a text of ours costs, beside itsdangerous' timed serializer under SHA-256 with the same content."""

from collections.abc import Callable
from hashlib import sha256

from itsdangerous import URLSafeTimedSerializer

from bartizan import Rejected
from bartizan.core.ring import Purpose, SecretRing, new_root
from bartizan.core.stamp import Stamp
from bartizan.errors import InvalidCode
from benchmarks.cases import EMPTY, Bound, Case, Entry

PEER = "itsdangerous, timed dumps + loads"
NOW = 1_800_000_000
CONTENT = ["org_01J9ZK3V6W8Q2M4N", "user_01J9ZK3V6W8Q2M4N5", True]
BODY = b'["org_01J9ZK3V6W8Q2M4N","user_01J9ZK3V6W8Q2M4N5",true]'


def _stamp() -> Stamp:
    ring = SecretRing([new_root(bytes)])
    return Stamp(ring, Purpose.LINK, "live", prefix="link", longest=1100, life=3600, error=InvalidCode)


def peer() -> Case:
    serializer = URLSafeTimedSerializer("k" * 43, salt="link", signer_kwargs={"digest_method": sha256})

    def calls(n: int) -> None:
        for _ in range(n):
            serializer.loads(serializer.dumps(CONTENT), max_age=3600)

    def check() -> None:
        if serializer.loads(serializer.dumps(CONTENT), max_age=3600) != CONTENT:
            raise RuntimeError("it reads something else")

    return Case(calls, check)


def both() -> Case:
    stamp = _stamp()

    def calls(n: int) -> None:
        for _ in range(n):
            stamp.read(stamp.make(BODY, now=NOW, seconds=60, bind=b"invitation"), now=NOW, bind=b"invitation")

    def check() -> None:
        text = stamp.make(BODY, now=NOW, seconds=60, bind=b"invitation")
        if stamp.read(text, now=NOW, bind=b"invitation").body != BODY:
            raise RuntimeError("it reads something else")

    return Case(calls, check)


def refused(text_of: Callable[[str], str]) -> Callable[[], Case]:
    def make() -> Case:
        stamp = _stamp()
        text = text_of(stamp.make(BODY, now=NOW, seconds=60))

        def calls(n: int) -> None:
            for _ in range(n):
                try:
                    stamp.read(text, now=NOW)
                except Rejected:
                    continue
                raise RuntimeError("it is not refused")

        return Case(calls, lambda: calls(1))

    return make


def forged(text: str) -> str:
    return text[:-2] + ("AA" if text[-2] != "A" else "BA")


def stamp_entries() -> dict[str, Entry]:
    """The rows, after those of `cases`."""
    return {
        PEER: Entry(peer, EMPTY),
        "stamp, make + read": Entry(both, EMPTY, (Bound(0.5, "times", PEER), Bound(0.5, "instruction times", PEER))),
        "stamp, 1 MB refused": Entry(refused(lambda text: text + "A" * 1_000_000), EMPTY, (Bound(1),)),
        "stamp, 1 MB of something else refused": Entry(refused(lambda _: "é" * 1_000_000), EMPTY, (Bound(1),)),
        "stamp, forged": Entry(refused(forged), EMPTY),
    }
