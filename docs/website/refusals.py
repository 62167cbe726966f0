"""The page of each error code, made from the tables in the folder `reasons` beside this file.

A table of TOML is the entry of one reason: `errors`, the codes that come with it; `means`, one sentence; and `causes`,
the most likely one first. A cause says `why`, what confirms it, and the `mend`. What confirms is one of

- `explain`: one or more lines that `gate.explain` prints, with `…` for what differs, the last of them this reason's;
- `event`: the name of an event;
- `call`: something of ours to call, or a command of `python -m bartizan`;
- `look`: a sentence, where nothing of ours tells.

`says` is what the call says; `shows` is a sentence about what to see in any of them. `only` names the codes of a cause
that belongs to some of the codes alone.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from inspect import getdoc
from pathlib import Path
from re import compile as regex, escape
from typing import Any, cast, get_args

from bartizan.errors import BartizanError, Reason
from bartizan.gate.explanation import PLACES, Explanation, Outcome, Step

FOLDER = Path(__file__).parent / "reasons"
WIDTH = 12  # of a place and of an outcome in a printed step
CONFIRMS = ("explain", "event", "call", "look")
REFUSALS = ("request.refused", "webhook.refused", "stream.ended")  # events of whatever was refused
UNSEEN = {
    "bartizan_error": "The root of all: nothing of ours raises it, and no client sees it.",
    "misuse": "A bug of the program: the gate does not answer it, so that it ends in the log and in a plain 500.",
    "would_write": "No client sees it.",
    "not_asked": "No client sees it.",
}
_ENDS = ("refused", "would write", "not asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One way to come to a reason."""

    why: str
    mend: str
    explain: str | None = None
    event: str | None = None
    call: str | None = None
    look: str | None = None
    says: str | None = None
    shows: str | None = None
    only: tuple[str, ...] = ()

    @property
    def confirm(self) -> tuple[str, str]:
        """How it is confirmed, and by what."""
        told = [(way, text) for way in CONFIRMS if (text := getattr(self, way)) is not None]
        if len(told) != 1:
            raise ValueError(f"one of {', '.join(CONFIRMS)} confirms a cause: {self.why}")
        return told[0]

    @property
    def lines(self) -> list[str]:
        """The lines of an explanation that confirm it."""
        return (self.explain or "").splitlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is written of one reason."""

    reason: str
    errors: tuple[str, ...]
    means: str
    causes: tuple[Cause, ...]
    file: str

    def under(self, code: str) -> list[Cause]:
        """The causes that belong to this code."""
        return [cause for cause in self.causes if not cause.only or code in cause.only]


def entries(folder: Path = FOLDER) -> dict[str, Entry]:
    """What is written, by reason."""
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.toml")):
        for reason, table in tomllib.loads(path.read_text("utf-8")).items():
            if reason in found:
                raise ValueError(f"{reason} is in {found[reason].file} and in {path.name}")
            causes = tuple(_cause(reason, each) for each in table.pop("causes", []))
            errors = tuple(table.pop("errors"))
            found[reason] = Entry(reason=reason, errors=errors, causes=causes, file=path.name, **table)
    return {reason: found[reason] for reason in [*filter(found.__contains__, Reason), *found]}


def _cause(reason: str, table: dict[str, Any]) -> Cause:
    unknown = table.keys() - {field.name for field in fields(Cause)}
    if unknown:
        raise ValueError(f"{reason}: a cause has no {', '.join(sorted(unknown))}")
    return Cause(**{**table, "only": tuple(table.get("only", ()))})


def codes() -> dict[str, type[BartizanError]]:
    """Every error, by its code."""

    def below(kind: type[BartizanError]) -> Iterator[type[BartizanError]]:
        yield kind
        for child in kind.__subclasses__():
            if child.__module__ == BartizanError.__module__:  # an application's own are its own
                yield from below(child)

    return {kind.code: kind for kind in below(BartizanError)}


def step_of(line: str) -> Step:
    """The step that a printed line shows; `ValueError` for one that no explanation prints."""
    place, outcome, rest = line[:WIDTH].rstrip(), line[WIDTH + 1 : 2 * WIDTH + 1].rstrip(), line[2 * WIDTH + 2 :]
    reason, note = None, rest
    if outcome in _ENDS:
        reason, _, note = rest.partition(": ")
        Reason(reason)
    if place not in PLACES or outcome not in get_args(Outcome):
        raise ValueError(line)
    step = Step(place=place, outcome=cast("Outcome", outcome), reason=reason, note=note)
    if str(step) != line:
        raise ValueError(line)
    return step


def shown_by(told: Explanation, cause: Cause) -> bool:
    """Whether an explanation prints what confirms a cause; `…` stands for anything, and a reason may have a note."""
    shapes = [regex(".*".join(map(escape, line.split("…"))) + "(: .*)?") for line in cause.lines]
    return bool(shapes) and all(any(shape.fullmatch(str(step)) for step in told.steps) for shape in shapes)


def pages(written: Mapping[str, Entry]) -> dict[str, str]:
    """The Markdown of every page by its name: `index`, and each code."""
    return {"index": _index(written), **{code: _page(kind, written) for code, kind in codes().items()}}


def _page(kind: type[BartizanError], written: Mapping[str, Entry]) -> str:
    problem = kind.__new__(kind).problem  # it is all of the class
    ours = [entry for entry in written.values() if kind.code in entry.errors]
    lines = [
        f"# {problem['type']}",
        "",
        f"`{kind.__module__}.{kind.__name__}`, status **{kind.status}**. {getdoc(kind)}".replace("\n", " "),
        "",
        UNSEEN.get(kind.code, "This is all that the client sees. The gate adds `instance`, the id of the event."),
        "",
        "```json",
        json.dumps(problem, indent=2),
        "```",
        "",
    ]
    if ours:
        lines += [
            "Why it was refused is in the event, as `reason`.",
            "",
            "| reason | what it means |",
            "| --- | --- |",
            *(f"| [`{entry.reason}`](#{entry.reason}) | {entry.means.replace('|', chr(92) + '|')} |" for entry in ours),
            "",
        ]
    else:
        lines += ["No reason of ours comes with it.", ""]
    for entry in ours:
        lines += _section(entry, kind.code)
    return "\n".join(lines)


def _section(entry: Entry, code: str) -> Iterator[str]:
    # attr_list names the anchor, so that a link to it survives every change of words.
    yield from (f"## {entry.reason} {{#{entry.reason}}}", "", entry.means, "")
    others = [f"[`{other}`]({other}.md#{entry.reason})" for other in entry.errors if other != code]
    if others:
        yield from (f"It also comes with {' and '.join(others)}.", "")
    for place, cause in enumerate(entry.under(code), 1):
        yield from (f"### {place}. {cause.why}", "", *_confirmed(entry, cause), "", f"**Mend.** {cause.mend}", "")


def _confirmed(entry: Entry, cause: Cause) -> Iterator[str]:
    way, text = cause.confirm
    shows = cause.shows or ""
    if way == "explain":
        yield from (
            "**Confirm.** [`gate.explain`](../explain.md):",
            "",
            "```text",
            *cause.lines,
            "```",
            "",
            shows,
        )
    elif way == "event":
        reason = f", with the reason `{entry.reason}`" if text in REFUSALS else ""
        yield f"**Confirm.** The event `{text}`{reason}. {shows}"
    elif way == "call":
        says = f" says “{cause.says.removesuffix('.')}”" if cause.says else ""
        yield f"**Confirm.** `{text}`{says}{':' if shows else '.'} {shows}"
    else:
        yield f"**Confirm.** {text} {shows}"


def _index(written: Mapping[str, Entry]) -> str:
    lines = [
        "# Refusals",
        "",
        "A refusal is a problem document (RFC 9457). Its `type` is `urn:bartizan:problem:<code>`, and each code has",
        "a page that is headed by this text, so that a search finds it.",
        "Reasons share codes, since a client must not see which one it was.",
        "",
        "1. Take the id out of `instance`, and look for the event with it in the log of `bartizan.audit`.",
        "2. Its `reason` names a section below. The likeliest cause stands first.",
        "3. Without the event, ask [`gate.explain`](../explain.md) about the same request.",
        "",
        "## By reason",
        "",
        "| reason | code | what it means |",
        "| --- | --- | --- |",
    ]
    for entry in sorted(written.values(), key=lambda entry: entry.reason):
        if entry.errors:
            linked = ", ".join(f"[`{code}`]({code}.md#{entry.reason})" for code in entry.errors)
            lines.append(f"| `{entry.reason}` | {linked} | {entry.means.replace('|', chr(92) + '|')} |")
    lines += ["", "## By code", "", "| code | status | title |", "| --- | --- | --- |"]
    lines += [f"| [`{code}`]({code}.md) | {kind.status} | {kind.title} |" for code, kind in sorted(codes().items())]
    alone = [entry for entry in written.values() if not entry.errors]
    if alone:
        lines += [
            "",
            "## Reasons that no client meets",
            "",
            "They say why something was done, or that nothing was refused.",
            "",
        ]
    for entry in alone:
        lines += [f"### {entry.reason} {{#{entry.reason}}}", "", entry.means, ""]
        for cause in entry.causes:
            lines += [f"{cause.why}. The event is `{cause.event}`. {cause.mend}", ""]
    return "\n".join([*lines, ""])
