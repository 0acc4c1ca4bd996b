"""How the emulated cloud behaves: durations, guests, forms of its answers."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self, TypeAlias, TypeGuard

import attrs

__all__ = ["Settings", "Span"]

Span: TypeAlias = tuple[float, float]
"""Seconds, from and to; a duration is drawn evenly from between."""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _span(value: float | Sequence[float]) -> Span:
    pair: Sequence[object] = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"a span has two ends, and {value!r} has {len(pair)}")
    low, high = pair
    if not (_is_number(low) and _is_number(high)):
        raise TypeError(f"a span is a number of seconds or a pair of them, not {value!r}")
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"a span goes up from 0 seconds at least, which {value!r} does not")
    return float(low), float(high)


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

    def changed(self, **changes: object) -> Self:
        """Return these settings with some fields changed.

        Raises:
            TypeError: If there is no such field, or a value is of the wrong type.
            ValueError: If a value is not allowed.
        """
        values: dict[str, Any] = dict(changes)
        return attrs.evolve(self, **values)
