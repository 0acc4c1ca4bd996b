"""``async-vmapi wait``: wait for operations, given their tokens."""

from pathlib import Path
from typing import Annotated

import typer

from async_vmapi.cli.commands import command
from async_vmapi.cli.listing import Format
from async_vmapi.cli.operations import Work, carry_out
from async_vmapi.cli.options import Timeout, read_text
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.tasks.token import read

__all__ = ["wait"]


@command
def wait(
    ctx: typer.Context,
    tokens: Annotated[
        list[str],
        typer.Argument(metavar="TOKEN", help="Tokens, or - for standard input."),
    ],
    output: Format,
    timeout: Timeout = None,
) -> None:
    """Wait for operations to complete, given their tokens.

    Tokens are printed with --no-wait, and for each operation whose outcome is unknown. This command
    only polls; it never sends the request of an operation again.
    """
    given = [
        token
        for text in tokens
        for token in (read_text(Path("-")).split() if text == "-" else [text])
    ]

    if not given:
        fail("standard input has no token: did the command before fail?", ExitCode.USAGE)
    client = client_for(ctx.obj)
    # Checks all before anything is awaited.
    contents = [read(token, client.origin) for token in given]
    names = [token.vm or getattr(token, "name", "") for token in contents]
    carry_out(
        client,
        Work(
            operation="wait",
            items=given,
            start=client.reconcile,
            labels={str(number): name for number, name in enumerate(names)},
            names=names,
            output=output,
            timeout=timeout,
        ),
    )
