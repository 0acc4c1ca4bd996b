"""Validate arguments before anything is sent.

Each function returns the value, converted to its plain type, or raises `InvalidArgument` with the
argument's name, the value and the allowed values. A secret's value is never shown.
"""

import contextlib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from async_vmapi.errors import InvalidArgument
from async_vmapi.redaction import Secret

__all__ = [
    "boolean",
    "duration",
    "identifier",
    "number",
    "refuse",
    "seconds",
    "secret",
    "text",
    "unknown",
    "whole",
]

_PLAIN_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_LARGEST: Final = 2**31 - 1
_SHOWN: Final = (str, int, float, type(None))


def refuse(argument: str, value: object, allowed: str) -> InvalidArgument:
    """Return the error for a value that is not `allowed`."""
    # A container or another object may hold a secret.
    shown = f"<{type(value).__name__}>"
    if isinstance(value, _SHOWN):
        # An integer of thousands of digits has no repr.
        with contextlib.suppress(ValueError):
            shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return InvalidArgument(f"{argument}={shown} is not {allowed}", argument=argument)


# What other libraries call it, and the names here, of which a call has one at most.
_SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("cpu", "cpus", "cores", "vcpus", "vcpu"), ("cpus", "cores")),
    **dict.fromkeys(("memory", "mem", "ram_mb", "memory_mb"), ("ram",)),
    **dict.fromkeys(("zone", "region", "location", "datacenter"), ("zone_id",)),
    **dict.fromkeys(("os", "image", "template", "template_id", "iso"), ("boot",)),
    **dict.fromkeys(("password", "key_id", "ssh_keys", "user_data"), ("boot",)),
    **dict.fromkeys(("label", "hostname"), ("name",)),
    **dict.fromkeys(("concurrency", "parallel", "workers"), ("limit",)),
    **dict.fromkeys(("batches", "batch_size"), ("waves",)),
    **dict.fromkeys(("retries", "attempts"), ("max_retries",)),
}


def unknown(names: Iterable[str], known: Iterable[str]) -> str:
    """Return names of arguments that do not exist, each with the one that it may stand for."""
    # Most programs never need it.
    from difflib import get_close_matches

    allowed, shown, unclear = list(known), list[str](), ""
    for name in names:
        meant = [right for right in _SYNONYMS.get(name, ()) if right in allowed]
        meant = meant or get_close_matches(name, allowed, 1)
        shown.append(f"{name!r} (did you mean {meant[0]!r}?)" if meant else repr(name))
        unclear = unclear if meant else f"; it takes {', '.join(allowed) or 'no arguments'}"
    return ", ".join(shown) + unclear


def whole(argument: str, value: object, *, minimum: int) -> int:
    """Check an integer; a bool or a float such as 1.0 is invalid."""
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= _LARGEST:
        return int(value)
    raise refuse(argument, value, f"an integer from {minimum} to {_LARGEST}")


def boolean(argument: str, value: object) -> bool:
    """Check a bool; 0 and 1 are invalid."""
    if isinstance(value, bool):
        return value
    raise refuse(argument, value, "True or False")


def _is_sendable(value: str) -> bool:
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in value)


def text(argument: str, value: object) -> str:
    """Check a string that is not blank and has no control characters."""
    if isinstance(value, str) and value.strip() and _is_sendable(value):
        return str.__str__(value)
    allowed = "a text that is not blank and has no control characters"
    raise refuse(argument, value, allowed + _id_hint(value))


def _id_hint(value: object) -> str:
    # A zone, a template or a task was passed.
    has = [name for name in ("id", "vm_id") if hasattr(type(value), name)]
    return f": pass its {has[0]}" if has else ""


def secret(argument: str, value: object) -> Secret:
    """Check a secret string: not empty, and encodable. Its value is never shown."""
    hidden = Secret.of(value)
    del value  # an error would show this frame's variables
    if _is_encodable(hidden.reveal()):
        return Secret(str.__str__(hidden.text()))
    raise InvalidArgument(
        f"{argument} (its value is not shown) is not a text of at least one character in UTF-8",
        argument=argument,
    )


def _is_encodable(value: object) -> bool:
    # A function, so that the value is in no frame of an error.
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def identifier(argument: str, value: object) -> str:
    """Check an id that becomes part of a path: only letters, digits, ``_`` and ``-``."""
    if isinstance(value, str) and _PLAIN_TOKEN.fullmatch(value):
        return str.__str__(value)
    hint = _id_hint(value)
    if not hint and argument == "vm":
        hint = "; client.vms.list() has the ids of VMs"
    raise refuse(argument, value, f"an id of 1 to 128 letters, digits, '_' or '-'{hint}")


def seconds(argument: str, value: object) -> float:
    """Check a number of seconds above 0; infinity is valid."""
    return number(argument, value, above=0.0, what="a number of seconds")


def duration(argument: str, value: object) -> float:
    """Check a finite number of seconds of at least 0."""
    return number(argument, value, least=0.0, finite=True, what="a number of seconds")


def number(
    argument: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    finite: bool = False,
    what: str = "a number",
) -> float:
    """Check a number that is greater than `above` and at least `least`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            found = float(value)
            if found > above and found >= least and (found < math.inf or not finite):
                return found
    limits = f"above {above:g}" if above > -math.inf else f"of at least {least:g}"
    raise refuse(argument, value, f"{what} {limits}{', and finite' if finite else ''}")
