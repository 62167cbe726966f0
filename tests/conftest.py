"""What every test has in common."""

import contextlib

with contextlib.suppress(ImportError):  # the sessions `docs` and `minimal` install nothing that they do not use
    from hypothesis import settings

    settings.register_profile("bartizan", deadline=None, print_blob=True)  # a slow machine is no failure
    settings.load_profile("bartizan")
