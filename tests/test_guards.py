import asyncio
import copy
import pickle
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from servers import ask, serving, wsgi_serving

from bartizan import ConsumerPrincipal, Guard, Misuse, NotFound, OrgAccess, Rule, allow, current_principal
from bartizan.core.context import current_context
from bartizan.core.principal import Presence, Principal, current_unit
from bartizan.errors import BartizanError, MissingScope, Reason, Unauthenticated
from bartizan.integrations.fastapi import install
from bartizan.testing import Kit, acting_as
from bartizan.wsgi import GateMiddleware

READ = Guard("orders:read")


@pytest.fixture
def kit() -> Kit:
    return Kit()


def key_of(kit: Kit, *, org: str = "org_1", **more: Any) -> Principal:
    return kit.security.blocking.keys.authenticate(kit.key(org=org, **more).key, environments={"live", "test"})


def consumer_of(kit: Kit, subject: str = "anna", **more: Any) -> ConsumerPrincipal:
    """A consumer as a real gate lets them in."""
    found: list[ConsumerPrincipal] = []

    def app(_: Any, start_response: Any) -> list[bytes]:
        found.append(current_principal(ConsumerPrincipal))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    headers = kit.as_consumer(org="org_1", subject=subject, **more)
    with wsgi_serving(GateMiddleware(app, kit.security.gate([Rule("/x", allow.consumer())]))) as port:
        assert ask(port, "/x", *headers.items()).status == 200
    return found[0]


def reason_of(call: Any, *args: Any, **more: Any) -> Reason:
    with pytest.raises(BartizanError) as caught:
        call(*args, **more)
    return caught.value.reason


def test_a_guard_proves_organization_and_scope(kit: Kit) -> None:
    with acting_as(key_of(kit, scopes={"orders:read", "x:y"})):
        access = READ.require(org="org_1")
        assert (access.org, set(access.scopes), access.subject) == ("org_1", {"orders:read"}, None)
        assert READ.require(subject="anna").subject == "anna", "a key may narrow what it asks for"
        assert asyncio.run(READ()).org == "org_1"
    assert repr(READ) == "Guard('orders:read')"


def test_another_organization_is_not_found_and_never_forbidden(kit: Kit) -> None:
    """Also where the scope is missing: what one may do says nothing about what is there."""
    for scopes in ({"orders:read"}, set()):
        with acting_as(key_of(kit, scopes=scopes)):
            assert reason_of(READ.require, org="org_2") is Reason.WRONG_ORGANIZATION


def test_a_missing_scope_is_named(kit: Kit) -> None:
    with acting_as(key_of(kit, scopes={"orders:read"})), pytest.raises(MissingScope) as caught:
        Guard("orders:write", "orders:read").require()
    assert dict(caught.value.headers)["WWW-Authenticate"].endswith('scope="orders:write"')


def test_policy_error_allows_nothing(kit: Kit) -> None:
    for words in ((), ("orders:*",), ("",), ("a b",), (1,)):
        with pytest.raises(Misuse):
            Guard(*words)
    with pytest.raises(Misuse, match="no gate ran"):
        READ.require()
    token = current_unit.set(Presence())
    with pytest.raises((Misuse, Unauthenticated)):
        READ.require()
    current_unit.reset(token)


def test_scope_none_means_all(kit: Kit) -> None:
    """A job without an organization has no data of one, unless it names it; and that is an event."""
    with kit.security.job("sweep", scopes={"orders:read"}):
        with pytest.raises(Misuse, match="without an organization"):
            READ.require()
        with pytest.raises(Misuse, match="without an organization"):
            current_context()
        assert READ.require(org="org_7").org == "org_7"
    assert [(e.name, e.org, e.actor) for e in kit.events] == [("organization.named", "org_7", "job:sweep")]


def test_test_key_at_a_live_guard(kit: Kit) -> None:
    """A gate with `environments=` let it in; data are of one environment all the same."""
    live = Kit(environment="live")
    trial = live.key(org="org_1", scopes={"orders:read"}, environment="test").key
    rules = [Rule("/orders", allow.secret_key("orders:read"))]
    app = FastAPI()

    @app.get("/orders")
    async def orders(access: Annotated[OrgAccess, Depends(READ)]) -> str:
        return access.org

    install(app, live.security.gate(rules, environments={"live", "test"}))
    good = live.key(org="org_1", scopes={"orders:read"}).key
    with serving(app) as port:
        assert ask(port, "/orders", ("Authorization", f"Bearer {good}")).status == 200
        answer = ask(port, "/orders", ("Authorization", f"Bearer {trial}"))
    assert answer.status == 404
    assert live.events[-1].reason == "wrong_environment"
    principal = live.security.blocking.keys.authenticate(trial, environments={"test"})
    with acting_as(principal, of=live):
        assert reason_of(READ.require) is Reason.WRONG_ENVIRONMENT
        assert reason_of(current_context) is Reason.WRONG_ENVIRONMENT


def test_consumer_reads_another_consumer(kit: Kit) -> None:
    with acting_as(consumer_of(kit, scopes={"orders:read"}), of=kit):
        assert READ.require().subject == "anna"
        assert READ.require(subject="anna").subject == "anna"
        assert reason_of(READ.require, subject="bert") is Reason.WRONG_SUBJECT
        access = READ.require()
        access.confirm(org="org_1", subject="anna")
        for org, subject in (("org_1", "bert"), ("org_1", None), ("org_1", ""), ("org_2", "anna"), (None, "anna")):
            with pytest.raises(NotFound):
                access.confirm(org=org, subject=subject)
        with pytest.raises(Misuse, match="subject"):
            READ.filter(object())


def test_publishable_key_at_a_guard_that_writes(kit: Kit) -> None:
    """Though its row says so: what was declared when it was made may have been taken back."""
    generous = Kit(publishable_writes={"carts:write"})
    page = key_of(generous, kind="publishable", scopes={"carts:write", "orders:read"})
    with acting_as(page, of=generous):
        assert Guard("carts:write").require().org == "org_1"
    with acting_as(page, of=kit):
        assert READ.require().org == "org_1"
        assert reason_of(Guard("carts:write").require) is Reason.SCOPE_MISSING


def test_confused_deputy_service_token(kit: Kit) -> None:
    """A principal from elsewhere does not speak in this request."""
    mine, theirs = key_of(kit, scopes={"orders:read"}), key_of(kit, org="org_2", scopes={"orders:read"})
    with acting_as(mine):
        assert READ.require(mine).org == "org_1"
        with pytest.raises(Misuse, match="this very request"):
            READ.require(theirs)


def test_orgaccess_outlives_unit_of_work(kit: Kit) -> None:
    with acting_as(key_of(kit, scopes={"orders:read"})):
        access = READ.require()
        assert access.org == "org_1"
    for use in (lambda: access.org, lambda: access.scopes, lambda: access.subject, lambda: access.confirm(org="org_1")):
        with pytest.raises(Misuse, match="unit of work"):
            use()
    with acting_as(key_of(kit, scopes={"orders:read"})), pytest.raises(Misuse, match="unit of work"):
        _ = access.org
    with kit.security.job("a", org="org_1", scopes={"orders:read"}):
        outer = READ.require()
        with kit.security.job("b", org="org_1", scopes={"orders:read"}):
            with pytest.raises(Misuse, match="unit of work"):
                _ = outer.org
        assert outer.org == "org_1"


@pytest.mark.parametrize("adapter", ["asgi", "wsgi"])
def test_orgaccess_outlives_its_request(kit: Kit, adapter: str) -> None:
    """Kept by a task, a thread or a global, it is worth nothing after the answer."""
    kept: list[OrgAccess] = []
    rules = [Rule("/orders", allow.secret_key("orders:read"))]
    bearer = ("Authorization", f"Bearer {kit.key(org='org_1', scopes={'orders:read'}).key}")
    if adapter == "asgi":
        app = FastAPI()

        @app.get("/orders")
        async def orders(access: Annotated[OrgAccess, Depends(READ)]) -> str:
            kept.append(access)
            return access.org

        install(app, kit.security.gate(rules))
        with serving(app) as port:
            assert ask(port, "/orders", bearer).status == 200
    else:

        def plain(_: Any, start_response: Any) -> list[bytes]:
            kept.append(READ.require())
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [kept[-1].org.encode()]

        with wsgi_serving(GateMiddleware(plain, kit.security.gate(rules))) as port:
            assert ask(port, "/orders", bearer).body == b"org_1"
    with pytest.raises(Misuse, match="unit of work"):
        _ = kept[0].org
    assert kept[0]._unit.over


def test_only_a_guard_makes_an_orgaccess(kit: Kit) -> None:
    with pytest.raises((Misuse, TypeError)):
        OrgAccess(org="org_1")  # type: ignore[call-arg]
    with acting_as(key_of(kit, scopes={"orders:read"})):
        access = READ.require()
        for act in (copy.copy, copy.deepcopy, pickle.dumps, bool):
            with pytest.raises(Misuse):
                act(access)
        with pytest.raises(Misuse):
            access._org = "org_2"
        assert access != READ.require()
        assert len({access, READ.require()}) == 2
    assert "org_1" not in repr(access)


def test_orgaccess_from_a_body_fails_when_it_is_declared() -> None:
    app = FastAPI()

    async def orders(access: OrgAccess) -> str:
        return access.org

    with pytest.raises(Misuse, match="never comes from a request"):
        app.post("/orders")(orders)


def test_a_guard_of_a_route_is_answered_as_a_refusal(kit: Kit) -> None:
    app = FastAPI()

    @app.get("/orders/{order_id}")
    async def order(order_id: str, access: Annotated[OrgAccess, Depends(READ)]) -> str:
        access.confirm(org={"a": "org_1", "b": "org_2"}.get(order_id))
        return order_id

    install(app, kit.security.gate([Rule("/orders/{id}", allow.secret_key())]))
    reader, other = kit.as_key(org="org_1", scopes={"orders:read"}), kit.as_key(org="org_1")
    with serving(app) as port:
        assert ask(port, "/orders/a", *reader.items()).status == 200
        theirs, nobodys = ask(port, "/orders/b", *reader.items()), ask(port, "/orders/c", *reader.items())
        assert theirs.status == nobodys.status == 404
        assert theirs.body[:60] == nobodys.body[:60], "existence is not admitted"
        for path in ("/orders/a", "/orders/b", "/orders/c"):
            refused = ask(port, path, *other.items())
            assert refused.status == 403, "the scope is decided before anything is looked up"
            assert 'scope="orders:read"' in refused.headers["www-authenticate"]


def test_a_filter_is_any_pair_of_columns(kit: Kit) -> None:
    class Column:
        def __init__(self, name: str) -> None:
            self.name = name

        def __eq__(self, other: object) -> Any:
            return {(self.name, other)}

        __hash__ = None  # type: ignore[assignment]

    with acting_as(key_of(kit, scopes={"orders:read"})):
        assert READ.filter(Column("org"), Column("subject")) == {("org", "org_1")}
