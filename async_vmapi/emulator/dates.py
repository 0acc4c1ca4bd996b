"""Read ``X-Date`` headers, also those in local time with the name of its zone (WIRE §6)."""

import functools
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Final

from async_vmapi.emulator.vm import Refused

__all__ = ["moment_of"]

_ZONE: Final = re.compile(r"\s(?P<name>[A-Za-z]+|[+-][0-9]{2})\s*\Z")
_HOURS: Final[Mapping[str, int]] = {
    "WET": 0,
    "WEST": 1,
    "BST": 1,
    "CET": 1,
    "MET": 1,
    "CEST": 2,
    "MEST": 2,
    "EET": 2,
    "EEST": 3,
    "MSK": 3,
}
"""Europe's time zones."""


@functools.lru_cache(maxsize=64)
def moment_of(date: str, strict: bool) -> datetime:
    """Return the moment of an RFC 1123 date; UTC if it names no time zone.

    Args:
        date: The header's value.
        strict: Whether a zone must be one of RFC 822 or an offset like ``+0100``. Otherwise, it can
            also be one of this computer, of Europe, or hours like ``+01``.

    Raises:
        Refused: If it is not a date, or its time zone is unknown.
    """
    # Cached, as all requests of a second have the same date.
    zone = _ZONE.search(date)
    try:
        offset = None if strict or zone is None else _offset(zone["name"])
        if zone is not None and offset is not None:
            # Without the zone: the parser reads +01 as one minute.
            return parsedate_to_datetime(date[: zone.start()]).replace(tzinfo=offset)
        moment = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        raise Refused(401, "X-Date is not an RFC 1123 date") from None
    if moment.tzinfo is not None:
        return moment
    if zone is not None and zone["name"].isalpha():
        raise Refused(401, f"X-Date has the unknown time zone {zone['name'][:20]}; use GMT")
    return moment.replace(tzinfo=UTC)


def _offset(name: str) -> timezone | None:
    """Return the zone of a name; None if only the parser can know it."""
    if not name.isalpha():
        return timezone(timedelta(hours=int(name)))
    # First this computer's own names, as most clients run on it: CST is in China, too.
    for local, seconds in zip(time.tzname, (time.timezone, time.altzone), strict=True):
        if name == local:
            return timezone(timedelta(seconds=-seconds))
    hours = _HOURS.get(name.upper())
    return None if hours is None else timezone(timedelta(hours=hours))
