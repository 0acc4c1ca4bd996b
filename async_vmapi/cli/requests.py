"""Build create requests from a command's options."""

import os
import re
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from async_vmapi.cli.options import New, read_text
from async_vmapi.cli.profiles import ask
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.create import CdromBoot, CreateRequest, ImageBoot, SecretRef
from async_vmapi.models.vm import Template, Zone
from async_vmapi.redaction import Secret

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["MOST_CHARACTERS", "check_name", "looked_up", "names_of"]

MOST_CHARACTERS: Final = 255
"""Maximum length of a name."""

_SHOWN: Final = 60

T = TypeVar("T")


def names_of(pattern: str, count: int, first: int) -> list[str]:
    """Return the names of new VMs, from a pattern like ``web-{:04}``.

    Raises:
        InvalidArgument: If the pattern is invalid, or gives duplicate or too long names.
    """
    check_name(pattern)
    wide = False
    try:
        # Formatting a number with a billion digits takes too long.
        wide = any(_is_wide(spec or "") for _, _, spec, _ in string.Formatter().parse(pattern))
        numbers = range(first, first + (0 if wide else count))
        names = [pattern.format(number) for number in numbers]
    except (ValueError, LookupError, AttributeError, TypeError, MemoryError, OverflowError):
        raise InvalidArgument(
            f"name={pattern!r} is not a pattern with one number in it, like 'web-{{:04}}'",
            argument="name",
        ) from None
    if wide:
        raise _too_long(pattern)
    if len(set(names)) < count:
        raise InvalidArgument(
            f"name={pattern!r} gives several VMs the same name; add a number like {{:04}}",
            argument="name",
        )
    check_name(max(names, key=len))
    return names


def check_name(name: str) -> None:
    """Check the length of a name.

    Raises:
        InvalidArgument: If it has more than 255 characters.
    """
    if len(name) > MOST_CHARACTERS:
        raise _too_long(name)


def _is_wide(spec: str) -> bool:
    return "{" in spec or any(int(n) > MOST_CHARACTERS for n in re.findall(r"\d+", spec))


def _too_long(name: str) -> InvalidArgument:
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    return InvalidArgument(
        f"name={shown!r} gives names of more than {MOST_CHARACTERS} characters", argument="name"
    )


def looked_up(
    client: "Client", names: Sequence[str], new: New, *, stored: bool = False
) -> list[CreateRequest]:
    """Look up the zone, template and key, and return the create requests.

    Args:
        client: The client; it can be used again.
        names: Names of the VMs.
        new: Their options.
        stored: Whether the requests will be stored; then they refer to secrets by name.

    Raises:
        InvalidArgument: If one of them does not exist or does not fit, or a secret is missing.
    """
    secrets = _references(new) if stored else _secrets(new)
    return ask(client, lambda client: _requests(client, names, new, *secrets))


def _secrets(new: New) -> tuple[Secret | None, Secret | None]:
    """Read a new VM's password and user data."""
    if new.user_data is not None and new.user_data_env is not None:
        raise InvalidArgument(
            "give either --user-data or --user-data-env", argument="user_data_env"
        )
    user_data = None if new.user_data is None else Secret(read_text(new.user_data))
    return (
        _variable("password_env", new.password_env),
        user_data
        if user_data is not None and user_data.text()
        else _variable("user_data_env", new.user_data_env),
    )


def _variable(argument: str, name: str | None) -> Secret | None:
    if name is None:
        return None
    value = Secret(os.environ.get(name) or "")
    if not value.text():
        raise InvalidArgument(
            f"{argument}={name!r} is not set in the environment", argument=argument
        )
    return value


def _references(new: New) -> tuple[SecretRef | None, SecretRef | None]:
    if new.user_data is not None:
        raise InvalidArgument(
            "user data is a secret and is not stored: set it in an environment variable of the "
            "workers, and use --user-data-env",
            argument="user_data",
        )
    password, user_data = (
        None if name is None else SecretRef(f"env:{name}")
        for name in (new.password_env, new.user_data_env)
    )
    return password, user_data


async def _requests(
    client: "Client",
    names: Sequence[str],
    new: New,
    password: Secret | SecretRef | None,
    user_data: Secret | SecretRef | None,
) -> list[CreateRequest]:
    zones = [zone for region in await client.regions.list() for zone in region.zones]
    zone = _find("zone", zones, new.zone, _names_of_zone)
    if not zone.available:
        others = _listed([zone for zone in zones if zone.available], _names_of_zone)
        raise InvalidArgument(
            f"zone={new.zone!r} is not available; available: {others}", argument="zone"
        )
    boot = await _boot(client, new, password, user_data)
    return [
        CreateRequest(name=name, cpus=new.cpus, ram=new.ram, zone_id=zone.id, boot=boot)
        for name in names
    ]


async def _boot(
    client: "Client",
    new: New,
    password: Secret | SecretRef | None,
    user_data: Secret | SecretRef | None,
) -> ImageBoot | CdromBoot:
    if new.iso is not None and new.template is None:
        if password or user_data or new.key:
            raise InvalidArgument(
                "--password-env, --key and --user-data require --template", argument="iso"
            )
        return CdromBoot(iso=new.iso)
    if new.template is None or new.iso is not None:
        raise InvalidArgument("give either --template or --iso", argument="template")
    templates = await client.templates.list()
    template = _find("template", templates, new.template, _names_of_template)
    # By the names of features in the template list (WIRE §2).
    features = {"password": password, "sshkey": new.key, "cloudinit": user_data}
    for feature, value in features.items():
        if value is not None and feature not in template.supports:
            others = _listed([t for t in templates if feature in t.supports], _names_of_template)
            raise InvalidArgument(
                f"template={new.template!r} does not support {feature}; supported by: {others}",
                argument="template",
            )
    key_id = None
    if new.key is not None:
        keys = await client.account.ssh_keys()
        key_id = _find("key", keys, new.key, lambda key: (key.id, key.name)).id
    return ImageBoot(
        os=template.id, password=_given(password), key_id=key_id, user_data=_given(user_data)
    )


def _given(value: Secret | SecretRef | None) -> str | SecretRef | None:
    return value.text() if isinstance(value, Secret) else value


def _names_of_zone(zone: Zone) -> Sequence[str]:
    return zone.id, zone.label, zone.name


def _names_of_template(template: Template) -> Sequence[str]:
    return template.id, template.label


def _find(argument: str, found: Sequence[T], wanted: str, names: Callable[[T], Sequence[str]]) -> T:
    matching = [item for item in found if wanted in names(item)]
    if len(matching) == 1:
        return matching[0]
    problem = "is ambiguous" if matching else "was not found; available"
    raise InvalidArgument(
        f"{argument}={wanted!r} {problem}: {_listed(matching or found, names)}", argument=argument
    )


def _listed(items: Sequence[T], names: Callable[[T], Sequence[str]]) -> str:
    return ", ".join(f"{names(item)[1]} ({names(item)[0]})" for item in items) or "none"
