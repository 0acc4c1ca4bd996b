"""What the emulated provider has besides VMs, with values as in WIRE §2 where they are known.

Made up: the zone ``DC1/PUBLIC-2``, the id of ``DC2/PUBLIC-1``, and the label of Warsaw's zone.
"""

from collections.abc import Mapping
from typing import Final, NotRequired, TypedDict

__all__ = [
    "ACCOUNT",
    "DISK_IMAGES",
    "GROUPS",
    "KEYS",
    "MOST_CPUS",
    "MOST_RAM",
    "REGIONS",
    "TEMPLATES",
    "VLANS",
    "ZONES",
    "Group",
    "Template",
    "Zone",
]

MOST_CPUS: Final = 16
MOST_RAM: Final = 32_000


class Zone(TypedDict):
    """A zone, as the API shows it."""

    id: str
    label: str
    name: str
    available: bool


class Group(TypedDict):
    """A group of VMs, as the API shows it."""

    id: str
    name: str


class _Region(TypedDict):
    name: str
    zones: list[Zone]


class Template(TypedDict):
    """A template, as the API shows it."""

    id: str
    label: str
    supports: list[str]
    owner: NotRequired[dict[str, str]]


REGIONS: Final[tuple[_Region, ...]] = (
    {
        "name": "Poznan",
        "zones": [
            {
                "id": "24e12e20-0851-5354-e2c3-04b16c4c9c45",
                "label": "DC1/PUBLIC-1",
                "name": "Poznan 1",
                "available": True,
            },
            {
                "id": "7c1f6a52-9d0e-4b1c-8a3f-2e5d9b7c4a10",
                "label": "DC1/PUBLIC-2",
                "name": "Poznan 2",
                "available": False,
            },
        ],
    },
    {
        "name": "Poznan 2",
        "zones": [
            {
                "id": "5e0d8b3f-6a41-4c7e-9d25-b8f1c3a7e604",
                "label": "DC2/PUBLIC-1",
                "name": "Poznan 3",
                "available": True,
            }
        ],
    },
    {
        "name": "Warszawa",
        "zones": [
            {
                "id": "0daeacdb-7b1b-f510-d44e-ec8fd457d7aa",
                "label": "DC3/PUBLIC-1",
                "name": "Warszawa 1",
                "available": True,
            }
        ],
    },
)

TEMPLATES: Final[tuple[Template, ...]] = (
    {"id": "2268", "label": "Ubuntu 18.04", "supports": ["password", "sshkey", "cloudinit"]},
    {"id": "2599", "label": "Debian 12", "supports": ["password", "sshkey"]},
    {
        "id": "b7d1c9a4-52e8-4f0b-9c36-1d8e7a5f2b90",
        "label": "Appliance",
        "supports": [],
        "owner": {"id": "4711", "name": "Example Ltd"},
    },
)

DISK_IMAGES: Final[tuple[Mapping[str, object], ...]] = tuple(
    {"id": template["id"], "label": template["label"], "owner": template["owner"], "task": []}
    for template in TEMPLATES
    if "owner" in template
)
"""The images that users have made of disks: the templates with an owner."""

VLANS: Final[tuple[Mapping[str, object], ...]] = ({"id": 7, "label": "internal", "task": []},)
"""The networks; each VM is in all of them."""

KEYS: Final = (
    {"id": 11, "name": "laptop", "fingerprint": "6e:1b:0c:5d:aa:44:f1:90:3d:27:8e:b6:c1:09:52:7f"},
    {"id": 12, "name": "deploy", "fingerprint": "0f:93:7a:e2:18:bc:64:d5:4b:f0:21:9e:37:8c:d6:a1"},
)

GROUPS: Final[tuple[Group, ...]] = ({"id": "1", "name": "web"},)

ACCOUNT: Final = {
    "id": "1001",
    "name": "Example",
    "email": "owner@example.com",
    "sshkeys": list(KEYS),
    "groups": list(GROUPS),
    # Not real, but clients must treat them as secrets (WIRE §2).
    "api": [{"key": "EXAMPLE", "secret_key": "account-api-secret"}],
    "e24files": {"s3": {"access_key": "EXAMPLE", "secret_key": "account-s3-secret"}},
}

ZONES: Final[Mapping[str, Zone]] = {
    zone["id"]: zone for region in REGIONS for zone in region["zones"]
}
