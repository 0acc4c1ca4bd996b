"""The stored form of a durable job: its operation, plan and items, without secrets. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from async_vmapi import validation
from async_vmapi.bulk.item import check_arguments, labels_of
from async_vmapi.bulk.outcomes import Ended
from async_vmapi.bulk.plan import BulkPlan, Share
from async_vmapi.bulk.report import OutcomeLine, line_of, outcome_of
from async_vmapi.errors import InvalidArgument
from async_vmapi.models import CdromBoot, CreateRequest, ImageBoot, SecretRef, VirtualMachine
from async_vmapi.writes.operations import OPERATIONS, operation_spec

__all__ = [
    "EndedLine",
    "Order",
    "Spec",
    "decode_ended",
    "decode_order",
    "decode_spec",
    "encode",
    "line_of_end",
    "request_of",
    "same_but_items",
    "spec_of",
]

_FORMAT: Final = "async_vmapi durable job 1"


class _Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    limit: int
    max_failures: Share | None = None
    waves: tuple[Share, ...] | None = None
    min_online: Share | None = None
    dry_run: bool = False


class _Image(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="image"
):
    """Secrets are stored as the names of a `SecretRef`."""

    os: str
    key_id: str | None = None
    password_ref: str | None = None
    user_data_ref: str | None = None


class _Cdrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cdrom"):
    iso: str


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `CreateRequest`, serialized."""

    name: str
    cpus: int
    ram: int
    zone_id: str
    boot: _Image | _Cdrom


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job's operation, arguments, plan and items.

    Attributes:
        items: The VMs' ids, or the requests of a create.
    """

    format: str
    operation: str
    arguments: dict[str, Any]
    plan: _Plan
    items: list[str | Request]

    @property
    def labels(self) -> list[str]:
        """The items' labels in a report."""
        return [item if isinstance(item, str) else item.name for item in self.items]

    @property
    def keeps_online(self) -> bool:
        """Whether ``min_online`` applies."""
        lowers = operation_spec(self.operation).lowers and not self.plan.dry_run
        return self.plan.min_online is not None and lowers

    def bulk_plan(self, **fields: Any) -> BulkPlan:
        """Return the plan with additional fields."""
        return BulkPlan(**msgspec.structs.asdict(self.plan), **fields)

    def order(self, job: str, index: int) -> "Order":
        """Return the order for one item."""
        item, keywords = self.items[index], self.arguments
        if isinstance(item, str) and self.operation == "rename":
            keywords = {"name": self.arguments["names"][item]}
        return Order(job, index, self.operation, keywords, item)


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operation on one item of a job."""

    job: str
    index: int
    operation: str
    arguments: dict[str, Any]
    item: str | Request

    @property
    def label(self) -> str:
        """The item's label in a report."""
        return self.item if isinstance(self.item, str) else self.item.name


class EndedLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The result of an item, serialized."""

    outcome: OutcomeLine
    online: bool = False
    untouched: bool = False

    def read(self) -> Ended:
        """Return the result from its serialized form."""
        return Ended(outcome_of(self.outcome), self.online, self.untouched)


decode_spec: Final = msgspec.json.Decoder(Spec).decode
decode_order: Final = msgspec.json.Decoder(Order).decode
decode_ended: Final = msgspec.json.Decoder(EndedLine).decode


def encode(value: msgspec.Struct) -> str:
    """Return a value's canonical text: equal values have equal texts."""
    return msgspec.json.encode(value, order="sorted").decode()


def line_of_end(ended: Ended) -> EndedLine:
    """Return the result of an item in its serialized form."""
    return EndedLine(line_of(ended.outcome), ended.online, ended.untouched)


def same_but_items(one: Spec, other: Spec) -> bool:
    """Return whether two jobs are the same except for their items."""

    def rest(spec: Spec) -> Spec:
        # A rename's new names belong to its items.
        keywords = {name: value for name, value in spec.arguments.items() if name != "names"}
        return msgspec.structs.replace(spec, arguments=keywords, items=[])

    return encode(rest(one)) == encode(rest(other))


def spec_of(
    operation: object, items: Sequence[Any], keywords: Mapping[str, Any], plan: BulkPlan
) -> Spec:
    """Return the checked spec of a job.

    Raises:
        InvalidArgument: If an argument is wrong, cannot be stored, or is a plain secret.
    """
    if not isinstance(operation, str) or operation not in OPERATIONS:
        known = ", ".join(sorted(OPERATIONS))
        raise InvalidArgument(
            f"a durable job does one of {known}: a function cannot be stored", argument="start"
        )
    if plan.on_event is not None:
        raise InvalidArgument(
            "on_event cannot be stored: iterate over the job's events()", argument="on_event"
        )
    given = dict(keywords)
    check_arguments(operation, given)
    labels = labels_of(operation, items)
    if len(set(labels)) < len(labels):
        raise InvalidArgument(
            "the requests contain a duplicate name: if an outcome is unknown, workers could not "
            "identify the request of a VM",
            argument="items",
        )
    if operation == "rename":
        given["names"] = dict(given["names"])
    fields = {name: getattr(plan, name) for name in _Plan.__struct_fields__}
    written = [_written(item) for item in items]
    return Spec(_FORMAT, operation, given, _Plan(**fields), written)


def _written(item: Any) -> str | Request:
    if isinstance(item, VirtualMachine):
        return item.id
    if not isinstance(item, CreateRequest):
        return validation.identifier("vm", item)
    boot = item.boot
    written: _Image | _Cdrom
    if isinstance(boot, CdromBoot):
        written = _Cdrom(boot.iso)
    else:
        written = _Image(
            boot.os,
            boot.key_id,
            _reference(item, "password", boot.password),
            _reference(item, "user_data", boot.user_data),
        )
    return Request(item.name, item.cpus, item.ram, item.zone_id, written)


def _reference(item: CreateRequest, name: str, value: str | SecretRef | None) -> str | None:
    if isinstance(value, str):
        raise InvalidArgument(
            f"the {name} of {item.name!r} is a plain secret, which is not stored: pass a "
            f"SecretRef('env:VMAPI_SECRET_NAME'), or a name that the workers resolve",
            argument=name,
        )
    return None if value is None else value.name


def request_of(request: Request) -> CreateRequest:
    """Return the request from its serialized form, with references to its secrets."""
    boot: ImageBoot | CdromBoot
    if isinstance(request.boot, _Cdrom):
        boot = CdromBoot(iso=request.boot.iso)
    else:
        written = request.boot
        password, user_data = written.password_ref, written.user_data_ref
        boot = ImageBoot(
            os=written.os,
            key_id=written.key_id,
            password=None if password is None else SecretRef(password),
            user_data=None if user_data is None else SecretRef(user_data),
        )
    return CreateRequest(
        name=request.name,
        cpus=request.cpus,
        ram=request.ram,
        zone_id=request.zone_id,
        boot=boot,
    )
