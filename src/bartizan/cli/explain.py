"""`python -m bartizan explain` says why a gate would admit or refuse a request, and changes nothing."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence

from bartizan.cli.loading import loaded
from bartizan.errors import Misuse
from bartizan.gate.gate import Gate


def main(arguments: Sequence[str]) -> int:
    """Print the explanation; 0 whatever it says, since it was asked and not enforced."""
    parser = argparse.ArgumentParser(
        prog="python -m bartizan explain",
        description="Why a gate would admit or refuse a request. Nothing is written, fetched or told.",
    )
    parser.add_argument("request", help="'GET /orders/7?limit=1': method and target as they are sent")
    parser.add_argument("--app", required=True, metavar="pkg.module:gate", help="where the gate is")
    parser.add_argument(
        "--headers", metavar="FILE", help="lines of `Name: value`; - is standard input, where no history keeps them"
    )
    parser.add_argument("--client", metavar="ADDRESS", help="the address that the request comes from")
    parser.add_argument("--callbacks", action="store_true", help="ask the application's own functions too")
    chosen = parser.parse_args(arguments)
    method, space, target = chosen.request.partition(" ")
    if not space:
        raise Misuse("the request is a method, a space and a target: 'GET /orders/7'")
    gate = loaded(chosen.app)
    if not isinstance(gate, Gate):
        raise Misuse("--app names no gate: give it what security.gate([...]) returned")
    headers: Iterable[tuple[str, str]] = ()
    if chosen.headers == "-":
        headers = list(_pairs(sys.stdin))
    elif chosen.headers is not None:
        with open(chosen.headers, encoding="utf-8") as lines:  # noqa: PTH123 - no I/O library for one line
            headers = list(_pairs(lines))
    told = asyncio.run(gate.explain(method, target, headers, callbacks=chosen.callbacks, client=chosen.client))
    sys.stdout.write(f"{method} {target.partition('?')[0]}\n{told}\n")
    return 0


def _pairs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.strip().partition(":")
        if colon:
            yield name.strip(), value.strip()
        elif name:
            raise Misuse("headers are lines of `Name: value`")
