"""The API's data: VMs, the requests to create them, and the catalogue (WIRE §2, §3).

Frozen values without I/O. Each converts itself to plain data and back, by the converter in
`serialization`, which the bulk reports and the durable jobs share. This package imports only
arguments' checks, errors and `redaction`; everything but these may import it.
"""

from async_vmapi.models.create import CdromBoot, CreateRequest, ImageBoot, SecretRef
from async_vmapi.models.vm import (
    DELETING,
    INSTALLING,
    OFFLINE,
    ONLINE,
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

__all__ = [
    "DELETING",
    "INSTALLING",
    "OFFLINE",
    "ONLINE",
    "Autoscaler",
    "CdromBoot",
    "Console",
    "CreateRequest",
    "IPv4Address",
    "ImageBoot",
    "Network",
    "Operation",
    "PublicInterface",
    "Reference",
    "Region",
    "SSHKey",
    "SecretRef",
    "StorageVolume",
    "Template",
    "VirtualMachine",
    "Zone",
]
