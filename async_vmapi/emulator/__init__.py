"""The emulator: a local cloud with the provider's API, over HTTP for any client or in memory.

It is written from the API's description (WIRE) only, independently of the client; they share the
format of the signature, errors and the `Transport` types.
"""

from async_vmapi.emulator.api import CloudAPI, Handled
from async_vmapi.emulator.app import Emulator
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.delivery import Delivery, deliver
from async_vmapi.emulator.faults import Fault, FaultKind, FaultPlan
from async_vmapi.emulator.in_memory import InMemoryTransport
from async_vmapi.emulator.request import Request
from async_vmapi.emulator.settings import Settings
from async_vmapi.emulator.snapshot import restore, snapshot
from async_vmapi.emulator.vm import Change, CloudOperation, CloudVM
from async_vmapi.transport.transport import Response

__all__ = [
    "Change",
    "Cloud",
    "CloudAPI",
    "CloudOperation",
    "CloudVM",
    "Delivery",
    "Emulator",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "Handled",
    "InMemoryTransport",
    "Request",
    "Response",
    "Settings",
    "deliver",
    "restore",
    "snapshot",
]
