"""What every test has in common."""

import contextlib
import os

import pytest

os.environ |= {  # what the examples that receive webhooks are deployed with
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "STRIPE_SECRET": "whsec_a_secret_of_the_dashboard",
    "GITHUB_WEBHOOK_SECRET": "It's a Secret to Everybody",
}

with contextlib.suppress(ImportError):  # the sessions `docs` and `minimal` install nothing that they do not use
    from hypothesis import settings

    settings.register_profile("bartizan", deadline=None, print_blob=True)  # a slow machine is no failure
    settings.load_profile("bartizan")


@pytest.fixture(autouse=True)
def no_gate_ran_yet() -> None:
    """A test that asks a gate itself, without an adapter, leaves the verdict's callers behind."""
    with contextlib.suppress(ImportError):  # a session may have no more than it needs
        from bartizan.core.principal import NOWHERE, current_unit

        current_unit.set(NOWHERE)
