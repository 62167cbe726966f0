"""How a gate is made over the services of one `Bartizan`: async, blocking, and for explanations."""

from collections.abc import Callable, Collection, Sequence

from bartizan.core.passage import Rule
from bartizan.core.principal import Environment
from bartizan.credentials.issuer_stage import CHALLENGES as OF_MEMBERS
from bartizan.credentials.key_format import checked_environment
from bartizan.credentials.key_stage import CHALLENGES as OF_KEYS
from bartizan.errors import Misuse
from bartizan.gate.doors import Authenticator, Door
from bartizan.gate.gate import Gate
from bartizan.gate.problems import Problems
from bartizan.gate.rehearsal import Rehearsal, ShutDoor
from bartizan.gate.rules import compiled
from bartizan.services import Shared, Side
from bartizan.sessions.stage import BOUND, CHALLENGES as OF_CONSUMERS

CHALLENGES = {**OF_KEYS, **OF_CONSUMERS, **OF_MEMBERS}


def gate_over(
    shared: Shared,
    rules: Sequence[Rule],
    own: Sequence[Authenticator],
    environments: Collection[Environment] | None,
    problems: Problems | None,
) -> Gate:
    """A gate and, at their first use, its blocking twin and what explains it, over the same table."""
    served = frozenset({shared.environment} if environments is None else map(checked_environment, environments))
    if not served:
        raise Misuse("environments is not empty")
    ours, doors = shared.side.authenticators(served), shared.side.doors(own)
    bound = shared.issuing is not None and shared.issuing.policy.binding == "dpop"
    challenges = {**CHALLENGES, **BOUND} if bound else CHALLENGES
    schemes = {kind: challenges[kind] for authenticator in ours for kind in authenticator.kinds}
    table = compiled(
        rules, {**schemes, **{door.name: door.challenge for door in doors}}, shared.home,
        login=shared.return_paths is not None,
    )  # fmt: skip

    def made(side: Side, twin: Callable[[], Gate] | None) -> Gate:
        return Gate(
            table, side.authenticators(served), side.doors(own), clock=shared.clock, journal=shared.journal,
            waits=side.waits, home=shared.home, on_decision=shared.on_decision, problems=problems, twin=twin,
            rehearse=rehearse, every=shared.staleness, ambient=side.ambient(served), login=shared.return_paths,
        )  # fmt: skip

    def rehearse(callbacks: bool) -> Rehearsal:
        look, store, muted = shared.looking()
        return Rehearsal(
            table, look.authenticators(served), look.doors(own, Door if callbacks else ShutDoor), clock=shared.clock,
            journal=muted, waits=look.waits, home=shared.home, callbacks=callbacks, store=store,
            ambient=look.ambient(served),
        )  # fmt: skip

    return made(shared.side, lambda: made(shared.blocking_side, None))
