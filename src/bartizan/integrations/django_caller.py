"""The caller as Django's REST framework knows one."""

from typing import Any

from bartizan.core.principal import Principal, current_principal
from bartizan.errors import Unauthenticated


class User:
    """The caller as REST framework's `request.user`; `principal` is what was verified."""

    is_authenticated = is_active = True
    is_anonymous = is_staff = is_superuser = False

    def __init__(self, principal: Principal) -> None:
        self.principal: Principal = principal
        self.pk: str = principal.actor

    def __str__(self) -> str:
        return self.pk


class GateAuthentication:
    """For REST framework's `authentication_classes`: who the gate let in is `request.user`, and `request.auth`."""

    def authenticate(self, _: Any) -> tuple[User, Principal] | None:
        """The caller, or None where the rule asks for nobody; `Misuse` where no gate ran."""
        try:
            principal = current_principal()
        except Unauthenticated:
            return None
        return User(principal), principal

    def authenticate_header(self, _: Any) -> str:
        """What a 401 of REST framework's own asks for."""
        return "Bearer"
