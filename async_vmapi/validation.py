"""Check what callers hand in, before anything is sent.

Each check returns the value it was given, as a plain one of its type, or raises `InvalidArgument`
with the argument's name, the value and what is allowed. A secret's value is never shown.
"""

import contextlib
import math
import re
import unicodedata
from typing import Final

from async_vmapi.errors import InvalidArgument
from async_vmapi.redaction import Secret

__all__ = ["boolean", "identifier", "number", "refuse", "seconds", "secret", "text", "whole"]

_PLAIN_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_LARGEST: Final = 2**31 - 1
_SHOWN: Final = (str, int, float, type(None))


def refuse(argument: str, value: object, allowed: str) -> InvalidArgument:
    """Return the error for a value that is not what is `allowed`."""
    # A container, or an object of the caller's, may hold a secret.
    shown = f"<{type(value).__name__}>"
    if isinstance(value, _SHOWN):
        # An integer of thousands of digits has no repr.
        with contextlib.suppress(ValueError):
            shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return InvalidArgument(f"{argument}={shown} is not {allowed}", argument=argument)


def whole(argument: str, value: object, *, minimum: int) -> int:
    """Check an integer; a bool is none, nor is a float that happens to be whole."""
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= _LARGEST:
        return int(value)
    raise refuse(argument, value, f"an integer from {minimum} to {_LARGEST}")


def boolean(argument: str, value: object) -> bool:
    """Check a bool; 0 and 1 are none."""
    if isinstance(value, bool):
        return value
    raise refuse(argument, value, "True or False")


def _is_sendable(value: str) -> bool:
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in value)


def text(argument: str, value: object) -> str:
    """Check a text that is not blank and holds no control characters."""
    if isinstance(value, str) and value.strip() and _is_sendable(value):
        return str.__str__(value)
    raise refuse(argument, value, "a text that is not blank and has no control characters")


def secret(argument: str, value: object) -> Secret:
    """Check a secret text: not empty, and possible to encode. Its value is never shown."""
    hidden = Secret.of(value)
    del value  # no frame of an error may have it
    if _is_encodable(hidden.reveal()):
        return Secret(str.__str__(hidden.text()))
    raise InvalidArgument(
        f"{argument} (its value is not shown) is not a text of at least one character in UTF-8",
        argument=argument,
    )


def _is_encodable(value: object) -> bool:
    # By itself, so that no frame of an error has the value.
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def identifier(argument: str, value: object) -> str:
    """Check an id that becomes a part of a path: letters, digits, ``_`` and ``-`` alone."""
    if isinstance(value, str) and _PLAIN_TOKEN.fullmatch(value):
        return str.__str__(value)
    raise refuse(argument, value, "an id of 1 to 128 letters, digits, '_' or '-'")


def seconds(argument: str, value: object) -> float:
    """Check a number of seconds above 0; infinity is one."""
    return number(argument, value, above=0.0, what="a number of seconds")


def number(
    argument: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    finite: bool = False,
    what: str = "a number",
) -> float:
    """Check a number that is greater than `above`, and not less than `least`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            found = float(value)
            if found > above and found >= least and (found < math.inf or not finite):
                return found
    limits = f"above {above:g}" if above > -math.inf else f"of at least {least:g}"
    raise refuse(argument, value, f"{what} {limits}{', and finite' if finite else ''}")
