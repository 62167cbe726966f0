"""Bartizan: the security architecture of a multi-tenant Python web service, as one library."""
