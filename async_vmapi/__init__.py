"""The asyncio SDK for a cloud provider's virtual-machine API."""

import logging

from async_vmapi.accounts import UnresolvedWrite
from async_vmapi.bulk import BulkExecutor, BulkInterrupted
from async_vmapi.client import Client
from async_vmapi.completion import Evidence
from async_vmapi.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    Conflict,
    ConnectFailed,
    DecodingError,
    InvalidArgument,
    InvalidState,
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
from async_vmapi.plan import BulkEvent, BulkPlan
from async_vmapi.report import BulkReport, Outcome
from async_vmapi.tasks import Task
from async_vmapi.watch import TaskEvent

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
    "ConnectFailed",
    "Console",
    "CreateRequest",
    "DecodingError",
    "Evidence",
    "IPv4Address",
    "ImageBoot",
    "InvalidArgument",
    "InvalidState",
    "Network",
    "NotFound",
    "Operation",
    "Outcome",
    "OutcomeUnknown",
    "PublicInterface",
    "RateLimited",
    "Reference",
    "Region",
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
