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
        """The event without secrets; it never raises."""
        try:
            return self._redactor.value(_without_frames(event))
        except Exception as error:  # noqa: BLE001 - whatever an object does when it is asked: a log line stops nothing
            return {"event": f"[an event that could not be read: {type(error).__name__}]"}


def _without_frames(event: Any) -> Any:
    if not isinstance(event, MutableMapping) or not event.get("exc_info"):
        return event
    error = event["exc_info"]
    if isinstance(error, BaseException):
        error = (type(error), error, error.__traceback__)
    elif not isinstance(error, tuple):
        error = sys.exc_info()
    told = {key: item for key, item in event.items() if key != "exc_info"}
    if error[0] is not None:
        told.setdefault("exception", _PLAIN.formatException(error))
    return told


redact: Redact = Redact()
