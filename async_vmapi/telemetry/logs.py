"""Log safely: no handler, filter or record factory of an application can affect a call.

`logging` does not catch exceptions of filters, record factories and some handlers. They must not
lose a create whose response has just arrived.
"""

import logging
import sys
import traceback
from typing import Final

__all__ = ["SafeLogger", "logger_of"]

_reported: Final = set[type[Exception]]()


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that never raises.

    It prints errors to standard error, once per type of exception, unless
    `logging.raiseExceptions` is off, as `logging` does for the errors of its handlers.
    """

    def log(self, level: int, msg: object, *args: object, **options: object) -> None:
        """Log a message, as `logging.Logger.log` does."""
        if not self.isEnabledFor(level):
            return
        # The caller is two frames up.
        options["stacklevel"] = 2
        try:
            self.logger.log(level, msg, *args, **options)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - the application's logging code
            if logging.raiseExceptions and type(error) not in _reported:
                _reported.add(type(error))
                _print(error)


def _print(error: Exception) -> None:
    try:
        if sys.stderr is not None:
            traceback.print_exception(error)
    except (OSError, ValueError):
        # Standard error is closed or full.
        pass


def logger_of(module: str) -> SafeLogger:
    """Return the logger for a module's name."""
    return SafeLogger(logging.getLogger(module), {})
