"""``async-vmapi region``, ``zone``, ``template`` and ``key``: values for creating VMs."""

from typing import Final

import attrs
import typer

from async_vmapi.cli.commands import Commands
from async_vmapi.cli.listing import Columns, Listing
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.models import Region, SSHKey, Template, Zone

__all__ = ["key", "region", "template", "zone"]

region = Commands("List the regions.")
zone = Commands("List the zones of all regions.")
template = Commands("List the templates to create VMs from.")
key = Commands("List the account's SSH keys.")


@attrs.frozen
class _ZoneOfRegion(Zone):
    region: str


_REGIONS: Final = Columns[Region](
    {
        "region": lambda region: region.name,
        "zones": lambda region: ", ".join(
            zone.label + " (not available)" * (not zone.available) for zone in region.zones
        ),
    }
)
_ZONES: Final = Columns[_ZoneOfRegion](
    {
        "zone": lambda zone: zone.label,
        "id": lambda zone: zone.id,
        "name": lambda zone: zone.name,
        "region": lambda zone: zone.region,
        "available": lambda zone: "yes" if zone.available else "no",
    }
)
_TEMPLATES: Final = Columns[Template](
    {
        "template": lambda template: template.label,
        "id": lambda template: template.id,
        "supports": lambda template: ", ".join(template.supports),
        "owner": lambda template: template.owner.name if template.owner else "",
    }
)
_KEYS: Final = Columns[SSHKey](
    {
        "key": lambda key: key.name,
        "id": lambda key: key.id,
        "fingerprint": lambda key: key.fingerprint,
    }
)


@region.add("list")
def regions(ctx: typer.Context, listing: Listing) -> None:
    """List the regions."""
    listing.show(ask(client_for(ctx.obj), lambda client: client.regions.list()), _REGIONS)


@zone.add("list")
def zones(ctx: typer.Context, listing: Listing) -> None:
    """List the zones of all regions."""
    found = ask(client_for(ctx.obj), lambda client: client.regions.list())
    listing.show(
        [
            _ZoneOfRegion(**attrs.asdict(zone), region=region.name)
            for region in found
            for zone in region.zones
        ],
        _ZONES,
    )


@template.add("list")
def templates(ctx: typer.Context, listing: Listing) -> None:
    """List the templates to create VMs from."""
    listing.show(ask(client_for(ctx.obj), lambda client: client.templates.list()), _TEMPLATES)


@key.add("list")
def keys(ctx: typer.Context, listing: Listing) -> None:
    """List the account's SSH keys."""
    listing.show(ask(client_for(ctx.obj), lambda client: client.account.ssh_keys()), _KEYS)
