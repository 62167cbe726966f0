"""What a bound session costs at the gate: over the same consumer by Bearer, with one signature check beside it."""

from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import cache
from itertools import cycle
from secrets import token_bytes
from typing import Any
from unittest.mock import patch

from bartizan import Bartizan, Rule, SessionPolicy, allow
from bartizan.core.once import ONCE
from bartizan.core.passage import Admit
from bartizan.core.request import Request
from bartizan.core.ring import new_root
from bartizan.credentials.jws import new_signing_key
from bartizan.operations.upkeep import Upkeep
from bartizan.testing import ProofKey, acting_as
from benchmarks.cases import EMPTY, WIRE, Bound, Case, Entry

NOW = 1_800_000_000
URL = "https://shop.example/me"
TEXTS = 2000  # proofs and tickets, each good once: more than are asked for between two settlings
BEARER = "consumer by Bearer, at the gate"
SIGNED = "the same, beside one ES256 signature check"


class Place:
    """A gate in its blocking form, over a store in memory, and what its clients send."""

    def __init__(self, binding: Any = "none") -> None:
        with patch.object(Upkeep, "need", lambda _: None):
            self.security = Bartizan(
                "memory://", environment="live", secrets=[new_root(bytes)], issuer="shop", audience="shop-api",
                staleness=300, clock=lambda: NOW, origins=["https://shop.example"],
                sessions=SessionPolicy(access=3600, binding=binding),
            )  # fmt: skip
            self.sessions = self.security.blocking.sessions
            self.gate = self.security.gate([Rule("/me", allow.consumer()), Rule("WEBSOCKET /live", allow.consumer())])
            self.check = self.gate.blocking.check
        sessions = self.security._shared.blocking_side.sessions
        sessions._possession._wake = sessions._tickets._wake = lambda: None

    def forget(self) -> None:
        """Nothing was used up."""
        backend: Any = self.security._shared.blocking_side.backend
        backend._rows(ONCE).clear()


def asking(place: Place, requests: Iterator[Request], *, admitted: bool = True, beside: Any = None) -> Case:
    def calls(n: int) -> None:
        for _ in range(n):
            if beside is not None:
                beside()
            verdict = place.check(next(requests))
            if (verdict.__class__ is Admit) is not admitted:
                raise RuntimeError("another verdict")

    return Case(calls, lambda: calls(1), place.forget)


def request(*headers: tuple[str, str], method: str = "GET", offered: tuple[str, ...] = ()) -> Request:
    pairs = [*WIRE, *((name.lower().encode(), value.encode()) for name, value in headers)]
    path, scheme = ("/live", "wss") if method == "WEBSOCKET" else ("/me", "https")
    return Request(method, path, pairs, ("127.0.0.1", 1), scheme, subprotocols=offered)


def bearer(place: Place) -> tuple[str, Iterator[Request]]:
    """The same request again and again, each time as new bytes: as those with proofs are."""
    token = place.sessions.start(org="org_1", subject="cons_1").access_token
    place.sessions.authenticate(token)  # it is seen in use
    return token, cycle([request(("Authorization", f"Bearer {token}")) for _ in range(TEXTS)])


def by_bearer(beside: Callable[[], object] | None = None) -> Case:
    place = Place()
    return asking(place, bearer(place)[1], beside=beside)


def beside_a_signature() -> Case:
    """Those of the proofs, one after the other: over and over the same one is cheaper."""
    key = new_signing_key("ES256", token_bytes)
    signed = [(message, key.sign(message)) for message in (b"%0400d" % number for number in range(TEXTS))]
    ahead, check = cycle(signed), key.verification.check
    return by_bearer(lambda: check(*next(ahead)))


@cache
def proved() -> tuple[Place, list[tuple[str, str]]]:
    place, key = Place(), ProofKey(lambda: NOW)
    pair = place.sessions.start(org="org_1", subject="cons_1", proof=key.request("POST", URL))
    token = pair.access_token
    place.sessions.authenticate(token, proof=key.request("GET", URL, token=token, nonce=pair.dpop_nonce))
    proofs = [key.proof("GET", URL, token=token, nonce=pair.dpop_nonce) for _ in range(TEXTS)]
    return place, [(token, proof) for proof in proofs]


def by_proof() -> Case:
    place, texts = proved()
    return asking(
        place, cycle([request(("Authorization", f"DPoP {token}"), ("DPoP", proof)) for token, proof in texts])
    )


def by_a_used_proof() -> Case:
    place, texts = proved.__wrapped__()  # one in which nobody else forgets
    token, proof = texts[0]
    used = request(("Authorization", f"DPoP {token}"), ("DPoP", proof))
    case = asking(place, cycle([used]), admitted=False)

    def use() -> None:
        place.forget()
        copy_context().run(place.check, used)

    use()
    return case._replace(settle=use)


def by_junk() -> Case:
    place, texts = proved()
    token, proof = texts[0]
    head = proof.partition(".")[0]
    junk = request(("Authorization", f"DPoP {token}"), ("DPoP", f"{head}.{'A' * 300}.x"))
    return asking(place, cycle([junk]), admitted=False)


def by_another_key() -> Case:
    place, texts = proved()
    token = texts[0][0]
    other = ProofKey(lambda: NOW).proof("GET", URL, token=token)
    return asking(place, cycle([request(("Authorization", f"DPoP {token}"), ("DPoP", other))]), admitted=False)


def by_cookie() -> Case:
    place = Place("cookie")
    pair = place.sessions.start(org="org_1", subject="cons_1")
    jar = "" if pair.bind is None else pair.bind.header().partition(";")[0]
    headers = ("Authorization", f"Bearer {pair.access_token}"), ("Cookie", jar)
    place.sessions.authenticate(pair.access_token, proof=request(*headers))
    return asking(place, cycle([request(*headers)]))


def by_ticket() -> Case:
    place = Place()
    me = place.sessions.authenticate(bearer(place)[0])
    with acting_as(me):
        tickets = [place.sessions.ticket(path="/live") for _ in range(TEXTS)]
    offers = [request(method="WEBSOCKET", offered=("bartizan", ticket)) for ticket in tickets]
    return asking(place, cycle(offers))


def bound_entries() -> dict[str, Entry]:
    """The rows, after those of sessions."""
    return {
        BEARER: Entry(by_bearer, EMPTY),
        SIGNED: Entry(beside_a_signature, EMPTY),
        "bound to a key, over Bearer and a signature": Entry(by_proof, SIGNED, (Bound(6),)),
        "bound to a key, junk for a proof": Entry(by_junk, BEARER, (Bound(6),)),
        "bound to a key, a proof that was used": Entry(by_a_used_proof, BEARER),
        "bound to a key, the proof of another": Entry(by_another_key, BEARER),
        "bound to a cookie, over Bearer": Entry(by_cookie, BEARER),
        "websocket by a ticket": Entry(by_ticket, EMPTY),
    }
