"""The asyncio SDK for a cloud provider's virtual-machine API."""

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
    from async_vmapi.models import (
        Autoscaler,
        CdromBoot,
        Console,
        CreateRequest,
        ImageBoot,
        IPv4Address,
        Network,
        Operation,
        PublicInterface,
        Reference,
        Region,
        SecretRef,
        SSHKey,
        StorageVolume,
        Template,
        VirtualMachine,
        Zone,
    )
    from async_vmapi.tasks.completion import Evidence
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
    "Reference",
    "Region",
    "Response",
    "SSHKey",
    "SecretRef",
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

# Quiet where no logging is set up; docs/telemetry.md tells how to listen.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# A name is imported when it is first used, so that what needs few of them, such as the command
# line's help and completion, waits for no more. Where they are defined, from the ground up:
_HOMES = (
    *("errors", "transport.transport", "models", "tasks.completion", "bulk.report", "bulk.plan"),
    *("tasks.watch", "tasks.task", "writes.record", "transport.http", "bulk.executor", "client"),
)

if not typing.TYPE_CHECKING:

    def __getattr__(name):
        if name in __all__:
            for home in _HOMES:
                module = importlib.import_module(f"{__name__}.{home}")
                if name in module.__all__:
                    value = globals()[name] = getattr(module, name)
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
