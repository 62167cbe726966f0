"""Fixtures for pytest: `pytest_plugins = ["bartizan.testing.plugin"]` in the `conftest.py` of an application."""

import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest

from bartizan.testing.leaks import OrgLeaks, Seeded
from bartizan.webhooks.signer import SignedRequest
from bartizan.webhooks.verifier import WebhookVerifier


@pytest.fixture
def webhook_request() -> Callable[..., SignedRequest]:
    """`webhook_request(hooks, body, type=…, id=…, target=…)`: a message as its sender would send it now."""

    def made(hooks: WebhookVerifier, body: Any, **more: str) -> SignedRequest:
        return hooks.test_request(body, **more)

    return made


# --- pytest --org-leaks module:name ---


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--org-leaks module:name` adds a test for every endpoint and query of that `OrgLeaks`."""
    group = parser.getgroup("bartizan")
    group.addoption("--org-leaks", metavar="MODULE:NAME", help="run what this OrgLeaks names under two organizations")


class OrgLeakFound(Exception):  # noqa: N818 - named after the finding
    """A probe found something; its text is the report."""


class OrgLeakItem(pytest.Item):
    """One endpoint or query, run under both organizations."""

    def __init__(self, *, probe: OrgLeaks, where: str, seeded: Callable[[], Mapping[str, Seeded]], **more: Any) -> None:
        super().__init__(**more)
        self._probe = probe
        self._where = where
        self._seeded = seeded

    def runtest(self) -> None:
        """Raise with every leak that there is."""
        leaks = self._probe.run(self._where, self._seeded())
        if leaks:
            raise OrgLeakFound("\n".join(f"LEAK {leak.where}: {leak.how}" for leak in leaks))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report alone, where it is one."""
        if isinstance(excinfo.value, OrgLeakFound):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """What stands before a failure."""
        return self.path, None, f"org-leaks: {self._where}"


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """One item more for each probe."""
    named = config.getoption("--org-leaks")
    if not named:
        return
    module, _, name = str(named).partition(":")
    probe = getattr(pkgutil.resolve_name(module), name, None)
    if not isinstance(probe, OrgLeaks):
        raise pytest.UsageError("--org-leaks names an OrgLeaks: module:name")
    seeded = cache(probe.seeded)
    for where in probe.probes():
        item = OrgLeakItem.from_parent(session, name=f"org-leaks {where}", probe=probe, where=where, seeded=seeded)
        items.append(item)
