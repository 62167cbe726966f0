"""The services without `await`: one line for each method, no signature written twice."""

from typing import Final

from bartizan.core.drive import Blocking, blocking
from bartizan.credentials.keys import Keys


class BlockingKeys(Blocking):
    """`Keys` for WSGI, scripts and the command line."""

    create: Final = blocking(Keys.create)
    get: Final = blocking(Keys.get)
    list: Final = blocking(Keys.list)
    rotate: Final = blocking(Keys.rotate)
    revoke: Final = blocking(Keys.revoke)
    disable: Final = blocking(Keys.disable)
    enable: Final = blocking(Keys.enable)
    authenticate: Final = blocking(Keys.authenticate)
