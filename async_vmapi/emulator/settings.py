"""The behaviour of the emulated cloud: durations, how guests obey ACPI, formats of responses."""

import ipaddress
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, Self, TypeAlias, TypeGuard

import attrs

from async_vmapi.facts import Facts

__all__ = ["NameChange", "NotFoundForm", "ReplicaChoice", "Settings", "Span"]

Span: TypeAlias = tuple[float, float]
"""A range of seconds, from and to; durations are drawn uniformly from it."""

ReplicaChoice: TypeAlias = Literal["random", "in_turn", "sticky"]
NotFoundForm: TypeAlias = Literal["json", "bare", "html", "gone", "success_false"]
NameChange: TypeAlias = Literal["verbatim", "lower", "strip", "nfc"] | int


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _span(value: float | Sequence[float], name: str = "a span") -> Span:
    pair: Sequence[object] = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} is a pair of seconds, but {value!r} has {len(pair)} values")
    low, high = pair
    if not (_is_number(low) and _is_number(high)):
        raise TypeError(f"{name} is a number of seconds or a pair of them, not {value!r}")
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"{name} must be finite, 0 or more, and in ascending order, not {value!r}")
    return float(low), float(high)


def _network(value: str | ipaddress.IPv4Network) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(value)
    except ValueError:
        raise ValueError(f"network is an IPv4 network like '127.0.0.0/8', not {value!r}") from None


# attrs has converters that get the field's name, but type checkers do not support them yet.
def _staleness(value: float | Sequence[float]) -> Span:
    return _span(value, "staleness")


def _early_size(value: float | Sequence[float] | None) -> Span | None:
    return None if value is None else _span(value, "early_size")


def _replicas(value: Iterable[float]) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"replicas is a sequence of seconds, not {value!r}")
    replicas: tuple[object, ...] = tuple(value)
    for behind in replicas:
        if not _is_number(behind):
            raise TypeError(f"replicas is a sequence of seconds, but {behind!r} is not a number")
        if not 0 <= behind < math.inf:
            raise ValueError(f"replicas must be finite seconds, 0 or more, not {behind!r}")
    return tuple(map(float, value))


def _is_probability(_: object, attribute: "attrs.Attribute[float]", value: object) -> None:
    if not _is_number(value):
        raise TypeError(f"{attribute.name} is a probability from 0 to 1, not {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} is a probability from 0 to 1, not {value!r}")


def _is(
    allowed: str, fits: Callable[[Any], bool], error: type[Exception] = ValueError
) -> Callable[[object, "attrs.Attribute[Any]", object], None]:
    """Return a validator."""

    def check(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if not fits(value):
            raise error(f"{attribute.name} is {allowed}, not {value!r}")

    return check


_is_name_change: Final = _is(
    "'verbatim', 'lower', 'strip', 'nfc' or a number of characters, 1 or more",
    lambda value: (
        value in ("verbatim", "lower", "strip", "nfc") or (type(value) is int and value >= 1)
    ),
)
_is_acpi: Final = _is(
    "'honour', 'ignore' or a number of seconds",
    lambda value: value in ("honour", "ignore") or (_is_number(value) and 0 <= value < math.inf),
)
_is_quota: Final = _is(
    "a number of VMs or None",
    lambda value: value is None or (type(value) is int and value >= 0),
)
_is_state: Final = _is("a non-empty string", lambda value: isinstance(value, str) and value != "")
_is_flag: Final = _is("true or false", lambda value: isinstance(value, bool), TypeError)


def _states(value: Iterable[str]) -> tuple[str, ...]:
    # A string is a sequence of strings too: one state for each letter.
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"extra_states is a sequence of states, not {value!r}")
    return tuple(value)


_BY_FACT: Final = {
    "reads.appears": "not_found",
    "reads.address": "address",
    "reads.get_shape": "get_shape",
    "reads.not_found": "not_found_form",
    "names.change": "names",
    "reboot.shows": "reboot_visible",
    "resize.restarts": "restart_after_resize",
}
"""Facts, and the settings that are the same."""

_EARLY: Final = (0.0, 5.0)


@attrs.frozen(kw_only=True)
class Settings:
    """The behaviour of a cloud, or of one VM.

    All times are seconds on the cloud's clock; a single number is a fixed duration.

    Attributes:
        create: From the accepted request to ``online``.
        not_found: After a create, how long GETs return "not found" and lists do not have the VM.
        address: From ``online`` to the VM having an address (WIRE §4: it can come later).
        network: The IPv4 network that addresses are from; its VMs do not exist, so nothing responds
            there. With ``"127.0.0.0/8"`` (Linux) or ``"127.0.0.1/32"``, probes of readiness reach
            this computer.
        resize: From the accepted request to the VM running again, or being resized.
        shutdown: Time that a guest that honours ACPI takes to shut down.
        power_on: From the accepted request to ``online``.
        power_off: From the accepted request to ``offline``.
        reboot: From the accepted request to ``online`` again.
        reset: Like `reboot`.
        delete: From the accepted request to the VM being absent.
        stale: How long reads show no change after an accepted request.
        list_lag: How long lists still show the state before a change.
        acpi: How the guest handles ACPI requests: ``"honour"``, ``"ignore"`` (it is powered off
            after ``wait_for`` minutes, and never reboots), or a number of seconds after which it
            honours them.
        restart_after_resize: Whether a VM that was running is started again after a resize.
        reboot_visible: Whether a reboot or reset changes ``state``.
        fail_state: The state in which operations end in place of ``online``: they fail.
        extra_states: States shown between ``installing`` and ``online``, in this order.
        get_shape: Whether a GET returns the VM itself, as clients expect, or a list with one VM, as
            is documented.
        strict: Whether to refuse requests that other clients send though no page documents them
            (WIRE §6). For dates, signatures and headers, that of the cloud counts.
        sparse: Whether fields that were seen absent or null are so.
        quota: Maximum number of VMs; None for no limit. With `Cloud.adjust`, it applies to creates
            of matching names.
        staleness: Age of reads: each read, GET or list, shows each VM as it was at a moment drawn
            for that read and VM. This includes presence: a new VM may still be absent, and a
            deleted one still be shown.
        replicas: Seconds that each replica is behind; none by default. A read goes to one of them,
            and its whole response shows that replica's state. `staleness` is added.
        replica_choice: The replica that a read goes to: ``"random"``; ``"in_turn"``, round robin;
            or ``"sticky"``: the GETs of a VM always to the same one, by the VM's id, and lists to
            the last one of `replicas`.
        absence: Probability, from 0 to 1, that a read wrongly shows a VM as absent; drawn for each
            read and VM.
        not_found_form: Response to a call on an unknown VM: ``"json"``, a 404 with the API's
            envelope; ``"bare"``, a 404 without a body; ``"html"``, a 404 with a page; ``"gone"``,
            a 410 without a body; ``"success_false"``, a 200 with ``success: false`` (WIRE §1). With
            `Cloud.adjust` and ``"*"``, it also applies to ids that never existed.
        names: How the provider changes names: ``"verbatim"``, ``"lower"``, ``"strip"`` (strip and
            collapse white space), ``"nfc"`` (Unicode's composed form), or a number of characters to
            which they are cut. Reads show the changed name; `CloudVM.label` has the original one.
        early_size: From the accepted request for a resize to reads showing the new size, before the
            guest is shut down. None to show it when the resize is executed.
        repeat_ids: Probability, from 0 to 1, that a list has a duplicate of a VM.
        writes_before_visible: Whether a new VM can be written to while it is not shown yet
            (`not_found`). After a delete, it is then still shown until it is gone.
    """

    create: Span = attrs.field(default=(30, 90), converter=_span)
    not_found: Span = attrs.field(default=(0, 5), converter=_span)
    address: Span = attrs.field(default=(0, 5), converter=_span)
    network: ipaddress.IPv4Network = attrs.field(
        default=ipaddress.IPv4Network("10.0.0.0/8"), converter=_network
    )
    resize: Span = attrs.field(default=(20, 60), converter=_span)
    shutdown: Span = attrs.field(default=(5, 20), converter=_span)
    power_on: Span = attrs.field(default=(10, 30), converter=_span)
    power_off: Span = attrs.field(default=(1, 3), converter=_span)
    reboot: Span = attrs.field(default=(10, 30), converter=_span)
    reset: Span = attrs.field(default=(5, 15), converter=_span)
    delete: Span = attrs.field(default=(5, 15), converter=_span)
    stale: Span = attrs.field(default=(0, 3), converter=_span)
    list_lag: Span = attrs.field(default=(0, 0), converter=_span)
    acpi: Literal["honour", "ignore"] | float = attrs.field(default="honour", validator=_is_acpi)
    restart_after_resize: bool = attrs.field(default=True, validator=_is_flag)
    reboot_visible: bool = attrs.field(default=True, validator=_is_flag)
    fail_state: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(_is_state)
    )
    extra_states: tuple[str, ...] = attrs.field(
        default=(), converter=_states, validator=attrs.validators.deep_iterable(_is_state)
    )
    get_shape: Literal["object", "list"] = attrs.field(
        default="object", validator=attrs.validators.in_(("object", "list"))
    )
    strict: bool = attrs.field(default=False, validator=_is_flag)
    sparse: bool = attrs.field(default=False, validator=_is_flag)
    quota: int | None = attrs.field(default=None, validator=_is_quota)
    staleness: Span = attrs.field(default=(0, 0), converter=_staleness)
    replicas: tuple[float, ...] = attrs.field(default=(), converter=_replicas)
    replica_choice: ReplicaChoice = attrs.field(
        default="random", validator=attrs.validators.in_(("random", "in_turn", "sticky"))
    )
    absence: float = attrs.field(default=0.0, validator=_is_probability)
    not_found_form: NotFoundForm = attrs.field(
        default="json",
        validator=attrs.validators.in_(("json", "bare", "html", "gone", "success_false")),
    )
    names: NameChange = attrs.field(default="verbatim", validator=_is_name_change)
    early_size: Span | None = attrs.field(default=None, converter=_early_size)
    repeat_ids: float = attrs.field(default=0.0, validator=_is_probability)
    writes_before_visible: bool = attrs.field(default=False, validator=_is_flag)

    @classmethod
    def hostile(cls, max_staleness: float = 10.0, **changes: object) -> Self:
        """Return settings of the worst provider that clients must expect.

        Reads are up to `max_staleness` seconds old, separately for each read and VM; "not found"
        has no body; a resize may show its size before the guest is shut down; lists have
        duplicates; new VMs can be written to before they are shown. Durations are the default ones.
        To break the assumption about reads (`absence`), or for rare cases (`names`), use `changes`.

        Args:
            max_staleness: Maximum age of what a read shows, in seconds.
            changes: Other fields, or other values of those above.

        Raises:
            TypeError: If there is no such field, or a value has the wrong type.
            ValueError: If a value is invalid.
        """
        return cls(
            staleness=(0, max_staleness),
            not_found_form="bare",
            early_size=(0, 5),
            repeat_ids=0.05,
            writes_before_visible=True,
        ).changed(**changes)

    @classmethod
    def from_facts(cls, facts: "Facts | str | os.PathLike[str]", **changes: object) -> Self:
        """Return settings of a cloud that behaves as a provider was seen to.

        Facts that are only assumed (``Facts.default()``) change nothing.

        Args:
            facts: The facts, or the path of their file.
            changes: Other fields, or other values.

        Raises:
            InvalidArgument: If the file cannot be read, or is no file of facts.
            TypeError: If there is no such field, or a value has the wrong type.
            ValueError: If a value is invalid.
        """
        known = Facts.of(facts)
        fields: dict[str, object] = {
            field: known[name].value for name, field in _BY_FACT.items() if name in known
        }
        for name in known:
            section, _, operation = name.partition(".")
            if section == "durations":
                fields[operation] = known[name].value
        if (staleness := known.get("reads.max_staleness")) is not None:
            fields["staleness"] = (0.0, staleness.value)
        if (cut := known.get("names.cut_at")) is not None:
            fields["names"] = cut.value
        if (early := known.get("resize.shows_early")) is not None:
            fields["early_size"] = _EARLY if early.value else None
        return cls().changed(**(fields | changes))

    @property
    def max_staleness(self) -> float:
        """The maximum age of what a read shows, in seconds; that of lists, if they differ."""
        return self.staleness[1] + max(self.replicas, default=0.0) + self.list_lag[1]

    @property
    def has_stale_reads(self) -> bool:
        """Whether GETs and lists can be stale."""
        return self.staleness[1] > 0 or any(self.replicas)

    @property
    def has_odd_reads(self) -> bool:
        """Whether a read can differ from the actual state."""
        return self.has_stale_reads or self.absence > 0 or self.repeat_ids > 0

    def changed(self, **changes: object) -> Self:
        """Return these settings with some fields changed.

        Raises:
            TypeError: If there is no such field, or a value has the wrong type.
            ValueError: If a value is invalid.
        """
        values: dict[str, Any] = dict(changes)
        return attrs.evolve(self, **values)
