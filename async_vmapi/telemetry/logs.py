"""Log so that no handler, filter or record factory of an application changes what a call does.

`logging` lets through what a filter, a record factory or a careless handler raises. A create whose
response has just arrived must not be lost by that. Pure.
"""

import logging
import sys
import traceback
from typing import Final

__all__ = ["SafeLogger", "logger_of"]

_reported: Final = set[type[Exception]]()


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that raises nothing.

    What goes wrong is printed on standard error, once for each kind of exception, unless
    `logging.raiseExceptions` is off: as `logging` itself does with the errors of its handlers.
    """

    def log(self, level: int, msg: object, *args: object, **options: object) -> None:
        """Log a message, as `logging.Logger.log` does."""
        if not self.isEnabledFor(level):
            return
        # The caller's place in the code is two frames up.
        options["stacklevel"] = 2
        try:
            self.logger.log(level, msg, *args, **options)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - whatever an application's logging raises
            if logging.raiseExceptions and type(error) not in _reported:
                _reported.add(type(error))
                _print(error)


def _print(error: Exception) -> None:
    try:
        if sys.stderr is not None:
            traceback.print_exception(error)
    except (OSError, ValueError):
        # It is closed, or full.
        pass


def logger_of(module: str) -> SafeLogger:
    """Return the logger of a module, by the module's name."""
    return SafeLogger(logging.getLogger(module), {})
