"""Tell a VM that is older than a request by its attach times, on the server's clock. Pure.

A VM shows when its volumes and addresses were attached (WIRE §3), which happens after the create
that made it was sent. Those times name no zone, and the ``Date`` of a response is in UTC, so both
are compared modulo one hour.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from async_vmapi.models import VirtualMachine
from async_vmapi.transport.responses import http_date

__all__ = ["is_older", "server_time"]

_HOUR: Final = 3600.0

_MARGIN: Final = 3.0
"""Seconds: both times are of whole seconds, and the servers' clocks differ a little."""

_FARTHEST: Final = 600.0
"""Seconds back that are told apart: zones can differ by quarters of an hour."""


def server_time(date: str, later: float) -> datetime | None:
    """Return the server's time some seconds after a response arrived; None if that is not known.

    It is never ahead of the server's clock, as a date is made before its response arrives.

    Args:
        date: The response's ``Date`` header.
        later: The seconds.
    """
    moment = http_date(date)
    try:
        return None if moment is None else moment + timedelta(seconds=later)
    except OverflowError:
        return None


def is_older(vm: VirtualMachine, sent: datetime, span: float) -> bool:
    """Return whether a VM was there before a request was sent, as far as its times show.

    Args:
        vm: The VM.
        sent: The server's time when the request was sent.
        span: Seconds before `sent` in which it can have been created.
    """
    earliest = min(_attached(vm), default=None)
    if earliest is None:
        return False
    seconds = (earliest - sent).total_seconds()
    seconds = (seconds + _HOUR / 2) % _HOUR - _HOUR / 2
    return -min(span + _MARGIN, _FARTHEST) <= seconds <= -_MARGIN


def _attached(vm: VirtualMachine) -> Iterator[datetime]:
    texts = [volume.attach_time for volume in vm.storage_volumes]
    texts += [address.attach_time for address in vm.public_interface.ipv4_addresses]
    for text in texts:
        if text:
            try:
                moment = datetime.fromisoformat(text)
                yield moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            except (ValueError, OverflowError):
                continue
