"""What every authenticator of an application's own has to keep: a suite to run against yours."""

import asyncio
from inspect import isawaitable
from typing import Any

import pytest

from bartizan.core.request import Request
from bartizan.errors import Unauthenticated
from bartizan.gate.doors import Authenticator, Identified

HOSTILE = (
    b"", b" ", b"\x00", b"\xff\xfe", b"=" * 64, b"a" * 100_000, b"Basic", b"Basic ", b"Bearer", b"Negotiate \xff",
    b"%00", b"../..", b"CN=", b",", b";" * 1000, "Ä€𝄞".encode(),
)  # fmt: skip


class AuthenticatorContract:
    """Subclass it with values that you let in, values of your form that you refuse, and values that are not yours.

    `class TestBasic(AuthenticatorContract)` with `good`, `refused`, `foreign` and `authenticator()`.
    """

    good: tuple[bytes, ...]
    refused: tuple[bytes, ...]
    foreign: tuple[bytes, ...]

    def authenticator(self) -> Authenticator:
        """A fresh one."""
        raise AssertionError(f"{type(self).__name__} says which authenticator is held against the contract")

    def test_it_recognises_by_form_alone(self) -> None:
        """What it recognises is what was presented, however often it is asked, and it raises for nothing."""
        own = self.authenticator()
        for value in (*self.good, *self.refused):
            _right(bool(own.recognises(value)), value)
        for value in self.foreign:
            _right(not own.recognises(value), value)
        for value in HOSTILE:
            _right(bool(own.recognises(value)) is bool(own.recognises(value)), value)

    async def _asked(self, own: Authenticator, value: bytes) -> object:
        request = Request("GET", "/", [(own.slot.encode(), value)], ("127.0.0.1", 50_000), "https")
        try:
            found: Any = own.authenticate(value, request)
            return await found if isawaitable(found) else found
        except Unauthenticated as error:
            return error

    def test_it_lets_in_whom_it_should(self) -> None:
        """Each good value stands for somebody."""
        for value in self.good:
            found = asyncio.run(self._asked(self.authenticator(), value))
            _right(isinstance(found, Identified), value)

    def test_a_refusal_has_one_shape(self) -> None:
        """Whatever is wrong with a value, the error is of one class, without headers of its own or a cause."""
        own = self.authenticator()
        shapes = set()
        for value in (*self.refused, *(value for value in HOSTILE if own.recognises(value))):
            found = asyncio.run(self._asked(own, value))
            _right(isinstance(found, Unauthenticated) and found.__cause__ is None, value)
            shapes.add((type(found), str(found), getattr(found, "headers", ())))
        _right(len(shapes) <= 1, shapes)

    @pytest.mark.parametrize("name", ["name", "slot", "ambient", "peers"])
    def test_it_says_what_it_is(self, name: str) -> None:
        """The four attributes that the gate asks for are there."""
        _right(hasattr(self.authenticator(), name), name)


def _right(holds: bool, about: object) -> None:
    if not holds:
        raise AssertionError(f"{about!r} breaks the contract")
