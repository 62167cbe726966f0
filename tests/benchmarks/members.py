"""What a member's token of an outside issuer costs: one that is remembered, and what is refused before its signature."""

import json
from collections.abc import Callable
from typing import Any

from outside import Provider

from bartizan.core.drive import run
from bartizan.core.ports import SteppedClock
from bartizan.credentials.issuer_keys import Issuers, Outside
from bartizan.credentials.issuers import Issuer
from bartizan.stores.waits import BlockingWaits
from bartizan.testing import FakeClock, Kit
from benchmarks.cases import EMPTY, Bound, Case, Entry
from benchmarks.tokens import calling, encoded, refusing

PROVIDERS = [Provider(f"https://login.{name}.example") for name in ("one", "two", "three")]
NOW = 1_700_000_000


def members(count: int) -> Issuers:
    issuers = [
        Issuer(each.url, organizations={"org_1"}, audience="dashboard", jwks=each.document)
        for each in PROVIDERS[:count]
    ]
    journal, clock = Kit().security._shared.journal, SteppedClock(FakeClock(now=NOW))
    return Outside(issuers, environment="live", clock=clock, journal=journal, wake=lambda: None).form(
        None, BlockingWaits()
    )


def remembered(count: int) -> Callable[[], Case]:
    def make() -> Case:
        verify, token = members(count).authenticate, PROVIDERS[0].token().encode()
        first = run(verify(token))

        def same() -> None:
            if run(verify(token)) is not first:
                raise RuntimeError("it is not remembered")

        return calling(lambda: run(verify(token)), same)

    return make


def junk(count: int, text_of: Callable[[str], str]) -> Callable[[], Case]:
    def make() -> Case:
        service, token = members(count), text_of(PROVIDERS[0].token()).encode()

        def ask() -> object:
            service.named(token)  # as the gate does, where there are tokens of others too
            return run(service.authenticate(token))

        return refusing(ask)

    return make


def unknown(header: dict[str, Any]) -> Callable[[str], str]:
    return lambda t: encoded(header) + t[t.index(".") :]


STRANGE = {"alg": "EdDSA", "kid": "x" * 43, "typ": "at+jwt"}


def large(**claims: Any) -> Callable[[str], str]:
    """A header that nobody knows, and 8 KiB of brackets, which are dear to read."""
    filled = json.dumps({**claims, "x": [{}] * 1480}, separators=(",", ":"))
    return lambda t: f"{encoded(STRANGE)}.{encoded(json.loads(filled))[:7900]}.{t.rpartition('.')[2]}"


def member_entries() -> dict[str, Entry]:
    """The rows, after those of `tokens`."""
    rows: dict[str, Entry] = {}
    for count, who in ((1, "one issuer"), (3, "three issuers")):
        rows[f"member verified, remembered, {who}"] = Entry(remembered(count), EMPTY, (Bound(1.5),))
        for name, text_of in {
            "unknown kid": unknown(STRANGE),
            "alg none": unknown({**STRANGE, "alg": "none"}),
            "a header of 500 characters": unknown({**STRANGE, "x": ["x"] * 55}),
            "objects in the header": unknown({str(n): {} for n in range(38)}),
            "no base64": lambda t: t[:200] + "?" + t[201:],
            "two segments": lambda t: t.rpartition(".")[0],
            "8 KiB": large(iss=PROVIDERS[0].url),
            "8 KiB of nobody we know": large(iss="https://login.nobody.example"),
        }.items():
            # A junk token may cost 12 B and one signature check. Where an `iss` is looked for in 8 KiB, nothing is checked.
            bound = Bound(1, "times", "token floor, EdDSA") if count > 1 and "8 KiB" in name else Bound(12)
            rows[f"member refused: {name}, {who}"] = Entry(junk(count, text_of), EMPTY, (bound,))
    return rows
