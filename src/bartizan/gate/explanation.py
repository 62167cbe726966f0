"""Why a request is admitted or refused, place by place, and the request that is asked about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol
from urllib.parse import unquote_to_bytes

from bartizan.core.passage import Rule
from bartizan.core.request import Request
from bartizan.errors import Misuse

PLACES: Final = ("target", "rule", "preflight", "presented", "credential", "requirement")
Outcome = Literal["passed", "refused", "would write", "not asked", "not reached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one place of the gate said: `reason` is why, where it refused; `note` is for a reader."""

    place: str
    outcome: Outcome
    reason: str | None = None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.place:<12} {self.outcome:<12} {': '.join(filter(None, (self.reason, self.note)))}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why: the rule that decides (None where no rule does), and a step for each place, in the gate's order.

    `admitted` is None where only a write, or a function of the application's that was not asked, could tell. `status`
    is a refusal's. No credential is in it; it is for developers all the same.
    """

    rule: Rule | None
    steps: tuple[Step, ...]
    admitted: bool | None
    status: int
    reason: str

    def __str__(self) -> str:
        end = {True: "admitted", False: f"refused with {self.status}", None: "undecided"}[self.admitted]
        return "\n".join([*map(str, self.steps), f"{end} ({self.reason})"])


class Explains(Protocol):
    """What runs the gate's stages for one question."""

    async def explained(self, request: Request, /) -> Explanation:
        """Why this request would be admitted or refused."""


def request_for(
    method: str, target: str, headers: Mapping[str, str] | Iterable[tuple[str, str]], client: str | None
) -> Request:
    """The request that a method, a target as it stands on the wire, and headers make."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    path, _, query = target.partition("?")
    try:
        raw = path.encode("ascii")
        decoded = unquote_to_bytes(raw).decode("utf-8", "replace")
        found = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        rest = query.encode("ascii")
    except (UnicodeEncodeError, ValueError, AttributeError):
        raise Misuse("explain takes a method, a target in ASCII as it is sent, and headers as pairs of text") from None
    scheme = "wss" if method == "WEBSOCKET" else "https"
    peer = None if client is None else (client, 1)
    lines = [value.decode("latin-1") for name, value in found if name == b"sec-websocket-protocol"]
    offered = [text.strip() for line in lines for text in line.split(",")]
    return Request(method, decoded, found, peer, scheme, query=rest, raw_path=raw, subprotocols=offered)
