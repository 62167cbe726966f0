"""What a request costs behind the gate: `nox -s bench`."""
