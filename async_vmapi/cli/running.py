"""Run a command's coroutine: interruption, errors and exit codes."""

import asyncio
import enum
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, NoReturn, Self, TypeVar

import typer

from async_vmapi.cli.output import printable
from async_vmapi.cli.streams import hurry, signals_handled
from async_vmapi.errors import ConnectError, InvalidArgument, VMAPIError

__all__ = ["ExitCode", "errors_shown", "fail", "run", "say", "signals_handled_in"]

T = TypeVar("T")

# Seconds to show the report after a second Ctrl-C, before all tasks are cancelled.
_LEAVING: Final = 0.1
# If the loop has not handled a signal for this many seconds, the next one raises.
_STUCK: Final = 1.0


class ExitCode(enum.IntEnum):
    """Exit codes of the commands, each with its `meaning` for the reference."""

    meaning: str

    OK = 0, "success"
    FAILED = 1, "something failed or was not started, or you declined"
    USAGE = 2, "invalid usage; nothing was sent"
    UNKNOWN = 3, "an outcome is unknown: continue with `wait` or `fleet resume`"
    OUTPUT_LOST = 4, "success, but the output or the file of `--report` could not be written"
    INTERRUPTED = 130, "interrupted"

    def __new__(cls, code: int, meaning: str) -> Self:
        """Return the member; the enum calls it."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


def say(message: str) -> None:
    """Print a message on standard error."""
    with suppress(OSError):  # it may be closed
        typer.echo(f"async-vmapi: {printable(message)}", err=True)


def fail(message: object, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """Print an error message and exit."""
    say(str(message))
    raise typer.Exit(code)


@contextmanager
def errors_shown() -> Generator[None]:
    """Print errors as one line, and exit with the matching code."""
    try:
        yield
    except InvalidArgument as error:
        fail(error, ExitCode.USAGE)
    except ConnectError as error:
        fail(f"{error}; check the network, and the region or URL in VMAPI_* or the profile")
    except (VMAPIError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        # Raised while no event loop runs.
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def run(
    body: Coroutine[Any, Any, T],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run a command's coroutine; exit if it is interrupted."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner, _connect_errors_shown():
            return runner.run(_interruptible(body))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(ExitCode.INTERRUPTED) from None


class _ConnectErrorHandler(logging.Handler):
    """Prints the first connection error, while the client retries."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._shown = False

    def emit(self, record: logging.LogRecord) -> None:
        """Print the first record of a connection error."""
        if not self._shown and getattr(record, "vmapi_error", "") == ConnectError.__name__:
            self._shown = True
            say(record.getMessage())


@contextmanager
def _connect_errors_shown() -> Generator[None]:
    logger, handler = logging.getLogger("async_vmapi.transport.pipeline"), _ConnectErrorHandler()
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
            say("interrupted; waiting for requests in flight (press Ctrl-C again to exit now)")
        else:
            loop.call_later(_LEAVING, _cancel_all)
        main.cancel()

    with _handling(loop, interrupt):
        return await main


def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


def _handling(
    loop: asyncio.AbstractEventLoop, interrupt: Callable[[], None]
) -> AbstractContextManager[None]:
    unhandled: list[float] = []

    def handle() -> None:
        unhandled.clear()
        interrupt()

    def received(*_: object) -> None:
        # Runs at once, also while the loop is blocked; `handle` runs in its next iteration. Not by
        # the loop's own handlers, which Windows does not have.
        hurry()
        unhandled.append(time.monotonic())
        if unhandled[-1] - unhandled[0] >= _STUCK:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(handle)

    return signals_handled_in(loop, received)


@contextmanager
def signals_handled_in(
    loop: asyncio.AbstractEventLoop, handler: Callable[..., object]
) -> Generator[None]:
    """Handle signals as `signals_handled` does, also as the loop begins to wait.

    One that arrives after Python last looked for signals and before the loop's system call, or in
    another thread, does not interrupt that call: a socket wakes the loop up.
    """
    before = signal.set_wakeup_fd(-1)
    if before != -1:  # the loops of uvloop and of Windows have their own
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        with signals_handled(handler):
            yield
        return
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        loop.add_reader(reading, reading.recv, 4096)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            with signals_handled(handler):
                yield
        finally:
            signal.set_wakeup_fd(-1)
            loop.remove_reader(reading)
