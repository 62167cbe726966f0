"""Secrets kept out of structlog: `redact` is the last processor, or the last before the renderer."""

import sys
from collections.abc import MutableMapping
from logging import Formatter
from typing import Any

from bartizan.core.redact import REDACTOR, Redactor

_PLAIN = Formatter()


class Redact:
    """A processor that gives the event without secrets, however deep they are, whether it is rendered yet or not.

    `exc_info` becomes the text `exception`, so that no renderer asks its frames for their variables.
    """

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        self._redactor = redactor

    def __call__(self, logger: Any, name: str, event: Any) -> Any:  # noqa: ARG002 - a processor's signature
        """The event without secrets."""
        if isinstance(event, MutableMapping) and event.get("exc_info"):
            error = event["exc_info"]
            if isinstance(error, BaseException):
                error = (type(error), error, error.__traceback__)
            elif not isinstance(error, tuple):
                error = sys.exc_info()
            event = {key: item for key, item in event.items() if key != "exc_info"}
            if error[0] is not None:
                event.setdefault("exception", _PLAIN.formatException(error))
        return self._redactor.value(event)


redact = Redact()
