"""Builds the docs site: `python docs/website/website.py FOLDER` writes it to FOLDER/site, with warnings as errors.

The pages are those of docs/, the changelog, and one for each error code. Nothing is written into the repository.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from re import compile as regex
from typing import Any

from refusals import codes, entries, pages

DOCS = Path(__file__).parents[1]
CHANGES = DOCS.parent / "CHANGELOG.md"
STYLE = Path(__file__).parent / "site.css"
SCRIPT = Path(__file__).parent / "search.js"

# What a newcomer reads in this order. A page that is not named here stands under "More".
SECTIONS: dict[str, list[str]] = {
    "Begin here": ["tutorial", "gate", "keys", "testing"],
    "Who is let in": ["isolation", "signin", "sessions", "tokens", "issuers", "doors"],
    "Messages": ["webhooks"],
    "Running it": ["operations", "adopting", "routes", "redaction"],
    "When it says no": ["explain", "errors"],
}
LAST = ["Running it", "When it says no"]


def navigation(names: list[str]) -> list[dict[str, Any]]:
    """Every page, in the order in which it is shown."""
    named = {name for section in SECTIONS.values() for name in section}
    more = [name for name in names if name not in named and name != "index"]
    found: dict[str, list[Any]] = {
        title: [f"{name}.md" for name in section if name in names]
        for title, section in SECTIONS.items()
        if title not in LAST
    }
    if more:
        found["More"] = [f"{name}.md" for name in more]
    found |= {title: [f"{name}.md" for name in SECTIONS[title] if name in names] for title in LAST}
    by_code = [{code: f"refusals/{code}.md"} for code in sorted(codes())]
    found["When it says no"].append({"Refusals": [{"All of them": "refusals/index.md"}, *by_code]})
    return [{"Overview": "index.md"}, *({title: shown} for title, shown in found.items()), {"Changes": "changes.md"}]


def configuration(names: list[str]) -> dict[str, Any]:
    """What mkdocs.yml says; JSON is YAML."""
    return {
        "site_name": "Bartizan",
        "site_description": "The security architecture of a multi-tenant Python web service, as one library.",
        "docs_dir": "pages",
        "site_dir": "site",
        "use_directory_urls": False,  # it can be read from a disk
        "theme": {"name": "readthedocs", "highlightjs": False, "navigation_depth": 3, "titles_only": True},
        "extra_css": [STYLE.name],
        "extra_javascript": [SCRIPT.name],
        "markdown_extensions": [
            "sane_lists",
            "attr_list",
            {"codehilite": {"guess_lang": False}},
            {"toc": {"permalink": True}},
        ],
        "validation": {
            "nav": {"omitted_files": "warn", "not_found": "warn", "absolute_links": "warn"},
            "links": {
                "not_found": "warn",
                "anchors": "warn",
                "absolute_links": "warn",
                "unrecognized_links": "warn",
            },
        },
        "nav": navigation(names),
    }


def collected() -> Mapping[str, str]:
    """Every page of the site by its path."""
    found = {path.name: path.read_text("utf-8") for path in sorted(DOCS.glob("*.md"))}
    found["changes.md"] = CHANGES.read_text("utf-8").replace("](docs/", "](")
    found = {name: _tables(text) for name, text in found.items()}
    return found | {f"refusals/{name}.md": text for name, text in pages(entries()).items()}


def _tables(text: str) -> str:
    """The page with its tables as Python-Markdown reads them: a bar within code is a bar, and no backslash."""
    code = regex(r"`[^`]*`")
    lines = (
        code.sub(lambda span: span[0].replace("\\|", "|"), line) if line.startswith("|") else line
        for line in text.split("\n")
    )
    return "\n".join(lines)


def build(folder: Path) -> Path:
    """The site, built anew."""
    shutil.rmtree(folder, ignore_errors=True)
    written = folder / "pages"
    (written / "refusals").mkdir(parents=True)
    found = collected()
    for name, text in found.items():
        (written / name).write_text(text, "utf-8")
    names = [name.removesuffix(".md") for name in found if "/" not in name and name != "changes.md"]
    (folder / "mkdocs.yml").write_text(json.dumps(configuration(names), indent=1), "utf-8")
    (written / STYLE.name).write_text(f"{_highlighting()}\n{STYLE.read_text('utf-8')}", "utf-8")
    shutil.copy(SCRIPT, written / SCRIPT.name)
    # --quiet would lose the warnings before they are counted.
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    if subprocess.run([*mkdocs, "--config-file", str(folder / "mkdocs.yml")], check=False).returncode:
        raise SystemExit("the site was not built: what mkdocs warns of above stands in docs/, or in docs/website/")
    return folder / "site"


def _highlighting() -> str:
    formatters = import_module("pygments.formatters")  # it is where a site is built, and not where pages are tested
    styles: str = formatters.HtmlFormatter(style="default").get_style_defs(".codehilite")
    return styles


if __name__ == "__main__":
    print(build(Path(sys.argv[1])) / "index.html")
