"""How the emulated cloud behaves: durations, guests, forms of its answers."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self, TypeAlias, TypeGuard

import attrs

__all__ = ["NameChange", "NotFoundForm", "ReplicaChoice", "Settings", "Span"]

Span: TypeAlias = tuple[float, float]
"""Seconds, from and to; a duration is drawn evenly from between."""

ReplicaChoice: TypeAlias = Literal["random", "in_turn", "sticky"]
NotFoundForm: TypeAlias = Literal["json", "bare", "html", "gone", "success_false"]
NameChange: TypeAlias = Literal["verbatim", "lower", "strip", "nfc"] | int


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _span(value: float | Sequence[float], name: str = "a span") -> Span:
    pair: Sequence[object] = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} has two ends, and {value!r} has {len(pair)}")
    low, high = pair
    if not (_is_number(low) and _is_number(high)):
        raise TypeError(f"{name} is a number of seconds or a pair of them, not {value!r}")
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"{name} goes up from 0 seconds at least, which {value!r} does not")
    return float(low), float(high)


# attrs has converters that know their field's name; type checkers do not know them yet.
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
            raise TypeError(f"replicas is a sequence of seconds, and {behind!r} is no number")
        if not 0 <= behind < math.inf:
            raise ValueError(f"replicas are 0 seconds behind or more, not {behind!r}")
    return tuple(map(float, value))


def _is_probability(_: object, attribute: "attrs.Attribute[float]", value: object) -> None:
    if not _is_number(value):
        raise TypeError(f"{attribute.name} is a probability from 0 to 1, not {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} is a probability from 0 to 1, not {value!r}")


def _is_name_change(_: object, __: "attrs.Attribute[NameChange]", value: object) -> None:
    if value in ("verbatim", "lower", "strip", "nfc"):
        return
    if type(value) is not int or value < 1:
        words = "'verbatim', 'lower', 'strip', 'nfc' or a number of characters from 1"
        raise ValueError(f"names is {words}, not {value!r}")


def _is_acpi(_: object, __: object, value: object) -> None:
    if value in ("honour", "ignore"):
        return
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"acpi is 'honour', 'ignore' or a number of seconds, not {value!r}")


def _is_quota(_: object, __: "attrs.Attribute[int | None]", value: object) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"quota is a number of machines or None, not {value!r}")


def _is_state(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{attribute.name} names states, which {value!r} is not")


def _is_state_or_none(_: object, attribute: "attrs.Attribute[str | None]", value: object) -> None:
    if value is not None:
        _is_state(_, attribute, value)


def _states(value: Iterable[str]) -> tuple[str, ...]:
    # A text is a sequence of texts too, and would show one state for each letter.
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"extra_states is a sequence of states, not {value!r}")
    return tuple(value)


def _is_flag(_: object, attribute: "attrs.Attribute[bool]", value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} is true or false, not {value!r}")


@attrs.frozen(kw_only=True)
class Settings:
    """How a cloud, or one machine of it, behaves.

    All times are seconds on the cloud's clock; a plain number is a fixed duration.

    Attributes:
        create: From the accepted request to ``online``.
        not_found: After a create, how long a get says "not found" and no list has the machine.
        address: From ``online`` to the machine's address (WIRE §4: it can come later).
        resize: From the accepted request to the machine running again, or resized.
        shutdown: What a guest that honours ACPI takes to go down.
        power_on: From the accepted request to ``online``.
        power_off: From the accepted request to ``offline``.
        reboot: From the accepted request to ``online`` again.
        reset: Likewise.
        delete: From the accepted request to the machine's absence.
        stale: How long after an accepted request nothing changes for any reader.
        list_lag: How long the list goes on showing what was true before a change.
        acpi: What the guest makes of a request to go down: ``"honour"`` it, ``"ignore"`` it
            (so it is turned off after ``wait_for`` minutes, and never reboots), or honour it
            after a number of seconds.
        restart_after_resize: Whether a resized machine that ran is started again.
        reboot_visible: Whether a reboot or reset shows in ``state``.
        fail_state: The state that a create ends in, in place of ``online``.
        extra_states: States shown one after the other between ``installing`` and ``online``.
        get_shape: Whether a get answers with a list of one, or with the machine itself.
        legacy_fields: Whether create takes ``zone_id`` and an integer ``key_id`` too.
        sparse: Whether the fields that were seen to be absent or null are so.
        quota: How many machines there can be in all; None for no limit. By `Cloud.adjust` it
            holds for the creates of some names.
        staleness: How old what a read shows is: each read, GET or list, shows each VM as it was
            at a moment drawn for that read and VM. That covers all that a reader sees, presence
            too: a new VM may be absent still, and a deleted one still be shown.
        replicas: How many seconds each replica is behind; none by default. A read goes to one of
            them, and the whole response shows the cloud as that replica has it. `staleness`
            comes on top.
        replica_choice: Which replica a read goes to: ``"random"``; ``"in_turn"``, one after the
            other; or ``"sticky"``: the GETs of a VM always to the same one, by the VM's id, and
            lists to the last one of `replicas`.
        absence: How likely a read wrongly shows a VM as absent, from 0 to 1; drawn for each read
            and VM.
        not_found_form: What a call on an unknown VM gets: ``"json"``, a 404 with the API's
            envelope; ``"bare"``, a 404 without a body; ``"html"``, a 404 with a page; ``"gone"``,
            a 410 without a body; ``"success_false"``, a 200 with ``success: false`` (WIRE §1). By
            `Cloud.adjust` with ``"*"`` it holds for ids that never were, too.
        names: What the provider makes of the names that it is given: ``"verbatim"``,
            ``"lower"``, ``"strip"`` (no white space at the ends, and single spaces inside),
            ``"nfc"`` (Unicode's composed form), or a number of characters at which they are cut.
            Reads show the changed name; `CloudVM.label` stays as given.
        early_size: From the accepted request for a resize to the new size being shown, before
            the guest goes down. None for when the resize is carried out.
        repeat_ids: How likely a list shows a VM twice, from 0 to 1.
        writes_before_visible: Whether a VM that was created and is not shown yet (`not_found`)
            can be written to. A delete then does not keep it from being shown until it is gone.
    """

    create: Span = attrs.field(default=(30, 90), converter=_span)
    not_found: Span = attrs.field(default=(0, 5), converter=_span)
    address: Span = attrs.field(default=(0, 5), converter=_span)
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
    fail_state: str | None = attrs.field(default=None, validator=_is_state_or_none)
    extra_states: tuple[str, ...] = attrs.field(
        default=(), converter=_states, validator=attrs.validators.deep_iterable(_is_state)
    )
    get_shape: Literal["list", "object"] = attrs.field(
        default="list", validator=attrs.validators.in_(("list", "object"))
    )
    legacy_fields: bool = attrs.field(default=True, validator=_is_flag)
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
        """Return settings of a provider that is as bad as its readers must expect.

        Reads are up to `max_staleness` seconds old, each VM in each read for itself; "not found"
        has no body; a resize may show its size before the guest goes down; lists repeat VMs; new
        VMs can be written to before they are shown. All durations are the default ones. What
        breaks the assumption about reads (`absence`) or is rare (`names`) is left to `changes`.

        Args:
            max_staleness: The age of the oldest value that a read shows, in seconds.
            changes: Other fields, or other values for those above.

        Raises:
            TypeError: If there is no such field, or a value is of the wrong type.
            ValueError: If a value is not allowed.
        """
        return cls(
            staleness=(0, max_staleness),
            not_found_form="bare",
            early_size=(0, 5),
            repeat_ids=0.05,
            writes_before_visible=True,
        ).changed(**changes)

    @property
    def max_staleness(self) -> float:
        """The age of the oldest value that a read shows, in seconds; of a list, if they differ."""
        return self.staleness[1] + max(self.replicas, default=0.0) + self.list_lag[1]

    @property
    def has_stale_reads(self) -> bool:
        """Whether GETs and lists can show old values."""
        return self.staleness[1] > 0 or any(self.replicas)

    @property
    def has_odd_reads(self) -> bool:
        """Whether a read can show anything but what is so."""
        return self.has_stale_reads or self.absence > 0 or self.repeat_ids > 0

    def changed(self, **changes: object) -> Self:
        """Return these settings with some fields changed.

        Raises:
            TypeError: If there is no such field, or a value is of the wrong type.
            ValueError: If a value is not allowed.
        """
        values: dict[str, Any] = dict(changes)
        return attrs.evolve(self, **values)
