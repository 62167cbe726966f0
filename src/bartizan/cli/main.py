"""The commands, each in a module of its own."""

import argparse
import sys
from collections.abc import Sequence

from bartizan.cli import explain, routes, secret, would_refuse
from bartizan.errors import BartizanError

COMMANDS = {
    "secret": (secret.main, "print a fresh root secret"),
    "explain": (explain.main, "say why a gate would admit or refuse a request"),
    "routes": (routes.main, "list every route of an application with the rule that decides over it"),
    "would-refuse": (would_refuse.main, "sum up what rules that only report would have refused, from log lines"),
}
WRONG = 2  # the exit code of a command that could not begin


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bartizan", description="Security of a Python web service.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (_, about) in COMMANDS.items():
        commands.add_parser(name, help=about, add_help=False)
    chosen, rest = parser.parse_known_args(arguments)
    command, _ = COMMANDS[chosen.command]
    try:
        return command(rest)
    except BartizanError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
