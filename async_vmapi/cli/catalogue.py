"""``async-vmapi regions``, ``templates`` and ``keys``: values for creating VMs."""

from collections.abc import Sequence

import typer
from rich.text import Text

from async_vmapi.cli.options import JSON, command
from async_vmapi.cli.output import console_for, print_json, table
from async_vmapi.cli.profiles import ask, client_for

__all__ = ["keys", "regions", "templates"]


@command
def regions(ctx: typer.Context, json: JSON = False) -> None:
    """List the regions and their zones."""
    found = ask(client_for(ctx.obj), lambda client: client.regions.list())
    rows = [
        (region.name, zone.label, zone.name, zone.id, "" if zone.available else "not available")
        for region in found
        for zone in region.zones
    ]
    _show(found, ("region", "zone", "name", "id", ""), rows, json=json)


@command
def templates(ctx: typer.Context, json: JSON = False) -> None:
    """List the templates to create VMs from."""
    found = ask(client_for(ctx.obj), lambda client: client.templates.list())
    rows = [(t.label, t.id, ", ".join(t.supports), t.owner.name if t.owner else "") for t in found]
    _show(found, ("template", "id", "supports", "owner"), rows, json=json)


@command
def keys(ctx: typer.Context, json: JSON = False) -> None:
    """List the account's SSH keys."""
    found = ask(client_for(ctx.obj), lambda client: client.account.ssh_keys())
    _show(
        found,
        ("key", "id", "fingerprint"),
        [(k.name, k.id, k.fingerprint) for k in found],
        json=json,
    )


def _show(
    found: object, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, json: bool
) -> None:
    if json:
        print_json(found)
    else:
        console_for(json=False).print(table(columns, rows))
