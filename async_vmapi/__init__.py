"""The asyncio SDK for a cloud provider's virtual-machine API.

In docstrings, "WIRE §4" is a section of docs/wire.md, and a "pure" module does no I/O and reads no
clock.
"""

import importlib
import logging
import typing

if typing.TYPE_CHECKING:
    from async_vmapi.bulk.executor import BulkExecutor, BulkInterrupted
    from async_vmapi.bulk.plan import BulkEvent, BulkPlan
    from async_vmapi.bulk.report import BulkReport, Outcome
    from async_vmapi.client import Client
    from async_vmapi.errors import (
        APIError,
        AuthenticationError,
        BadRequest,
        Conflict,
        ConnectError,
        DecodingError,
        InvalidArgument,
        InvalidState,
        JobExists,
        JobNotFound,
        NotFound,
        OutcomeUnknown,
        RateLimited,
        ServerError,
        TaskError,
        TaskFailed,
        TaskTimeout,
        TransportError,
        TransportTimeout,
        VMAPIError,
        VMVanished,
    )
    from async_vmapi.models.create import CdromBoot, CreateRequest, ImageBoot, SecretRef
    from async_vmapi.models.vm import (
        Autoscaler,
        Console,
        IPv4Address,
        Network,
        Operation,
        PublicInterface,
        Reference,
        Region,
        SSHKey,
        StorageVolume,
        Template,
        VirtualMachine,
        Zone,
    )
    from async_vmapi.readiness.conditions import Ready
    from async_vmapi.tasks.completion import Evidence
    from async_vmapi.tasks.explain import Explanation, Seen
    from async_vmapi.tasks.task import Task
    from async_vmapi.tasks.watch import TaskEvent
    from async_vmapi.transport.http import HTTPTransport
    from async_vmapi.transport.transport import Response, Transport
    from async_vmapi.writes.record import UnresolvedWrite

__all__ = [
    "APIError",
    "AuthenticationError",
    "Autoscaler",
    "BadRequest",
    "BulkEvent",
    "BulkExecutor",
    "BulkInterrupted",
    "BulkPlan",
    "BulkReport",
    "CdromBoot",
    "Client",
    "Conflict",
    "ConnectError",
    "Console",
    "CreateRequest",
    "DecodingError",
    "Evidence",
    "Explanation",
    "HTTPTransport",
    "IPv4Address",
    "ImageBoot",
    "InvalidArgument",
    "InvalidState",
    "JobExists",
    "JobNotFound",
    "Network",
    "NotFound",
    "Operation",
    "Outcome",
    "OutcomeUnknown",
    "PublicInterface",
    "RateLimited",
    "Ready",
    "Reference",
    "Region",
    "Response",
    "SSHKey",
    "SecretRef",
    "Seen",
    "ServerError",
    "StorageVolume",
    "Task",
    "TaskError",
    "TaskEvent",
    "TaskFailed",
    "TaskTimeout",
    "Template",
    "Transport",
    "TransportError",
    "TransportTimeout",
    "UnresolvedWrite",
    "VMAPIError",
    "VMVanished",
    "VirtualMachine",
    "Zone",
]

__version__ = "0.1.0"

# Silent unless logging is configured; see docs/telemetry.md.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Names are imported on first use, so that the command line's help and completion start fast. The
# modules that define them, from the lowest layer up:
_MODULES = (
    *("errors", "transport.transport", "models.vm", "models.create"),
    *("readiness.conditions", "tasks.completion", "tasks.explain"),
    *("bulk.report", "bulk.plan", "tasks.watch", "tasks.task", "writes.record"),
    *("transport.http", "bulk.executor", "client"),
)

if not typing.TYPE_CHECKING:

    def __getattr__(name):
        if name in __all__:
            for path in _MODULES:
                module = importlib.import_module(f"{__name__}.{path}")
                if name in module.__all__:
                    value = globals()[name] = getattr(module, name)
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
