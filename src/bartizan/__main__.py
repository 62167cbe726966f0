"""`python -m bartizan`, and the name of a command."""

import sys

from bartizan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
