"""Read the bodies of requests: each function returns what is asked for, or raises `Refused`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from async_vmapi.emulator import catalogue
from async_vmapi.emulator.vm import Refused

__all__ = ["integer_of", "object_of", "template_of", "text_of"]


def template_of(asked: dict[str, object], *, legacy: bool) -> catalogue.Template | None:
    """Return the template that a create boots from, or None for a CD (WIRE §2)."""
    boot_type = text_of(asked, "boot_type")
    extras = {
        "password": "password",
        "key_id": "sshkey",
        "user_data": "cloudinit",
    }
    given = [name for name in extras if asked.get(name) is not None]
    if boot_type == "cdrom":
        text_of(asked, "cdrom")
        if given:
            raise Refused(400, f"{given[0]} is for boot_type image alone")
        return None
    if boot_type != "image":
        raise Refused(400, "boot_type must be image or cdrom")
    os = text_of(asked, "os")
    template = next((t for t in catalogue.TEMPLATES if t["id"] == os), None)
    if template is None:
        raise Refused(400, "there is no such template")
    for name in given:
        if name == "key_id":
            key = asked[name]
            if not (isinstance(key, str) or (legacy and type(key) is int)):
                raise Refused(400, "key_id must be a string")
            if str(key) not in {str(known["id"]) for known in catalogue.KEYS}:
                raise Refused(400, "there is no such SSH key")
        else:
            text_of(asked, name)
        if extras[name] not in template["supports"]:
            raise Refused(400, f"the template does not support {extras[name]}")
    return template


def object_of(body: bytes) -> dict[str, object]:
    """Return a body that is a JSON object."""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "the body must be a JSON object") from None


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a field that is a text."""
    # The value may be a secret, so it is not repeated.
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refused(400, f"{name} must be a text that is not empty")
    return value


def integer_of(fields: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """Return a field that is an integer within limits."""
    value = fields.get(name)
    if type(value) is not int or not least <= value <= most:
        raise Refused(400, f"{name} must be an integer from {least} to {most}")
    return value
