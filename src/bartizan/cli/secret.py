"""`python -m bartizan secret` prints a fresh root secret."""

import argparse
import sys
from collections.abc import Sequence

from bartizan.core.ring import new_root


def main(arguments: Sequence[str]) -> int:
    """One root on standard output."""
    argparse.ArgumentParser(prog="python -m bartizan secret", description=__doc__).parse_args(arguments)
    sys.stdout.write(new_root() + "\n")
    return 0
