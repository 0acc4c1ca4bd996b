"""``async-vmapi region``, ``zone``, ``template`` and ``key``: values for creating VMs."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, TypeVar

import attrs
import typer

from async_vmapi.cli.commands import Commands
from async_vmapi.cli.listing import Columns, Format, Listing
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.models.vm import Region, SSHKey, Template, Zone

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["key", "region", "template", "zone"]

T = TypeVar("T")


def _listing(
    text: str, read: "Callable[[Client], Awaitable[Iterable[T]]]", columns: Columns[T]
) -> Commands:
    group = Commands(text)
    kind, *_ = columns.shown
    names = "Name or ID" if "id" in columns.shown else "Name"

    @group.add("list", help=text)
    def list_(ctx: typer.Context, listing: Listing) -> None:
        listing.show(lambda: ask(client_for(ctx.obj), read), columns)

    @group.add("show", help=f"Show a {kind}.")
    def show(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(metavar=kind.upper(), help=f"{names} of the {kind}.")],
        output: Format,
    ) -> None:
        output.show_one(columns.named(ask(client_for(ctx.obj), read), name), columns)

    return group


@attrs.frozen
class _ZoneOfRegion(Zone):
    region: str


async def _zones(client: "Client") -> list[_ZoneOfRegion]:
    return [
        _ZoneOfRegion(**attrs.asdict(zone), region=region.name)
        for region in await client.regions.list()
        for zone in region.zones
    ]


region = _listing(
    "List the regions.",
    lambda client: client.regions.list(),
    Columns[Region](
        {
            "region": lambda region: region.name,
            "zones": lambda region: ", ".join(
                zone.label + " (not available)" * (not zone.available) for zone in region.zones
            ),
        }
    ),
)
zone = _listing(
    "List the zones of all regions.",
    _zones,
    Columns[_ZoneOfRegion](
        {
            "zone": lambda zone: zone.label,
            "id": lambda zone: zone.id,
            "name": lambda zone: zone.name,
            "region": lambda zone: zone.region,
            "available": lambda zone: "yes" if zone.available else "no",
        }
    ),
)
template = _listing(
    "List the templates to create VMs from.",
    lambda client: client.templates.list(),
    Columns[Template](
        {
            "template": lambda template: template.label,
            "id": lambda template: template.id,
            "supports": lambda template: ", ".join(template.supports),
            "owner": lambda template: template.owner.name if template.owner else "",
        }
    ),
)
key = _listing(
    "List the account's SSH keys.",
    lambda client: client.account.ssh_keys(),
    Columns[SSHKey](
        {
            "key": lambda key: key.name,
            "id": lambda key: key.id,
            "fingerprint": lambda key: key.fingerprint,
        }
    ),
)
