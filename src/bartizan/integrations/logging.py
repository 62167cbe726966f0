"""Secrets kept out of the standard library's logging, and out of any stream of text."""

import io
import logging
from re import compile as regex
from threading import RLock
from typing import TextIO

from bartizan.core.redact import REDACTOR, Held, Pattern, Redactor
from bartizan.errors import Misuse

__all__ = ["REDACTOR", "Pattern", "RedactedStream", "RedactingFilter", "Redactor", "install"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_USUAL = len(vars(logging.makeLogRecord({})))  # of a record without `extra` that nobody has formatted yet
_PLAIN = logging.Formatter()
_CUTS = regex(r"%[-#0 +*1-9]*\.").search  # a template that shows some of an argument


class RedactingFilter(logging.Filter):
    """Takes secrets out of each record that passes: message, arguments, `extra`, traceback and stack.

    It belongs on handlers: the filters of a logger do not see what its children log. A traceback becomes text here,
    whose frames a later handler cannot ask for their variables. It never raises, and lets every record pass.
    """

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        """True, and the record without secrets."""
        try:
            self._message(record)
            if record.exc_info or record.exc_text or record.stack_info:
                self._traceback(record)
            if len(record.__dict__) != _USUAL:
                for name in record.__dict__.keys() - _STANDARD:
                    record.__dict__[name] = self._redactor.value(record.__dict__[name], name)
        except Exception as error:  # noqa: BLE001 - whatever an object does when it is asked: a log line stops nothing
            record.msg, record.args = f"[a record that could not be read: {type(error).__name__}]", ()
            record.exc_info = record.exc_text = record.stack_info = None
            for name in record.__dict__.keys() - _STANDARD:
                del record.__dict__[name]
        return True

    def _message(self, record: logging.LogRecord) -> None:
        redact, template, args = self._redactor, record.msg, record.args
        shown = template if type(template) is str else str(template)
        if not args:
            record.msg = redact.text(template) if shown is template else redact.value(template)
            return
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - wrong arguments: the handler says so, and prints them
            record.msg, record.args = redact.value(template), redact.value(args)
            return
        clean = redact.text(message)
        # What a text does not show of its arguments is shown by whoever prints them: keys unused, or cut off.
        if clean is message and type(args) is tuple and not _CUTS(shown):
            return
        record.msg, record.args = redact.value(template), redact.value(args)
        try:
            together = record.getMessage()
        except Exception:  # noqa: BLE001 - an object that is a text now, where the template wants a number
            together = ""
        if not together or redact.text(together) is not together:  # split over several of them
            record.msg, record.args = clean, ()

    def _traceback(self, record: logging.LogRecord) -> None:
        if record.exc_info and not record.exc_text:
            record.exc_text = _PLAIN.formatException(record.exc_info)
        record.exc_info = None
        if record.exc_text:
            record.exc_text = self._redactor.text(record.exc_text)
        if record.stack_info:
            record.stack_info = self._redactor.text(record.stack_info)


def install(*handlers: logging.Handler, redactor: Redactor = REDACTOR) -> None:
    """Put a `RedactingFilter` on these handlers, or on every handler that any logger has by now.

    Call it when logging is set up; again is no change. A handler that comes later needs it, too.
    """
    found = handlers or _everywhere()
    if not found:
        raise Misuse("no logger has a handler yet: set logging up first, or name the handlers")
    for handler in found:
        if not any(isinstance(known, RedactingFilter) for known in handler.filters):
            handler.addFilter(RedactingFilter(redactor))


def _everywhere() -> list[logging.Handler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [*found, *([logging.lastResort] if found and logging.lastResort is not None else [])]


class RedactedStream(io.TextIOBase):
    """A stream of text without secrets over another: `sys.stdout = RedactedStream(sys.stdout)`.

    A secret that comes in several pieces is found, too: an unfinished line is written up to its last word, and that
    once it has ended or the stream is closed.
    """

    def __init__(self, stream: TextIO, redactor: Redactor = REDACTOR) -> None:
        self._stream = stream
        self._held = Held(redactor)
        self._lock = RLock()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str, /) -> int:
        """Take all of `text`, and write what is whole."""
        with self._lock:
            self._stream.write(self._held.feed(text))
        return len(text)

    def flush(self) -> None:
        """Write what can be told of an unfinished line."""
        with self._lock:
            if not self.closed:
                self._stream.write(self._held.flush())
                self._stream.flush()

    def close(self) -> None:
        """Write the rest. The stream below stays open."""
        with self._lock:
            if not self.closed:
                self._stream.write(self._held.end())
                self._stream.flush()
                super().close()
