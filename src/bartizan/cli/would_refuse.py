"""`python -m bartizan would-refuse` sums up, by rule and reason, what rules that only report would have refused."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

EVENT = "gate.would_refuse"


def main(arguments: Sequence[str]) -> int:
    """Read log lines from standard input; 1 where there is such an event, 0 where there is none."""
    argparse.ArgumentParser(
        prog="python -m bartizan would-refuse",
        description="Reads the log lines of `bartizan.audit` from standard input. Exits with 1 if there is one.",
    ).parse_args(arguments)
    counted = summed(sys.stdin)
    for (rule, reason), times in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        sys.stdout.write(f"{times:>8}  {reason:<24} {rule}\n")
    if not counted:
        sys.stdout.write("no rule would have refused anything in these lines\n")
    return 1 if counted else 0


def summed(lines: Iterable[str]) -> Counter[tuple[str, str]]:
    """How often each rule would have refused for each reason; what a log puts before the JSON does not matter."""
    counted: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if EVENT not in line:
            continue
        try:
            event = json.loads(line[line.index("{") : line.rindex("}") + 1])
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("name") == EVENT:
            counted[str(event.get("target")), str(event.get("reason"))] += 1
    return counted
