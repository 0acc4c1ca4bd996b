"""The catalogue for creates: regions with their zones, templates, SSH keys (WIRE §2)."""

from async_vmapi.models.vm import Region, SSHKey, Template
from async_vmapi.transport import codec
from async_vmapi.transport.pipeline import Call, Pipeline

__all__ = ["Account", "Regions", "Templates"]


class Regions:
    """The provider's regions, as ``client.regions``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def list(self) -> list[Region]:
        """Return all regions with their zones; a zone's id is a create's ``zone_id``."""
        return await self._pipeline.call(Call("regions", "GET", "/v2/regions"), codec.REGIONS)


class Templates:
    """The images to boot new VMs from, as ``client.templates``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def list(self) -> list[Template]:
        """Return all templates; a template's id is the ``os`` of an `ImageBoot`."""
        return await self._pipeline.call(Call("templates", "GET", "/v2/templates"), codec.TEMPLATES)


class Account:
    """The account that the credentials belong to, as ``client.account``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def ssh_keys(self) -> list[SSHKey]:
        """Return the account's SSH keys; a key's id is the ``key_id`` of an `ImageBoot`.

        The response also contains the account's secrets (WIRE §2), which are not decoded.
        """
        return await self._pipeline.call(Call("account", "GET", "/v2/account"), codec.SSH_KEYS)
