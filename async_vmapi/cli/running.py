"""Run a command's coroutine: what Ctrl-C does, and which exit code an end has."""

import asyncio
import enum
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

import typer

from async_vmapi.cli.output import printable
from async_vmapi.cli.streams import hurry
from async_vmapi.errors import ConnectError, InvalidArgument, VMAPIError

__all__ = ["ExitCode", "fail", "failures_told", "run", "say"]

T = TypeVar("T")

# A second Ctrl-C first lets the report be told, then cancels what is left.
_LEAVING: Final = 0.1
# A loop that has not heard of a signal for so many seconds is stuck: the next one breaks it off.
_STUCK: Final = 1.0


class ExitCode(enum.IntEnum):
    """What the command's end means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNKNOWN = 3
    OUTPUT_LOST = 4
    INTERRUPTED = 130


def say(message: str) -> None:
    """Tell something on standard error."""
    with suppress(OSError):  # perhaps nobody reads it any more
        typer.echo(f"async-vmapi: {printable(message)}", err=True)


def fail(message: object, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """Tell what went wrong, and exit."""
    say(str(message))
    raise typer.Exit(code)


@contextmanager
def failures_told() -> Generator[None]:
    """Tell what fails within in one line, and exit with the code that fits."""
    try:
        yield
    except InvalidArgument as error:
        fail(error, ExitCode.USAGE)
    except (VMAPIError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        # While no event loop runs.
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def run(
    body: Coroutine[Any, Any, T],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run a command's coroutine to its end; exit if it is interrupted."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner, _unreachable_told():
            return runner.run(_interruptible(body))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(ExitCode.INTERRUPTED) from None


class _Unreachable(logging.Handler):
    """Says once that no connection is made, which the client tries for a while yet."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, if that is what the record tells."""
        if not self._said and getattr(record, "vmapi_error", "") == ConnectError.__name__:
            self._said = True
            say(record.getMessage())


@contextmanager
def _unreachable_told() -> Generator[None]:
    logger, handler = logging.getLogger("async_vmapi.transport.pipeline"), _Unreachable()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


async def _interruptible(body: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    main = loop.create_task(body)
    pressed = 0

    def interrupt() -> None:
        nonlocal pressed
        pressed += 1
        if pressed == 1:
            say("interrupted; what is on the wire is waited for, once more leaves at once")
        else:
            loop.call_later(_LEAVING, _cancel_all)
        main.cancel()

    with _handling(loop, interrupt):
        return await main


def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


@contextmanager
def _handling(loop: asyncio.AbstractEventLoop, interrupt: Callable[[], None]) -> Generator[None]:
    if sys.platform == "win32":
        # The loop knows no signals there; asyncio.run cancels on Ctrl-C by itself.
        yield
        return
    # A connection that drops (SIGHUP) is no reason to lose what is in flight; nohup ignores it.
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    unheard: list[float] = []

    def heard() -> None:
        unheard.clear()
        interrupt()

    def received(*_: object) -> None:
        # At once, also in the midst of what keeps the loop from hearing of it.
        hurry()
        unheard.append(time.monotonic())
        if unheard[-1] - unheard[0] >= _STUCK:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        # It wakes the loop, and would do nothing until that has its turn.
        loop.add_signal_handler(number, heard)
        signal.signal(number, received)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
