"""The facts by name: what each means, and which values it can have. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import attrs
import msgspec

__all__ = ["MOST", "SPECS", "FactSpec", "Kind"]

Kind: TypeAlias = Literal["seconds", "offset", "span", "stages", "count", "flag", "words", "form"]


@attrs.frozen
class FactSpec:
    """What is known about a fact besides its value.

    Attributes:
        kind: ``seconds``; ``offset`` (seconds that can be negative); ``span`` (shortest and longest
            seconds); ``stages`` (states, each with the shortest and longest seconds until it is
            seen); ``count``; ``flag``; ``words``; or ``form``, one of `allowed`.
        meaning: What the fact says.
        allowed: The values of a ``form``.
    """

    kind: Kind
    meaning: str
    allowed: tuple[str, ...] = ()

    def check(self, value: object) -> Any:
        """Return a value in its own type; None if it is not one."""
        if self.kind == "form":
            return value if value in self.allowed else None
        try:
            read: Any = msgspec.convert(value, _TYPES[self.kind])
        except msgspec.ValidationError:
            return None
        spans = {"span": (read,), "stages": read}.get(self.kind, ())
        return None if any(span[-2] > span[-1] for span in spans) else read

    @property
    def described(self) -> str:
        """Which values it can have."""
        return f"one of {', '.join(self.allowed)}" if self.allowed else _DESCRIBED[self.kind]


MOST: Final = 1_000_000_000
"""The largest number in a fact; hexadecimal ones of thousands of digits have no repr."""

# Below infinity.
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
_Word: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]

_TYPES: Final[Mapping[str, Any]] = {
    "seconds": _Seconds,
    "offset": Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)],
    "span": tuple[_Seconds, _Seconds],
    "stages": tuple[tuple[_Word, _Seconds, _Seconds], ...],
    "count": Annotated[int, msgspec.Meta(ge=1, le=MOST)],
    "flag": bool,
    "words": tuple[_Word, ...],
}
_DESCRIBED: Final[Mapping[str, str]] = {
    "seconds": "a number of seconds, 0 or more",
    "offset": "a number of seconds",
    "stages": 'a list of states with two times, like [["installing", 0.5, 3.0]]',
    "span": "a pair of seconds, the shortest and the longest, like [20.0, 45.0]",
    "count": "an integer of at least 1",
    "flag": "true or false",
    "words": 'a list of words, like ["online", "offline"]',
}

_TIMED: Final = (
    "create",
    "resize",
    "shutdown",
    "reboot",
    "reset",
    "delete",
    "power_on",
    "power_off",
)

SPECS: Final[Mapping[str, FactSpec]] = {
    "reads.max_staleness": FactSpec("seconds", "the maximum age of the data in a read"),
    "reads.get_staleness": FactSpec("seconds", "the same of a GET"),
    "reads.list_staleness": FactSpec("seconds", "the same of a list"),
    "reads.go_back": FactSpec("flag", "whether a read can show an older state than the one before"),
    "reads.appears_within": FactSpec("seconds", "how long a new VM can stay invisible"),
    "reads.appears": FactSpec("span", "from the create to the first GET that shows the VM"),
    "reads.appears_in_list": FactSpec("span", "from the create to the first list with the VM"),
    "reads.address": FactSpec("span", "from online to the VM having an address"),
    "reads.get_shape": FactSpec("form", "what a GET returns", ("list", "object")),
    "reads.not_found": FactSpec(
        "form",
        "the response to a GET of an unknown VM",
        ("json", "bare", "html", "gone", "success_false"),
    ),
    "reads.new_fields": FactSpec("words", "fields of a VM that the models do not have"),
    "reads.ids": FactSpec("form", "the type of a VM's id in JSON", ("string", "integer")),
    "refusals.status": FactSpec("count", "the HTTP status of a refused request"),
    "refusals.success_false": FactSpec("flag", "whether its response says success: false"),
    "refusals.field": FactSpec(
        "form", "the field with the reason", ("error", "message", "errors", "none")
    ),
    "clock.offset": FactSpec("offset", "the server's clock minus ours, in seconds"),
    "names.change": FactSpec(
        "form", "what the provider changes in names", ("verbatim", "lower", "strip", "nfc")
    ),
    "names.changes": FactSpec("words", "what comes back changed: case, spaces, unicode, length"),
    "names.cut_at": FactSpec("count", "the number of characters to which names are cut"),
    "states.known": FactSpec("words", "states that are known not to be failures"),
    "states.failures": FactSpec("words", "states in which an operation has failed"),
    "states.failure_hold": FactSpec("seconds", "how long a failing state must persist"),
    "states.unknown_polls": FactSpec("count", "consecutive polls for an unknown state to count"),
    **{
        f"states.{name}": FactSpec("stages", f"the states after a {name}, and when they are seen")
        for name in _TIMED
    },
    "absence.polls": FactSpec("count", "consecutive polls that must show a VM absent"),
    "absence.polls_of_delete": FactSpec("count", "the same for a delete"),
    "reboot.grace": FactSpec("seconds", "seconds after which an unseen reboot is assumed"),
    "reboot.shows": FactSpec("flag", "whether a reboot shows in the state"),
    "reset.shows": FactSpec("flag", "whether a reset shows in the state"),
    "resize.restart": FactSpec("seconds", "from the new size to the restart"),
    "resize.change": FactSpec("seconds", "from shutting down to the restart"),
    "resize.back": FactSpec("seconds", "from the end of wait_for to being online"),
    "resize.restarts": FactSpec("flag", "whether a VM that was running is started again"),
    "resize.shows_early": FactSpec("flag", "whether the new size shows before the VM is down"),
    "power.on": FactSpec("flag", "whether there is a power-on"),
    "power.off": FactSpec("flag", "whether there is a power-off"),
    **{
        f"durations.{name}": FactSpec("span", f"how long a {name} takes, in seconds")
        for name in _TIMED
    },
}
"""All facts, by section and name."""
