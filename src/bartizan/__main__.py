"""`python -m bartizan secret` prints a fresh root secret."""

import sys

from bartizan.core.ring import new_root

if __name__ == "__main__":
    if sys.argv[1:] != ["secret"]:
        sys.exit("usage: python -m bartizan secret")
    sys.stdout.write(new_root() + "\n")
