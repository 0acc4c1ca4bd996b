"""Read request bodies: each function returns a value or raises `Refused`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from async_vmapi.emulator import catalogue
from async_vmapi.emulator.vm import Refused

__all__ = ["create_fields", "integer_of", "object_of", "template_of", "text_of", "without_empty"]


def without_empty(fields: dict[str, object]) -> dict[str, object]:
    """Return the fields that are neither null nor an empty string (WIRE §6)."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def create_fields(fields: dict[str, object]) -> dict[str, object]:
    """Return the documented fields of a create for those that other clients send (WIRE §6)."""
    given = without_empty(fields)
    if "zone_id" in given:
        given.setdefault("compute_zone_id", given["zone_id"])
    for name in "os", "key_id":
        # Typed languages send 0 for an integer that is not set.
        if type(number := given.get(name)) is int:
            given[name] = str(number)
            if not number:
                del given[name]
    return given


def template_of(fields: dict[str, object]) -> catalogue.Template | None:
    """Return the template that a create boots from, or None for a CD (WIRE §2)."""
    boot_type = text_of(fields, "boot_type")
    extras = {
        "password": "password",
        "key_id": "sshkey",
        "user_data": "cloudinit",
    }
    given = [name for name in extras if fields.get(name) is not None]
    if boot_type == "cdrom":
        text_of(fields, "cdrom")
        if given:
            raise Refused(400, f"{given[0]} is for boot_type image only")
        return None
    if boot_type != "image":
        raise Refused(400, "boot_type must be image or cdrom")
    os = text_of(fields, "os")
    template = next((t for t in catalogue.TEMPLATES if t["id"] == os), None)
    if template is None:
        raise Refused(400, "no such template")
    for name in given:
        if name == "key_id":
            if text_of(fields, name) not in {str(known["id"]) for known in catalogue.KEYS}:
                raise Refused(400, "no such SSH key")
        else:
            text_of(fields, name)
        if extras[name] not in template["supports"]:
            raise Refused(400, f"the template does not support {extras[name]}")
    return template


def object_of(body: bytes) -> dict[str, object]:
    """Return the JSON object in a body."""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "the body must be a JSON object") from None


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a string field."""
    # The value may be a secret, so keep it out of the message.
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refused(400, f"{name} must be a non-empty string")
    return value


def integer_of(fields: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """Return an integer field within limits."""
    value = fields.get(name)
    if type(value) is not int or not least <= value <= most:
        raise Refused(400, f"{name} must be an integer from {least} to {most}")
    return value
