"""PostgreSQL: policies for the tables of a wall, and what would go around them."""

from bartizan.access.rls import Finding, Guarded, findings, partitions, policies

__all__ = ["Finding", "Guarded", "findings", "partitions", "policies"]
