"""What a session of SQLAlchemy gets from the wall: it is one organization's, and so is its identity map."""

from typing import Any, Protocol
from uuid import UUID

from bartizan.access.statements import as_text
from bartizan.core.principal import Presence, Unit, current_unit
from bartizan.errors import Misuse, NotFound, Reason

# Whose a session or connection is that was begun past the wall: no organization has an empty id.
EVERY = ""


class Wall(Protocol):
    """The wall of the session's engine."""

    def owner(self) -> str:
        """For whom this code runs."""

    def lowered(self) -> bool:
        """Whether it may be down."""

    def guards(self, engine: Any) -> bool:
        """Whether it stands before this engine."""

    def column_of(self, table: Any) -> Any:
        """The organization's column."""


class WalledSession:
    """Mixed into the class of a sessionmaker. Its first use captures the organization; `close` lets it go."""

    wall: Wall
    _bartizan_owner: str | None = None
    _bartizan_bind: Any = None
    _bartizan_unit: Presence | None = None  # the piece of work that was looked at last

    def _bartizan_enter(self) -> str:
        unit = current_unit.get()
        if self._bartizan_unit is unit and not self.wall.lowered() and isinstance(unit, Unit) and not unit.over:
            return str(self._bartizan_owner)
        owner = self.wall.owner()
        if self._bartizan_owner is None:
            self._bartizan_owner = owner
        elif self._bartizan_owner != owner:
            raise Misuse("this session was begun for another organization: use one of your own")
        self._bartizan_unit = None if owner == EVERY else unit
        return owner

    def get_bind(self, *args: Any, **kw: Any) -> Any:
        """As the session's, if the wall stands before it."""
        bind = super().get_bind(*args, **kw)  # type: ignore[misc]
        if bind is not self._bartizan_bind:
            if not self.wall.guards(bind.engine):
                raise Misuse("this session's bind has no wall: protect a sessionmaker of that engine")
            self._bartizan_bind = bind
        return bind

    def _identity_lookup(self, *args: Any, **kw: Any) -> Any:
        self._bartizan_enter()
        return super()._identity_lookup(*args, **kw)  # type: ignore[misc]

    def execute(self, *args: Any, **kw: Any) -> Any:
        """As the session's, for one organization; `scalar`, `scalars`, `merge` and a flush too."""
        self._bartizan_enter()
        return super().execute(*args, **kw)  # type: ignore[misc]

    def scalar(self, *args: Any, **kw: Any) -> Any:
        """As `execute`."""
        self._bartizan_enter()
        return super().scalar(*args, **kw)  # type: ignore[misc]

    def scalars(self, *args: Any, **kw: Any) -> Any:
        """As `execute`."""
        self._bartizan_enter()
        return super().scalars(*args, **kw)  # type: ignore[misc]

    def _flush(self, *args: Any, **kw: Any) -> None:
        self._bartizan_enter()  # there is something to flush
        super()._flush(*args, **kw)  # type: ignore[misc]

    def merge(self, instance: Any, *, load: bool = True, **kw: Any) -> Any:
        """As `execute`; `load=False` is refused."""
        self._bartizan_enter()
        if not load:
            raise Misuse("merge(load=False) believes an object that the database was not asked about")
        return super().merge(instance, load=load, **kw)  # type: ignore[misc]

    def _before_attach(self, state: Any, obj: Any) -> Any:
        owner = self._bartizan_enter()
        fresh = super()._before_attach(state, obj)  # type: ignore[misc]
        if owner == EVERY:
            return fresh
        column = self.wall.column_of(state.mapper.local_table)
        if column is not None:
            name = state.mapper.get_property_by_column(column).key
            given = state.dict.get(name)
            if given is None and state.key is None:
                setattr(obj, name, UUID(owner) if getattr(column.type, "as_uuid", False) else owner)
            elif given is not None and as_text(given) != owner:
                raise NotFound(Reason.WRONG_ORGANIZATION)
        return fresh

    def close(self) -> None:
        """As the session's: afterwards it may begin for another organization."""
        super().close()  # type: ignore[misc]
        self._bartizan_owner = self._bartizan_unit = None
