"""Fields of a VM's JSON that the models do not have, and the type of its id. Pure."""

import re
from collections.abc import Iterator
from typing import Any, Final, cast, get_args, get_type_hints

import attrs

from async_vmapi.models.vm import VirtualMachine
from async_vmapi.probe.samples import items_of

__all__ = ["id_types", "new_fields"]

# Not what could be an id or an address that is used as a key.
_NAME: Final = re.compile(r"(?=.{1,40}\Z)[A-Za-z_]+([0-9]{0,2}[A-Za-z_]+)*[0-9]{0,2}")


def new_fields(vm: object) -> set[str]:
    """Return the names of fields that `VirtualMachine` does not have, like ``zone.city``."""
    return set(_missing(vm, VirtualMachine, ""))


def id_types(vm: object) -> set[str]:
    """Return the types of the ids of VMs: ``string``, ``integer`` or ``other``."""
    kinds: dict[type, str] = {str: "string", int: "integer"}
    objects = [cast("dict[str, object]", o) for o in items_of(vm) if isinstance(o, dict)]
    return {kinds.get(type(o.get("id")), "other") for o in objects}


def _missing(value: object, model: type, path: str) -> Iterator[str]:
    hints = get_type_hints(model)
    for item in items_of(value):
        if not isinstance(item, dict):
            continue
        for name, below in cast("dict[str, object]", item).items():
            if name not in hints:
                if _NAME.fullmatch(name):
                    yield path + name
            elif (inner := _model_in(hints[name])) is not None:
                yield from _missing(below, inner, f"{path}{name}.")


def _model_in(hint: Any) -> type | None:
    if isinstance(hint, type) and attrs.has(hint):
        return hint
    return next((found for part in get_args(hint) if (found := _model_in(part))), None)
