"""`Settings` as JSON: their schema, their values, and errors that say what is allowed. Pure."""

import inspect
import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import attrs
import msgspec

from async_vmapi.emulator.control.control import Problem
from async_vmapi.emulator.settings import (
    NameChange,
    NotFoundForm,
    ReplicaChoice,
    Settings,
    Span,
)

__all__ = ["SCHEMAS", "check", "view"]

_SECONDS: Final[Mapping[str, object]] = {"type": "number", "minimum": 0}
_NULL: Final = {"type": "null"}
_SPAN: Final = {
    "description": "a number of seconds, 0 or more, or a pair of them in ascending order",
    "anyOf": [_SECONDS, {"type": "array", "items": _SECONDS, "minItems": 2, "maxItems": 2}],
}


def _one_of(literal: object) -> dict[str, Any]:
    values = get_args(literal)
    words = ", ".join(f'"{value}"' for value in values[:-1])
    return {"description": f'{words} or "{values[-1]}"', "enum": list(values)}


# By type. The descriptions complete the sentence "... is not".
_KINDS: Final[tuple[tuple[object, dict[str, Any]], ...]] = (
    (Span, _SPAN),
    (
        Span | None,
        {
            **_SPAN,
            "description": f"null, {_SPAN['description']}",
            "anyOf": [_NULL, *_SPAN["anyOf"]],
        },
    ),
    (bool, {"description": "true or false", "type": "boolean"}),
    (
        str | None,
        {
            "description": "null or a text that is not empty",
            "anyOf": [_NULL, {"type": "string", "minLength": 1}],
        },
    ),
    (
        int | None,
        {
            "description": "null or an integer, 0 or more",
            "anyOf": [_NULL, {"type": "integer", "minimum": 0}],
        },
    ),
    (
        float,
        {
            "description": "a probability from 0 to 1",
            "type": "number",
            "minimum": 0,
            "maximum": 1,
        },
    ),
    (
        tuple[float, ...],
        {
            "description": "an array of numbers of seconds, 0 or more",
            "type": "array",
            "items": _SECONDS,
        },
    ),
    (
        tuple[str, ...],
        {
            "description": "an array of texts that are not empty",
            "type": "array",
            "items": {"type": "string", "minLength": 1},
        },
    ),
    (
        ipaddress.IPv4Network,
        {"description": 'an IPv4 network such as "10.0.0.0/8"', "type": "string"},
    ),
    (
        Literal["honour", "ignore"] | float,
        {
            "description": '"honour", "ignore" or a number of seconds, 0 or more',
            "anyOf": [{"enum": ["honour", "ignore"]}, _SECONDS],
        },
    ),
    (
        NameChange,
        {
            "description": '"verbatim", "lower", "strip", "nfc" or an integer, 1 or more',
            "anyOf": [
                {"enum": ["verbatim", "lower", "strip", "nfc"]},
                {"type": "integer", "minimum": 1},
            ],
        },
    ),
    *(
        (literal, _one_of(literal))
        for literal in (Literal["list", "object"], ReplicaChoice, NotFoundForm)
    ),
)


def _meanings() -> dict[str, str]:
    """Return what each setting means, from the class's docstring."""
    doc = inspect.cleandoc(Settings.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"^ {4}(\w+): ", doc, flags=re.MULTILINE)
    return {
        name: " ".join(text.split())
        for name, text in zip(entries[1::2], entries[2::2], strict=True)
    }


_MEANINGS: Final = _meanings()
_ALLOWED: Final[Mapping[str, dict[str, Any]]] = {
    field.name: next(schema for kind, schema in _KINDS if kind == field.type)
    for field in attrs.fields(Settings)
}
_FIELDS: Final[Mapping[str, dict[str, Any]]] = {
    name: {
        **schema,
        "description": f"{_MEANINGS.get(name, '')} Allowed: {schema['description']}.".strip(),
    }
    for name, schema in _ALLOWED.items()
}

SCHEMAS: Final[Mapping[str, dict[str, Any]]] = {
    "Settings": {
        "title": "Settings",
        "description": "How the cloud, or one VM, behaves. Times are in seconds on its clock.",
        "type": "object",
        "properties": _FIELDS,
        "required": list(_FIELDS),
        "additionalProperties": False,
    },
    "SettingsFields": {
        "title": "SettingsFields",
        "description": "Some settings.",
        "type": "object",
        "properties": _FIELDS,
        "additionalProperties": False,
    },
}
"""JSON schemas of all settings, and of some."""


def view(settings: Settings) -> dict[str, Any]:
    """Return all settings as JSON values."""
    fields = attrs.asdict(settings, recurse=False)
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: object) -> object:
    return str(value) if isinstance(value, ipaddress.IPv4Network) else value


def check(fields: Mapping[str, object]) -> None:
    """Check settings given as JSON values.

    Raises:
        Problem: If there is no such setting, or a value is not allowed; the message names what is.
    """
    for name, value in fields.items():
        if name not in _FIELDS:
            raise Problem(400, f"{name!r} is not a setting; the settings are {', '.join(_FIELDS)}")
        try:
            Settings().changed(**{name: value})
        except (TypeError, ValueError):
            given = msgspec.json.encode(value).decode()
            given = given if len(given) <= 100 else f"{given[:100]}..."
            words = _ALLOWED[name]["description"]
            raise Problem(400, f"{name}={given} is not {words}") from None
