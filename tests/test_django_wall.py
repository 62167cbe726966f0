"""The wall before a database of Django's, with every probe that applies there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, models, transaction  # type: ignore[import-untyped]
from django_world import PROBES, SHOP, A, Country, Item, Order, World, closed, opened, reached

from bartizan import Misuse, NotFound
from bartizan.errors import Reason
from bartizan.integrations.django import OrgWall
from bartizan.testing import Kit, acting_as


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def plain(tmp_path: Path, kit: Kit) -> Iterator[World]:
    opened(tmp_path / "shop.db")
    world = World(tmp_path / "shop.db", lambda org: kit.security.job("probe", org=org))
    world.seed()
    yield world
    closed()


@pytest.fixture
def wall() -> OrgWall:
    return OrgWall(using=SHOP, shared=[Country])


@pytest.fixture
def world(plain: World, wall: OrgWall) -> Iterator[World]:
    kind: Any = type(connections[SHOP].ops)
    before = kind.compiler
    wall.protect(Order, Item, Country)
    yield plain
    kind.compiler = before
    from django.db.backends.signals import connection_created  # type: ignore[import-untyped]

    connection_created.disconnect(wall._connected)


@pytest.mark.parametrize("name", PROBES)
def test_probe(world: World, name: str) -> None:
    assert not reached(world, name)


@pytest.mark.parametrize("name", PROBES)
def test_without_a_wall_the_probe_reaches(plain: World, name: str) -> None:
    assert reached(plain, name)


def test_ones_own_rows_are_whole(world: World) -> None:
    with world.acting(A):
        assert [order.id for order in world.orders.order_by("id")] == ["a1", "a2", "a3"]
        made = world.orders.create(id="new", note="x")
        assert made.org_id == A
        made.total = 5
        made.save(using=SHOP)
        assert world.orders.filter(total=5).update(note="y") == 1
        assert world.orders.get(id="new").note == "y"
        world.orders.bulk_create([Order(id="n2", note="x"), Order(id="n3", note="x", org_id=A)])
        assert world.orders.bulk_update([Order(id="n2", total=7)], ["total"]) == 1
        with transaction.atomic(SHOP), transaction.atomic(SHOP):
            assert world.orders.get(id="new").delete()[0] == 1
        assert world.orders.aggregate(models.Sum("total"))["total__sum"] == 13
        named = world.orders.annotate(
            n=models.functions.Upper("note"), m=models.functions.Extract(models.functions.Now(), "year")
        )
        assert named.filter(id="a1").values_list("n", flat=True)[0] == "OF A"
        latest = models.Subquery(Item.objects.filter(order=models.OuterRef("pk")).values("id")[:1])
        assert world.orders.annotate(i=latest).get(id="a1").i == "a1"
        assert world.orders.filter(models.Exists(Item.objects.filter(order=models.OuterRef("pk")))).count() == 1
        assert world.items.aggregate(s=models.Sum("order__total"))["s"] == 1
        assert (
            world.orders.annotate(w=models.Case(models.When(total=1, then=models.Value(1)), default=2))
            .filter(w=1)
            .count()
            == 1
        )
        assert world.orders.annotate(c=models.functions.Cast("total", models.CharField())).filter(c="1").count() == 1
        item = world.items.select_related("order").get(id="a1")
        assert item.order.id == "a1"
        assert [each.id for each in item.order.items.all()] == ["a1"]
        assert Country.objects.using(SHOP).get().id == "nz"
    assert world.sql("SELECT DISTINCT org_id FROM orders WHERE id LIKE 'n%'") == [(A,)]


def test_the_bypass_is_named_and_ends(world: World, kit: Kit, wall: OrgWall) -> None:
    with kit.security.job("counting", org=A):
        with wall.unsafe_every_org(reason="counts all orders", seconds=10):
            assert world.orders.count() == 6
            with connections[SHOP].cursor() as held:
                held.execute("SELECT count(*) FROM orders")
                assert held.fetchone() == (6,)
        assert world.orders.count() == 3
        with wall.unsafe_every_org(reason="takes too long", seconds=10):
            kit.clock.advance(10)
            with pytest.raises(Misuse, match="time"):
                world.orders.count()
    told = [e.name for e in kit.events if e.name.startswith("isolation")]
    assert told == ["isolation.bypassed", "isolation.resumed"] * 2


def test_data_access_events_are_sampled(world: World, kit: Kit) -> None:
    with world.acting(A):
        for _ in range(20):
            list(world.items.select_related("order"))
        world.orders.update(total=1)
    told = [(e.org, e.target, json.loads(e.data)["access"]) for e in kit.events if e.name == "data.accessed"]
    assert sorted(told) == [(A, "items", "read"), (A, "orders", "read"), (A, "orders", "write")]


def test_test_principal_at_a_live_wall(world: World) -> None:
    live = Kit(environment="live")
    trial = live.key(org=A, environment="test").key
    principal = live.security.blocking.keys.authenticate(trial, environments={"test"})
    with acting_as(principal, of=live), pytest.raises(NotFound) as caught:
        list(world.orders.all())
    assert caught.value.reason is Reason.WRONG_ENVIRONMENT


def test_a_table_without_an_organization_is_named(plain: World) -> None:
    with pytest.raises(Misuse, match="countries"):
        OrgWall(using=SHOP).protect(Country)


def test_another_database_is_not_walled_in(world: World, tmp_path: Path) -> None:
    opened(tmp_path / "other.db", "bartizan_other")
    other = World(tmp_path / "other.db", world.acting, "bartizan_other")
    other.seed()
    try:
        assert other.orders.count() == 6
    finally:
        closed("bartizan_other")


def test_a_table_that_nobody_knows(world: World) -> None:
    class Stray(models.Model):  # type: ignore[misc]  # noqa: DJ008
        class Meta:
            app_label = "isolation"
            db_table = "orders_archive"
            managed = False

    with world.acting(A), pytest.raises(Misuse, match="no model of this wall"):
        Stray.objects.using(SHOP).count()
    del Stray._meta.apps.all_models["isolation"]["stray"]
