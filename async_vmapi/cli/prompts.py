"""Ask the user on the terminal."""

import asyncio
import getpass
import os
import sys
import threading
import warnings
from contextlib import suppress
from typing import NoReturn

import typer

from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.cli.streams import Stream
from async_vmapi.redaction import Secret

__all__ = ["agree", "agrees", "ask_hidden", "ask_visible", "has_terminal"]


def has_terminal() -> bool:
    """Return whether there is a terminal to ask on."""
    return sys.stdin is not None and sys.stdin.isatty()


def agree(question: str) -> None:
    """Ask for confirmation; exit if it is refused."""
    try:
        confirmed = typer.confirm(question, err=True)
    except typer.Abort:
        _interrupted()
    _line_ended()
    if not confirmed:
        fail("nothing was changed")


async def agrees(question: str) -> bool:
    """Ask for confirmation without blocking the event loop; the end of input is a refusal."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        line = b""
        with suppress(OSError, ValueError):
            # Not by a method of stdin: its lock would be held if the program ends meanwhile.
            line = os.read(sys.stdin.fileno(), 1024)
        with suppress(RuntimeError):  # the loop may be closed by then
            loop.call_soon_threadsafe(_set, answered, line)

    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    threading.Thread(target=read, daemon=True).start()
    try:
        return (await answered).strip().lower() in (b"y", b"yes")
    finally:
        _line_ended()


def _set(answered: "asyncio.Future[bytes]", line: bytes) -> None:
    if not answered.done():
        answered.set_result(line)


def ask_visible(question: str) -> str:
    """Ask for a text; exit if none is entered."""
    try:
        entered = str(typer.prompt(question, default="", show_default=False, err=True))
    except typer.Abort:
        _interrupted()
    _line_ended()
    return entered.strip() or fail("nothing was entered", ExitCode.USAGE)


def ask_hidden(question: str) -> Secret:
    """Ask for a secret, without echo; exit if none is entered."""
    entered, problem = Secret(""), ""
    try:
        with warnings.catch_warnings():
            # Where echo cannot be switched off, getpass would only warn.
            warnings.simplefilter("error", getpass.GetPassWarning)
            entered = Secret(getpass.getpass(f"{question}: ").strip())
    except getpass.GetPassWarning:
        problem = "this terminal would show the secret: use --stdin"
    except UnicodeDecodeError:
        problem = "what was entered is not text in the terminal's encoding"
    except (EOFError, KeyboardInterrupt):
        _interrupted()
    _line_ended()
    if problem or not entered.text():
        fail(problem or "nothing was entered", ExitCode.USAGE)
    return entered


def _line_ended() -> None:
    if isinstance(sys.stderr, Stream):
        sys.stderr.line_ended()


def _interrupted() -> NoReturn:
    with suppress(OSError):  # it may be closed
        typer.echo("", err=True)
    raise typer.Exit(ExitCode.INTERRUPTED) from None
