"""Detect VMs that are older than a request by their attach times, on the server's clock. Pure.

The attach times of a VM's volumes and addresses (WIRE §3) are later than the request that created
the VM. They have no time zone, and the ``Date`` of a response is in UTC, so both are compared
modulo one hour.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from async_vmapi.models.vm import VirtualMachine
from async_vmapi.transport.responses import http_date

__all__ = ["is_older", "server_time"]

_HOUR: Final = 3600.0

_MARGIN: Final = 3.0
"""Tolerance in seconds: both times are whole seconds, and the servers' clocks differ a little."""

_FARTHEST: Final = 600.0
"""Maximum age in seconds that can be detected: time zones can differ by a quarter of an hour."""


def server_time(date: str, later: float) -> datetime | None:
    """Return the server's time some seconds after a response arrived; None if it is unknown.

    It is never ahead of the server's clock, since the date is older than the response.

    Args:
        date: The response's ``Date`` header.
        later: Seconds since the response arrived.
    """
    moment = http_date(date)
    try:
        return None if moment is None else moment + timedelta(seconds=later)
    except OverflowError:
        return None


def is_older(vm: VirtualMachine, sent: datetime, span: float) -> bool:
    """Return whether a VM's attach times show that it existed before a request was sent.

    Args:
        vm: The VM.
        sent: The server's time when the request was sent.
        span: Maximum seconds before `sent` at which it may have been created.
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
