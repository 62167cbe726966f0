"""Two organizations in one database of Django's, and how one has reached the other's rows."""

# ruff: noqa: DJ008 - nobody prints these models

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import django  # type: ignore[import-untyped]
from django.apps import apps  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]
from django.core.exceptions import ObjectDoesNotExist  # type: ignore[import-untyped]
from django.db import Error, connections, models, transaction  # type: ignore[import-untyped]

from bartizan.errors import BartizanError

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")
if not apps.ready:
    django.setup()

A, B, SECRET = "org_a", "org_b", "of b"
SHOP = "bartizan_shop"  # the alias of the database
REFUSALS: tuple[Any, ...] = (BartizanError, Error, ObjectDoesNotExist)


class Order(models.Model):  # type: ignore[misc]
    id = models.CharField(primary_key=True, max_length=40)
    org_id = models.CharField(max_length=128)
    note = models.CharField(max_length=100)
    total = models.IntegerField(default=0)

    class Meta:
        app_label = "isolation"
        db_table = "orders"


class Item(models.Model):  # type: ignore[misc]
    id = models.CharField(primary_key=True, max_length=40)
    org_id = models.CharField(max_length=128)
    order = models.ForeignKey(Order, models.DO_NOTHING, related_name="items")
    note = models.CharField(max_length=100)

    class Meta:
        app_label = "isolation"
        db_table = "items"


class Country(models.Model):  # type: ignore[misc]
    id = models.CharField(primary_key=True, max_length=40)

    class Meta:
        app_label = "isolation"
        db_table = "countries"


def opened(path: Path, alias: str = SHOP) -> None:
    """The database under its alias, without tables."""
    defaults = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: defaults})[alias]


def closed(alias: str = SHOP) -> None:
    connections[alias].close()
    del connections[alias]
    del connections.settings[alias]


class World:
    def __init__(self, path: Path, acting: Callable[[str], Any], alias: str = SHOP) -> None:
        self.path = path
        self.acting = acting
        self.alias = alias

    @property
    def orders(self) -> Any:
        return Order.objects.using(self.alias)

    @property
    def items(self) -> Any:
        return Item.objects.using(self.alias)

    def sql(self, *statements: str) -> list[Any]:
        db = sqlite3.connect(self.path)
        try:
            found: list[Any] = []
            for statement in statements:
                found = db.execute(statement).fetchall()
            db.commit()
            return found
        finally:
            db.close()

    def seed(self) -> None:
        self.sql(
            "DROP TABLE IF EXISTS items",
            "DROP TABLE IF EXISTS orders",
            "DROP TABLE IF EXISTS countries",
            "CREATE TABLE orders (id text PRIMARY KEY, org_id text NOT NULL, note text NOT NULL, total int NOT NULL)",
            "CREATE TABLE items (id text PRIMARY KEY, org_id text NOT NULL, order_id text NOT NULL, note text NOT NULL)",
            "CREATE TABLE countries (id text PRIMARY KEY)",
            "INSERT INTO countries VALUES ('nz')",
            *[
                f"INSERT INTO orders VALUES ('{letter}{n}', '{org}', 'of {letter}', {n})"
                for org, letter in ((A, "a"), (B, "b"))
                for n in (1, 2, 3)
            ],
            f"INSERT INTO items VALUES ('a1', '{A}', 'a1', 'of a'), ('b1', '{B}', 'b1', 'of b'), ('odd', '{A}', 'b1', 'of a')",
        )

    def of_b(self) -> list[Any]:
        return self.sql(f"SELECT * FROM orders WHERE org_id = '{B}' UNION ALL SELECT * FROM items WHERE org_id = '{B}'")


Probe = Callable[[World], bool]
PROBES: dict[str, Probe] = {}


def probe(function: Probe) -> Probe:
    PROBES[function.__name__] = function
    return function


def reached(world: World, name: str) -> bool:
    before = world.of_b()
    try:
        with transaction.atomic(world.alias):
            found = PROBES[name](world)
    except REFUSALS:
        found = False
    return found or world.of_b() != before


def tells(found: Any) -> bool:
    return SECRET in repr(list(found))


@probe
def select_all(w: World) -> bool:
    with w.acting(A):
        return tells(w.orders.values_list("note")) or w.orders.count() != 3


@probe
def base_manager(w: World) -> bool:
    with w.acting(A):
        return tells(Order._base_manager.using(w.alias).values_list("note"))


@probe
def fk_traversal_foreign_row(w: World) -> bool:
    with w.acting(A):
        return tells([w.items.get(id="odd").order.note])


@probe
def select_related_foreign(w: World) -> bool:
    with w.acting(A):
        return tells(item.order.note for item in w.items.select_related("order"))


@probe
def prefetch_foreign(w: World) -> bool:
    with w.acting(A):
        return tells(item.order.note for item in w.items.filter(id="odd").prefetch_related("order"))


@probe
def values_join_foreign(w: World) -> bool:
    with w.acting(A):
        return tells(w.items.values_list("id", "order__note"))


@probe
def filter_through_relation(w: World) -> bool:
    with w.acting(A):
        return bool(w.items.filter(order__note=SECRET).exists() or w.items.filter(order__total__gte=0).count() != 1)


@probe
def exists_oracle(w: World) -> bool:
    with w.acting(A):
        inner = Order.objects.filter(id="b1")
        countries: Any = Country.objects.using(w.alias)
        return bool(w.orders.filter(id="b1").exists() or countries.filter(models.Exists(inner)).exists())


@probe
def subquery(w: World) -> bool:
    with w.acting(A):
        inner = models.Subquery(Order.objects.filter(id="b1").values("note")[:1])
        return tells(w.orders.annotate(other=inner).values_list("other"))


@probe
def aggregate(w: World) -> bool:
    with w.acting(A):
        told = w.orders.aggregate(models.Max("note"), models.Count("id"))
        return tells(told.values()) or told["id__count"] != 3


@probe
def union(w: World) -> bool:
    with w.acting(A):
        return tells(w.orders.values_list("note").union(w.items.values_list("note")))


@probe
def refresh_detached_other_org(w: World) -> bool:
    with w.acting(B):
        theirs = w.orders.get(id="b1")
    theirs.note = "?"
    with w.acting(A):
        theirs.refresh_from_db(using=w.alias)
        return tells([theirs.note])


@probe
def raw_sql(w: World) -> bool:
    with w.acting(A):
        return tells(order.note for order in w.orders.raw("SELECT * FROM orders"))


@probe
def cursor(w: World) -> bool:
    with w.acting(A), connections[w.alias].cursor() as held:
        held.execute("SELECT note FROM orders")
        return tells(held.fetchall())


@probe
def extra(w: World) -> bool:
    tries: list[Callable[[], Any]] = [
        lambda: w.orders.extra(select={"x": "(SELECT max(note) FROM orders)"}).values_list("x"),
        lambda: w.orders.extra(where=["1=1 OR 1=1"]).values_list("note"),
        lambda: w.orders.extra(tables=["items"]).values_list("note"),
        lambda: w.orders.annotate(x=models.expressions.RawSQL("SELECT max(note) FROM orders", ())).values_list("x"),
    ]
    for query in tries:
        with suppress(*REFUSALS), w.acting(A):
            if tells(query()):
                return True
    return False


@probe
def function_with_a_template(w: World) -> bool:
    tries: list[Callable[[], Any]] = [
        lambda: models.Func(template="(SELECT max(note) FROM orders)"),
        lambda: models.Func(function="(SELECT max(note) FROM orders) || max"),
        lambda: models.Func(models.F("note"), template="%(f)s", f="(SELECT max(note) FROM orders)"),
        lambda: models.Func(
            models.Value("a"), models.Value("b"), function="max", arg_joiner=", (SELECT note FROM orders), "
        ),
        lambda: models.Subquery(Order.objects.values("id")[:1], template="(SELECT max(note) FROM orders)"),
    ]
    for made in tries:
        with suppress(*REFUSALS), w.acting(A):
            if tells(w.orders.annotate(x=models.ExpressionWrapper(made(), models.CharField())).values_list("x")):
                return True
    return False


@probe
def no_org_fails_open(w: World) -> bool:
    return bool(w.orders.values_list("note"))


@probe
def exists_oracle_without_org(w: World) -> bool:
    return bool(w.orders.filter(id="b1").exists())


@probe
def exclude_exists_boolean_oracle(w: World) -> bool:
    return bool(w.orders.exclude(id="a1").filter(note=SECRET).exists())


@probe
def explain_without_org(w: World) -> bool:
    return bool(w.orders.all().explain())


@probe
def async_for_without_org(w: World) -> bool:
    import asyncio

    async def main() -> bool:
        return tells([order.note async for order in w.orders.all()])

    return asyncio.run(main())


@probe
def create_into_other_org(w: World) -> bool:
    with w.acting(A):
        w.orders.create(id="x1", org_id=B, note="forged")
    return True


@probe
def create_without_org(w: World) -> bool:
    w.orders.create(id="x1", org_id=B, note="forged")
    return True


@probe
def bulk_create_into_other_org(w: World) -> bool:
    with w.acting(A):
        w.orders.bulk_create([Order(id="x2", org_id=A, note="x"), Order(id="x3", org_id=B, note="forged")])
    return True


@probe
def org_id_in_body_mass_assignment(w: World) -> bool:
    with w.acting(A):
        Order(id="x4", note="forged", org_id=B).save(using=w.alias, force_insert=True)
    return True


@probe
def upsert(w: World) -> bool:
    with w.acting(A):
        w.orders.bulk_create(
            [Order(id="b1", org_id=A, note="taken")],
            update_conflicts=True,
            update_fields=["note"],
            unique_fields=["id"],
        )
    return False


@probe
def save_over_other_org(w: World) -> bool:
    with w.acting(A):
        Order(id="b1", org_id=A, note="taken").save(using=w.alias)
    return False


@probe
def update_moves_row_out(w: World) -> bool:
    for act in (
        lambda: w.orders.filter(id="a1").update(org_id=B),
        lambda: w.orders.filter(id="a1").update(org_id=models.Value(B)),
        lambda: moved(w),
        lambda: w.orders.bulk_update([Order(id="a1", org_id=B)], ["org_id"]),
    ):
        with suppress(*REFUSALS), w.acting(A):
            act()
    return False


def moved(w: World) -> None:
    order = w.orders.get(id="a1")
    order.org_id = B
    order.save(using=w.alias)


@probe
def update_everything(w: World) -> bool:
    with w.acting(A):
        w.orders.update(total=99)
        w.items.filter(order__note=SECRET).update(note="taken")
    return False


@probe
def bulk_update_by_pk(w: World) -> bool:
    with w.acting(A):
        w.orders.bulk_update([Order(id="b1", total=99)], ["total"])
    return False


@probe
def update_by_subquery(w: World) -> bool:
    with w.acting(A):
        inner = models.Subquery(Order.objects.filter(id="b1").values("note")[:1])
        w.items.filter(id="a1").update(note=models.functions.Coalesce(inner, models.Value("none")))
        return tells(w.items.values_list("note"))


@probe
def delete_everything(w: World) -> bool:
    with w.acting(A):
        w.items.all()._raw_delete(w.alias)
        w.items.all().delete()
        w.orders.all().delete()
    return False


@probe
def delete_of_other_org(w: World) -> bool:
    with w.acting(A):
        Order(id="b1", org_id=A).delete(using=w.alias)
    return False
