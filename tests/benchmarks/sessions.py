"""What a session costs at each request and at each refresh, over a store in memory; `refresh.py` is the simulation."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from bartizan import Bartizan
from bartizan.core.ring import new_root
from bartizan.credentials.jws import SigningKey
from bartizan.errors import InvalidSession
from bartizan.operations.upkeep import Upkeep
from bartizan.sessions.sessions import Sessions
from benchmarks.cases import EMPTY, Bound, Case, Entry
from benchmarks.tokens import key_of


class Turned:
    """A clock that a refresh turns past its window."""

    def __init__(self) -> None:
        self.now = 1_800_000_000

    def __call__(self) -> int:
        return self.now


def opened() -> tuple[Turned, Sessions, str, str]:
    """A session that was refreshed once and used: its two tokens."""
    clock = Turned()
    with patch.object(Upkeep, "need", lambda _: None):
        security = Bartizan(
            "memory://", environment="live", secrets=[new_root(bytes)], issuer="shop", audience="shop-api",
            staleness=300, clock=clock,
        )  # fmt: skip
        blocking = security.blocking.sessions
        pair = blocking.start(org="org_1", subject="cons_1", scopes={"orders:read"})
        pair = blocking.refresh(pair.refresh_token)
        blocking.authenticate(pair.access_token)
    service: Sessions = security._shared.blocking_side.sessions
    service._wake = lambda: None
    return clock, service, pair.access_token, pair.refresh_token


class Unsigned:
    """A signing key that does not sign: beside other work a signature costs more than in a loop of its own."""

    def __init__(self, key: SigningKey) -> None:
        self.verification = key.verification

    def sign(self, _: bytes) -> bytes:
        return bytes(64)


def authenticate() -> Case:
    _, service, token, _ = opened()

    def calls(n: int) -> None:
        for _ in range(n):
            try:
                service.authenticate(token).send(None)
            except StopIteration:
                continue
            raise RuntimeError("it waits")

    def check() -> None:
        try:
            service.authenticate(token).send(None)
        except StopIteration as end:
            if end.value.subject != "cons_1":
                raise RuntimeError("somebody else") from None

    return Case(calls, check)


def refresh() -> Case:
    clock, service, _, token = opened()
    held = [token]
    key: Any = Unsigned(key_of("EdDSA"))

    async def signing() -> SigningKey:
        return key  # type: ignore[no-any-return]

    service._tokens.signing.signing = signing  # type: ignore[method-assign]

    def calls(n: int) -> None:
        for _ in range(n):
            clock.now += 10
            try:
                service.refresh(held[0]).send(None)
            except StopIteration as end:
                held[0] = end.value.refresh_token
                continue
            raise RuntimeError("it waits")

    def check() -> None:
        before = held[0]
        calls(1)
        if held[0] == before:
            raise RuntimeError("it was not rotated")

    return Case(calls, check)


def refused(text_of: Callable[[str], str]) -> Callable[[], Case]:
    def make() -> Case:
        _, service, _, token = opened()
        text = text_of(token)

        def calls(n: int) -> None:
            for _ in range(n):
                try:
                    service.refresh(text).send(None)
                except InvalidSession:
                    continue
                raise RuntimeError("it is not refused")

        return Case(calls, lambda: calls(1))

    return make


def session_entries() -> dict[str, Entry]:
    """The rows, after those of `cases` and `tokens`."""
    return {
        "session, authenticate, all remembered": Entry(authenticate, EMPTY, (Bound(2.5),)),
        "session, refresh, less its signature": Entry(refresh, EMPTY, (Bound(20),)),
        "session, refresh with a forged token": Entry(refused(lambda t: t[:-6] + "AAAAAA"), EMPTY),
        "session, refresh with 1 MB": Entry(refused(lambda t: t + "A" * 1_000_000), EMPTY, (Bound(1),)),
    }
