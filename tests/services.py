"""Servers on loopback that some tests need: where none answers they are skipped, or fail if they must not be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

REDIS = os.environ.get("BARTIZAN_TEST_REDIS", "redis://127.0.0.1:6379/15")
POSTGRES = os.environ.get("BARTIZAN_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")


def driver(url: str) -> Any:
    return make_url(url).set(drivername="postgresql+psycopg")


@cache
def answers() -> bool:
    engine = create_engine(driver(POSTGRES), connect_args={"connect_timeout": 3})
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT 1")).scalar() == 1
    except Exception:
        return False
    finally:
        engine.dispose()


def need_postgres() -> None:
    if not answers():
        missing("PostgreSQL DOES NOT ANSWER: what needs it is not tested (BARTIZAN_TEST_POSTGRES)")


def need_redis() -> str:
    from redis import Redis

    try:
        with Redis.from_url(REDIS, socket_timeout=3) as connection:
            connection.ping()
    except Exception:
        missing("Redis DOES NOT ANSWER: what needs it is not tested (BARTIZAN_TEST_REDIS)")
    return REDIS


def missing(told: str) -> None:
    if os.environ.get("BARTIZAN_REQUIRE_SERVICES") == "1":
        pytest.fail(told)
    pytest.skip(told)


class Place:
    """A schema of its own and a role without privileges, both gone afterwards."""

    def __init__(self) -> None:
        self.schema = f"bartizan_{uuid4().hex[:12]}"
        self.role = f"{self.schema}_app"
        self.admin = create_engine(driver(POSTGRES), connect_args={"options": f"-c search_path={self.schema}"})
        self.app = create_engine(
            driver(POSTGRES).set(username=self.role, password="x"),
            connect_args={"options": f"-c search_path={self.schema}"},
        )

    def sql(self, *statements: str) -> list[Any]:
        """As the owner."""
        found: list[Any] = []
        with self.admin.begin() as connection:
            for statement in statements:
                result = connection.exec_driver_sql(statement)
                found = list(result) if result.returns_rows else []
        return found

    def ask(self, statement: str) -> list[Any]:
        return self.sql(statement)


@contextmanager
def postgres_place() -> Iterator[Place]:
    place = Place()
    place.sql(
        f"CREATE SCHEMA {place.schema}",
        f"CREATE ROLE {place.role} LOGIN PASSWORD 'x' NOSUPERUSER NOBYPASSRLS",
        f"GRANT USAGE ON SCHEMA {place.schema} TO {place.role}",
    )
    try:
        yield place
    finally:
        place.app.dispose()
        place.sql(f"DROP SCHEMA {place.schema} CASCADE", f"DROP OWNED BY {place.role}", f"DROP ROLE {place.role}")
        place.admin.dispose()
