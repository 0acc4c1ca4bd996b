"""The state of a random source as text."""

import base64
import random
import struct
from typing import Final

__all__ = ["set_random", "text_of_random"]

_FORMAT: Final = struct.Struct("<625I")
_VERSION: Final = 3
"""Version of the states of `random.Random`."""


def text_of_random(source: random.Random) -> str:
    """Return the state of a random source as base64; of one that drew no normal numbers."""
    return base64.b64encode(_FORMAT.pack(*source.getstate()[1])).decode()


def set_random(source: random.Random, text: str) -> None:
    """Let a random source continue from a state.

    Raises:
        ValueError: If it is not the state of a random source.
    """
    try:
        numbers = _FORMAT.unpack(base64.b64decode(text, validate=True))
        source.setstate((_VERSION, numbers, None))
    except (ValueError, struct.error):
        raise ValueError("random is not the state of a random source") from None
