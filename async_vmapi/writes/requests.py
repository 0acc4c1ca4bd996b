"""Check the arguments of the VM methods: ids, paths, and the request of a create. Pure."""

from typing import Any, Final, TypeAlias

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.create import CreateRequest, ImageBoot
from async_vmapi.models.vm import VirtualMachine

__all__ = ["PATH", "VMOrId", "id_of", "path_of", "request_of"]

VMOrId: TypeAlias = VirtualMachine | str
"""A VM, or its id."""

PATH: Final = "/v2/virtual-machines"

_OPTIONS: Final = ("unique_name", "on_unknown", "intent", "maybe_sent", "reconcile_timeout")
"""What a create takes besides its request."""


def id_of(vm: VMOrId) -> str:
    """Return the id of a VM."""
    return validation.identifier("vm", vm.id if isinstance(vm, VirtualMachine) else vm)


def path_of(vm: VMOrId) -> str:
    """Return the path of a VM."""
    return f"{PATH}/{id_of(vm)}"


def request_of(request: object, keywords: dict[str, Any]) -> CreateRequest:
    """Return the request of a create from its positional argument or its keywords."""
    if request is None:
        fields = attrs.fields_dict(CreateRequest)
        if unknown := [name for name in keywords if name not in fields]:
            # They may be secrets, and are in the frame of `create`.
            keywords.clear()
            shown = validation.unknown(unknown, [*fields, *_OPTIONS])
            if "boot" in shown:
                shown += (
                    ". Pass boot=ImageBoot(os=..., password=..., key_id=..., user_data=...), or "
                    "boot=CdromBoot(iso=...)"
                )
            raise InvalidArgument(f"create has no argument {shown}", argument=unknown[0])
        if missing := [name for name in fields if name not in keywords]:
            raise InvalidArgument(
                f"create needs {', '.join(missing)}, or a CreateRequest", argument=missing[0]
            )
        return _without_references(CreateRequest(**keywords))
    if not isinstance(request, CreateRequest):
        raise InvalidArgument(
            f"request of type {type(request).__name__} is not a CreateRequest: pass one, or its "
            "fields by name",
            argument="request",
        )
    if keywords:
        raise InvalidArgument(
            "create takes a CreateRequest or keywords, not both", argument="request"
        )
    return _without_references(request)


def _without_references(request: CreateRequest) -> CreateRequest:
    if isinstance(request.boot, ImageBoot) and request.boot.references:
        name = request.boot.references[0]
        raise InvalidArgument(
            f"{name} is a SecretRef, which only a durable fleet resolves; pass the {name} itself",
            argument=name,
        )
    return request
