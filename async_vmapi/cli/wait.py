"""``async-vmapi wait``: wait for an operation, given its token."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.operations import Work, carry_out
from async_vmapi.cli.options import JSON, command, read_text
from async_vmapi.cli.profiles import client_for
from async_vmapi.errors import InvalidArgument
from async_vmapi.tasks import token as tokens

if TYPE_CHECKING:
    from async_vmapi.bulk.executor import BulkExecutor

__all__ = ["wait"]


@command
def wait(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(help="Token of the operation, or - for standard input.")],
    json: JSON = False,
) -> None:
    """Wait for an operation to complete, given its token.

    Reports print a token for each operation whose outcome is unknown. This command only polls; it
    never sends the request of the operation again.
    """
    client = client_for(ctx.obj)
    text = (read_text(Path("-")) if token == "-" else token).strip()  # noqa: S105 - no secret

    async def reconcile(bulk: "BulkExecutor") -> BulkReport:
        report = await bulk.run([text], client.reconcile)
        if isinstance(wrong := report.outcomes[0].exception, InvalidArgument):
            raise wrong
        return report

    carry_out(client, Work(operation="wait", call=reconcile, only=_about(text), json=json))


def _about(token: str) -> str:
    """Return the VM or name in a token, which may be invalid: the client checks it."""
    content = tokens.peek(token)
    name = content.name if isinstance(content, tokens.IntentToken) else ""
    return (content.vm if content is not None else "") or name or "token"
