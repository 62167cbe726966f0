"""SQLAlchemy: `OrgWall(Base).protect(sessions)`, and every query sees the caller's organization alone."""

from bartizan.access.sqlalchemy import OrgWall, announce

__all__ = ["OrgWall", "announce"]
