"""Decide which requests get which faults. Pure.

`async_vmapi.emulator.delivery` applies the faults of a `FaultPlan`.
"""

import fnmatch
import random
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import msgspec

from async_vmapi.emulator.randomness import set_random, text_of_random

__all__ = ["Fault", "FaultKind", "FaultPlan", "FaultsRecord"]

FaultKind: TypeAlias = Literal[
    "refuse",
    "drop_before",
    "drop_after",
    "stall",
    "rate_limited",
    "server_error",
    "truncated",
    "html",
    "success_false",
    "slow_body",
    "wrong_content_type",
    "close_idle",
    "stale_list",
    "not_found",
    "unknown_state",
    "huge_body",
]

_KINDS: Final[frozenset[str]] = frozenset(get_args(FaultKind))
_ONLY_FOR: Final[Mapping[str, frozenset[str]]] = {
    "stale_list": frozenset({"list"}),
    "not_found": frozenset({"get"}),
    "unknown_state": frozenset({"get", "list"}),
}
_SECONDS: Final[Mapping[str, float]] = {
    "refuse": 0.5,
    "stall": 60.0,
    "slow_body": 2.0,
    "stale_list": 5.0,
}


class Fault(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A fault, and the requests that get it.

    The kinds: ``refuse`` refuses new connections for `seconds` (0.5) and drops the connection of
    the request; ``drop_before`` and ``drop_after`` drop the connection before or after the request
    is executed; ``stall`` executes it, and drops the connection after `seconds` (60);
    ``rate_limited`` responds with 429; ``server_error`` responds with `status`, and with a proxy's
    error page if that is 502 or 504; ``truncated`` sends half the response; ``html`` sends a page
    instead; ``success_false`` sends a refusal with status 200; ``slow_body`` takes `seconds` (2) to
    send the body; ``wrong_content_type`` sends it as ``text/html``; ``close_idle`` closes the
    connection after the response; ``stale_list`` sends a list up to `seconds` (5) old;
    ``not_found`` responds "not found" for an existing VM; ``unknown_state`` replaces each state by
    an unknown one; ``huge_body`` pads the body with white space to `size`. All except ``refuse``,
    ``drop_before``, ``rate_limited``, ``server_error`` and ``success_false`` execute the request.

    Attributes:
        kind: The kind of fault.
        probability: Probability that a request gets it, above 0 and up to 1.
        nth: Or the numbers of the requests that get it, counting from 1 those that match `call` and
            `path`.
        call: Name of the call, as in `CloudAPI.requests`; None for any.
        path: Pattern of the path, with ``*``; None for any.
        times: Maximum number of requests that get it; None for no limit.
        seconds: See above, on the event loop's clock (``stale_list``: the cloud's); None for the
            value in brackets.
        retry_after: Retry-After header of 429 and 503, in seconds; None for no header.
        status: Status of a ``server_error``.
        after: Whether a ``server_error`` is sent after the request is executed.
        size: Bytes of a ``huge_body``.

    Raises:
        ValueError: If a field is invalid.
    """

    kind: FaultKind
    probability: float | None = None
    nth: tuple[int, ...] | None = None
    call: str | None = None
    path: str | None = None
    times: int | None = None
    seconds: float | None = None
    retry_after: int | None = None
    status: Literal[500, 502, 503, 504] = 500
    after: bool = False
    size: int = 128 * 1024 * 1024

    def __post_init__(self) -> None:
        def check(name: str, value: object, allowed: str, *, ok: bool) -> None:
            if not ok:
                raise ValueError(f"{name}={value!r} is not {allowed}")

        check("kind", self.kind, f"one of {', '.join(sorted(_KINDS))}", ok=self.kind in _KINDS)
        if (self.probability is None) is (self.nth is None):
            raise ValueError("a fault has either probability or nth")
        probability, seconds = self.probability, self.seconds
        if probability is not None:
            allowed = "above 0 and up to 1"
            check("probability", probability, allowed, ok=0 < probability <= 1)
        for name, value in (("nth", min(self.nth or (1,))), ("times", self.times)):
            check(name, value, "at least 1", ok=value is None or value >= 1)
        check("seconds", seconds, "0 or more", ok=seconds is None or seconds >= 0)
        after = self.retry_after
        check("retry_after", after, "0 or more", ok=after is None or after >= 0)
        check("status", self.status, "500, 502, 503 or 504", ok=self.status in (500, 502, 503, 504))
        check("size", self.size, "at least 1", ok=self.size >= 1)

    @property
    def lasting(self) -> float:
        """`seconds`, or the default of the kind."""
        return self.seconds if self.seconds is not None else _SECONDS.get(self.kind, 0.0)

    def fits(self, call: str, path: str) -> bool:
        """Return whether it can apply to a request."""
        return (
            call in _ONLY_FOR.get(self.kind, (call,))
            and self.call in {None, call}
            and (self.path is None or fnmatch.fnmatchcase(path, self.path))
        )


class _Plan(msgspec.Struct, forbid_unknown_fields=True):
    fault: list[Fault] = []
    seed: int | None = None


class FaultsRecord(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A `FaultPlan` and how far it is: per fault, how many requests could get it, and how many did.

    Attributes:
        next: Those of `FaultPlan.fail_next`.
        random: State of the random source; None if no fault has a probability.
    """

    faults: tuple[Fault, ...]
    seen: list[int]
    hits: list[int]
    next: list[Fault]
    injected: dict[str, int]
    seed: int | None
    random: str | None


class FaultPlan:
    """Faults to inject.

    Args:
        faults: The faults; if several apply to a request, the first one is used.
        seed: Random seed, to make it reproducible.

    Attributes:
        faults: As above.
        injected: Number of faults injected, by kind.
    """

    def __init__(self, faults: Iterable[Fault] = (), *, seed: int | None = None) -> None:
        self.faults = tuple(faults)
        self.injected: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._seed = seed
        self._seen = [0] * len(self.faults)
        self._hits = [0] * len(self.faults)
        self._next: list[Fault] = []

    @property
    def is_empty(self) -> bool:
        """Whether there are no faults."""
        return not (self.faults or self._next)

    @property
    def unused(self) -> tuple[Fault, ...]:
        """The faults of `fail_next` that no request got yet."""
        return tuple(self._next)

    def pick(self, call: str, path: str) -> Fault | None:
        """Return the fault for a request, if any, and count it."""
        picked = next((fault for fault in self._next if fault.fits(call, path)), None)
        if picked is not None:
            self._next.remove(picked)
        for number, fault in enumerate(self.faults):
            if not fault.fits(call, path):
                continue
            self._seen[number] += 1
            # Always drawn, so that faults do not change each other's sequence.
            if fault.probability is not None:
                hit = self._random.random() < fault.probability
            else:
                hit = self._seen[number] in (fault.nth or ())
            if hit and picked is None and (fault.times is None or self._hits[number] < fault.times):
                self._hits[number] += 1
                picked = fault
        if picked is not None:
            self.injected[picked.kind] += 1
        return picked

    def fail_next(self, call: str, kind: FaultKind = "drop_after", **fields: Any) -> None:
        """Inject a fault in the next request of a call; several calls of this method queue up.

        Args:
            call: Name of the call.
            kind: The kind of fault.
            fields: Other fields of `Fault`.

        Raises:
            ValueError: If a field is invalid, or the kind is not for that call.
        """
        fault = Fault(kind=kind, call=call, probability=1.0, **fields)
        if not fault.fits(call, fault.path or ""):
            raise ValueError(f"kind={kind!r} is not for the call {call!r}")
        self._next.append(fault)

    def add(self, fault: Fault) -> None:
        """Add a fault after the others."""
        self.faults = (*self.faults, fault)
        self._seen.append(0)
        self._hits.append(0)

    def clear(self) -> None:
        """Remove all faults; the counts stay."""
        self.faults, self._seen, self._hits = (), [], []
        self._next.clear()

    @classmethod
    def from_dict(cls, content: object) -> Self:
        """Return the plan in a decoded TOML or JSON document with ``fault`` and ``seed``.

        Raises:
            ValueError: If it is not a valid plan.
        """
        try:
            plan = msgspec.convert(content, _Plan)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None
        return cls(plan.fault, seed=plan.seed)

    def to_dict(self) -> dict[str, object]:
        """Return what `from_dict` takes."""
        plan: dict[str, object] = {"fault": msgspec.to_builtins(list(self.faults))}
        return plan if self._seed is None else plan | {"seed": self._seed}

    def record(self) -> FaultsRecord:
        """Return what `from_record` takes."""
        drawn = any(fault.probability is not None for fault in self.faults)
        return FaultsRecord(
            faults=self.faults,
            seen=list(self._seen),
            hits=list(self._hits),
            next=list(self._next),
            injected=dict(self.injected),
            seed=self._seed,
            random=text_of_random(self._random) if drawn else None,
        )

    @classmethod
    def from_record(cls, record: FaultsRecord) -> Self:
        """Return a plan that continues where another one was.

        Raises:
            ValueError: If the counts are not for the faults, or the random state is none.
        """
        if not len(record.faults) == len(record.seen) == len(record.hits):
            raise ValueError("faults, seen and hits must have the same length")
        plan = cls(record.faults, seed=record.seed)
        plan._seen, plan._hits = list(record.seen), list(record.hits)
        plan._next = list(record.next)
        plan.injected.update(record.injected)
        if record.random is not None:
            set_random(plan._random, record.random)
        return plan

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a plan from a TOML file.

        Raises:
            ValueError: If the file cannot be read or is not a valid plan; the message has its path.
        """
        try:
            return cls.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
