from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from isolation import Order
from pydantic import BaseModel, ConfigDict

from bartizan import Misuse, Unavailable
from bartizan.access.outgoing import Outgoing
from bartizan.testing import Kit


@dataclass
class Plain:
    organization_id: str
    inner: Any = None


class Model(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    organization_id: str
    inner: Any = None


Named = namedtuple("Named", ["org_id", "x"])  # noqa: PYI024


def answers(org: str) -> Iterator[Any]:
    yield {"organization_id": org}
    yield {"a": [{"b": {"orgId": org}}]}
    yield Plain(org)
    yield Plain("org_1", inner={"organizationId": org})
    yield [Plain("org_1"), Plain(org)]
    yield Model(organization_id=org)
    yield Model(organization_id="org_1", inner=[Model(organization_id=org)])
    yield Model(organization_id="org_1", org_id=org)  # type: ignore[call-arg]
    yield Order(id="1", org_id=org)
    yield (Named(org, 1),)
    yield {"rows": frozenset({Named(org, 1)})}


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.mark.parametrize("n", range(11))
def test_a_foreign_organization_does_not_leave(kit: Kit, n: int) -> None:
    outgoing = Outgoing(on=True)
    foreign, own = list(answers("org_2"))[n], list(answers("org_1"))[n]
    with kit.security.job("report", org="org_1"):
        assert outgoing.check(own) is own
        with pytest.raises(Unavailable):
            outgoing.check(foreign)
    assert [(e.name, e.org, e.target) for e in kit.events] == [("isolation.held", "org_1", "job:report")]


def test_it_is_off_until_it_is_switched_on() -> None:
    answer = {"organization_id": "org_2"}
    assert Outgoing().check(answer) is answer


def test_what_cannot_be_looked_through_does_not_leave(kit: Kit) -> None:
    deep: Any = {}
    for _ in range(30):
        deep = {"a": deep}
    with kit.security.job("report", org="org_1"), pytest.raises(Unavailable):
        Outgoing(on=True).check(deep)
    around: Any = {"organization_id": "org_1"}
    around["self"] = around
    with kit.security.job("report", org="org_1"):
        assert Outgoing(on=True).check(around) is around
        stream = iter([{"organization_id": "org_2"}])
        assert Outgoing(on=True).check(stream) is stream
        assert next(stream), "a stream is not read"


def test_nobody_has_no_answer() -> None:
    with pytest.raises(Misuse, match="no gate ran"):
        Outgoing(on=True).check({})
    for names in ("org_id", ()):
        with pytest.raises(Misuse):
            Outgoing(names=names)
