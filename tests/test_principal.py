import copy
import dataclasses
import pickle
from contextvars import Context
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from bartizan import JobPrincipal, Misuse, PublishablePrincipal, SecretPrincipal, current_principal
from bartizan.core.principal import NOBODY, Presence, current_unit
from bartizan.errors import Unauthenticated, WrongCredential
from bartizan.testing.kit import Kit, a_secret_key, acting_as

KINDS: tuple[type[Any], ...] = (SecretPrincipal, PublishablePrincipal, JobPrincipal)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_verifier_makes_one(kind: type[Any]) -> None:
    for arguments in ((), (1,), ("org_1",)):
        with pytest.raises((Misuse, TypeError)):
            kind(*arguments)
    with pytest.raises((Misuse, TypeError)):
        kind(org="org_1", environment="live", scopes=frozenset(), expires_at=None, actor="x", key_id="y")


def test_one_that_exists_is_neither_changed_nor_copied() -> None:
    principal = a_secret_key(org="org_1", scopes={"a:b"})
    with pytest.raises(Misuse):
        principal.org = "org_2"
    with pytest.raises(Misuse):
        del principal.org
    with pytest.raises(Misuse):
        principal.other = 1
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(Misuse):
            act(principal)
    with pytest.raises(TypeError):
        dataclasses.replace(principal, org="org_2")  # type: ignore[type-var]
    assert repr(principal) == f"<SecretPrincipal {principal.actor} of org_1>"


def test_current_principal_by_kind() -> None:
    secret = a_secret_key()
    kit = Kit()
    page = kit.security.blocking.keys.authenticate(kit.key(org="o", kind="publishable").key)
    with acting_as(secret):
        assert current_principal() is secret
        assert current_principal(SecretPrincipal) is secret
        assert current_principal(PublishablePrincipal, optional=True) is None
        with pytest.raises(WrongCredential):
            current_principal(PublishablePrincipal)
    token = current_unit.set(Presence((secret, page)))
    assert current_principal() is secret
    assert current_principal(PublishablePrincipal) is page
    current_unit.reset(token)


def test_nobody_and_no_gate_are_different() -> None:
    with pytest.raises(Misuse, match="no gate ran"):
        Context().run(current_principal)
    token = current_unit.set(Presence(NOBODY))
    with pytest.raises(Unauthenticated):
        current_principal()
    assert current_principal(SecretPrincipal, optional=True) is None
    current_unit.reset(token)


@pytest.mark.parametrize("kind", KINDS)
def test_a_route_that_would_read_a_principal_from_the_request_fails_when_declared(kind: type[Any]) -> None:
    app = FastAPI()

    def bare(principal: kind) -> None: ...  # type: ignore[valid-type]

    def listed(principal: list[kind]) -> None: ...  # type: ignore[valid-type]

    def depending(_: Annotated[None, Depends(bare)]) -> None: ...

    def optional(principal: kind | None = None) -> None: ...  # type: ignore[valid-type]

    for endpoint in (bare, depending, listed, optional):
        with pytest.raises(Misuse, match="never comes from a request"):
            app.post("/x")(endpoint)
    with pytest.raises(Misuse):

        class Body(BaseModel):
            principal: kind  # type: ignore[valid-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_principal_as_a_dependency_itself_fails_when_declared(kind: type[Any]) -> None:
    app = FastAPI()

    def depending(principal: Annotated[kind, Depends()]) -> None: ...  # type: ignore[valid-type]

    with pytest.raises(Misuse):
        app.get("/x")(depending)
