"""`python -m bartizan routes` lists every route of an application with the rule that decides over it."""

import argparse
import sys
from collections.abc import Sequence

from bartizan.cli.loading import loaded
from bartizan.integrations.application import table_of


def main(arguments: Sequence[str]) -> int:
    """Print the table, and to standard error what has no counterpart; with `--check` that is exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m bartizan routes",
        description="Every route of an application, with the rule that decides over it.",
    )
    parser.add_argument(
        "--app", required=True, metavar="pkg.module:app", help="where the application is, its gate installed"
    )
    parser.add_argument("--check", action="store_true", help="fail where a route has no rule, or a rule no route")
    chosen = parser.parse_args(arguments)
    table = table_of(loaded(chosen.app))
    sys.stdout.write(str(table))
    for text in table.unnamed:
        sys.stderr.write(f"no rule names {text}\n")
    for text in table.unmet:
        sys.stderr.write(f"no route meets the rule of {text}\n")
    return 1 if chosen.check and (table.unnamed or table.unmet) else 0
