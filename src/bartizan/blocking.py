"""The services without `await`: one line for each method, no signature written twice."""

from collections.abc import Callable
from typing import Any

from bartizan.core.drive import Blocking, blocking
from bartizan.credentials.keys import Keys


class BlockingKeys(Blocking):
    """`Keys` for WSGI, scripts and the command line."""

    create = blocking(Keys.create)
    get = blocking(Keys.get)
    list = blocking(Keys.list)
    rotate = blocking(Keys.rotate)
    revoke = blocking(Keys.revoke)
    disable = blocking(Keys.disable)
    enable = blocking(Keys.enable)
    authenticate = blocking(Keys.authenticate)
