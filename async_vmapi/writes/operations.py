"""`OperationSpec`: an operation's path, arguments, idempotency and effect on the VM's state.

Methods, bulk calls, durable jobs and the command line read this table. The rule in
`async_vmapi.tasks.rules` decides when an operation is complete.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from async_vmapi import validation
from async_vmapi.transport.retries import Idempotency

__all__ = ["GENERAL", "OPERATIONS", "OperationSpec", "operation_spec"]

_Checks: TypeAlias = Mapping[str, Callable[[str, Any], object]]


@attrs.frozen(kw_only=True)
class OperationSpec:
    """One operation.

    Attributes:
        path: The last part of its path; "" if the VM's path is all.
        idempotent: Whether it names its target state, so that it can be retried (WIRE §5.5).
        takes_offline: Whether the VM is offline afterwards (``"for good"``) or meanwhile.
        takes_ready: Whether the method takes ``ready``, since the VM is to be online afterwards.
        arguments: A check for each argument that bulk calls take.
        required: The arguments without a default.
        bulk_defaults: Arguments whose default differs for many VMs.
    """

    path: str = ""
    idempotent: bool = True
    takes_offline: Literal["no", "meanwhile", "for good"] = "no"
    takes_ready: bool = False
    arguments: _Checks = attrs.field(factory=dict[str, Any])
    required: frozenset[str] = frozenset()
    bulk_defaults: dict[str, Any] = attrs.field(factory=dict[str, Any])

    @property
    def idempotency(self) -> Idempotency:
        """How its request is retried."""
        return Idempotency.IDEMPOTENT if self.idempotent else Idempotency.NON_IDEMPOTENT

    @property
    def lowers(self) -> bool:
        """Whether fewer VMs are online during it."""
        return self.takes_offline != "no"

    @property
    def stays_down(self) -> bool:
        """Whether the VM is not online after it."""
        return self.takes_offline == "for good"


def _wait_for(name: str, value: object) -> None:
    validation.whole(name, value, minimum=0)


def _size(name: str, value: object) -> None:
    validation.whole(name, value, minimum=1)


def _on_unknown(name: str, value: object) -> None:
    if value not in ("raise", "retry"):
        raise validation.refuse(name, value, "'raise' or 'retry'")


def _names(name: str, value: Mapping[Any, Any]) -> None:
    if not isinstance(value, Mapping):
        raise validation.refuse(name, cast(object, value), "a mapping of ids to new names")
    for vm_id, new in value.items():
        validation.identifier(name, vm_id)
        validation.text(f"{name}[{vm_id!r}]", new)


OPERATIONS: Final[Mapping[str, OperationSpec]] = {
    "create": OperationSpec(
        idempotent=False,
        takes_ready=True,
        arguments={"unique_name": validation.boolean, "on_unknown": _on_unknown},
    ),
    "resize": OperationSpec(
        path="resize",
        takes_offline="meanwhile",
        takes_ready=True,
        arguments={"cores": _size, "ram": _size, "wait_for": _wait_for},
        required=frozenset({"cores", "ram"}),
    ),
    "shutdown": OperationSpec(
        path="shutdown", takes_offline="for good", arguments={"wait_for": _wait_for}
    ),
    "power_off": OperationSpec(path="poweroff", takes_offline="for good"),
    "power_on": OperationSpec(path="poweron", takes_ready=True),
    "reboot": OperationSpec(
        path="reboot", idempotent=False, takes_offline="meanwhile", takes_ready=True
    ),
    "reset": OperationSpec(
        path="reset", idempotent=False, takes_offline="meanwhile", takes_ready=True
    ),
    "rename": OperationSpec(
        path="rename", arguments={"names": _names}, required=frozenset({"names"})
    ),
    "delete": OperationSpec(
        takes_offline="for good",
        arguments={"delete_resources": validation.boolean, "missing_ok": validation.boolean},
        bulk_defaults={"missing_ok": True},
    ),
}

GENERAL: Final = "run"
"""The operation name of a caller's own function."""

_UNKNOWN: Final = OperationSpec(idempotent=False)


def operation_spec(operation: str) -> OperationSpec:
    """Return an operation's spec; the effects of a caller's own function are unknown."""
    return OPERATIONS.get(operation, _UNKNOWN)
