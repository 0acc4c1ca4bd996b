"""`VMCloud`: the emulator's cloud, with methods to set it up and inspect it in tests."""

import asyncio
import math
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar, Unpack

from async_vmapi.client import Client, ClientOptions
from async_vmapi.emulator import (
    CloudAPI,
    CloudVM,
    FaultKind,
    FaultPlan,
    Request,
    Response,
    Settings,
    catalogue,
)
from async_vmapi.emulator.api import CALLS
from async_vmapi.facts import Facts
from async_vmapi.models.create import CreateRequest, ImageBoot

__all__ = ["QUICK", "QUICK_CLIENT", "VMCloud"]

T = TypeVar("T")

_LOG: Final = 1000
"""Number of latest requests to keep."""

QUICK: Final = Settings().changed(
    create=0.05,
    not_found=0.01,
    address=0,
    resize=0.6,
    shutdown=0.2,
    power_on=0.2,
    power_off=0.2,
    reboot=0.4,
    reset=0.4,
    delete=0.2,
    stale=0,
)
"""Settings for tests in real time: as fast as possible with every state still observable."""

QUICK_CLIENT: Final[ClientOptions] = {
    "seed": 1,
    # Reads of this cloud are never stale.
    "max_staleness": 0.0,
    "min_poll_interval": 0.005,
    "max_poll_interval": 0.02,
    "reconcile_timeout": 0.5,
}


class VMCloud(CloudAPI):
    """A cloud in memory, without sockets, to set up, inject faults into, and inspect.

    It can be used in several event loops, one after another; its clock continues where it stopped.
    `Client.in_memory` and `Emulator` take it.

    Args:
        settings: Its behaviour. The default is that of the facts, if they are given; else `QUICK`,
            or with `virtual_time` the emulator's realistic defaults.
        facts: What is known about the provider, as `async_vmapi.facts.Facts` or the path of their
            file. `client` uses them, too.
        seed: Random seed: ids and durations are the same in each test.
        virtual_time: Whether the event loop's clock jumps (looptime), so that waiting takes no
            time.

    Attributes:
        requests: Number of requests handled, by call. Requests that a fault dropped before are
            counted in ``faults.injected`` instead.
        log: The latest requests, oldest first.
        faults: Faults to inject, a `FaultPlan`; it can be replaced at any time.
        cloud: The emulated cloud: all accepted operations and each VM's history.
        suited: Options of a client that suit its speed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        facts: Facts | str | os.PathLike[str] | None = None,
        seed: int | None = 1,
        virtual_time: bool = False,
    ) -> None:
        if settings is None:
            quick = Settings() if virtual_time else QUICK
            settings = quick if facts is None else Settings.from_facts(facts)
        super().__init__(settings=settings, seed=seed, log=_LOG, faults=FaultPlan(seed=seed))
        self.suited: ClientOptions = {"seed": 1} if virtual_time else QUICK_CLIENT.copy()
        if facts is not None:
            self.suited |= {"facts": Facts.of(facts), "max_staleness": None}
        self._loop: asyncio.AbstractEventLoop | None = None
        # From the running loop's clock to the cloud's clock.
        self._offset = 0.0

    def __repr__(self) -> str:
        shown = [f"{vm.label} {vm.state}" for vm in self.cloud.vms.values()]
        return f"<VMCloud: {', '.join(shown) or 'no VMs'}>"

    # --- set-up ----------------------------------------------------------------------------------

    def client(self, **options: Unpack[ClientOptions]) -> Client:
        """Return a client of this cloud, with polling intervals that suit its speed.

        It does not have to be closed.

        Args:
            options: Keyword arguments of `Client.in_memory`.
        """
        return Client.in_memory(self, **(self.suited | options))

    @property
    def zone_id(self) -> str:
        """A zone in which VMs can be created."""
        return _ZONE["id"]

    @property
    def template_id(self) -> str:
        """A template that supports a password, an SSH key and user data."""
        return _TEMPLATE["id"]

    def create_request(self, name: str, *, cpus: int = 1, ram: int = 1024) -> CreateRequest:
        """Return a create request that this cloud accepts.

        Args:
            name: The VM's name.
            cpus: Number of CPUs.
            ram: Memory in MB.
        """
        return CreateRequest(
            name=name,
            cpus=cpus,
            ram=ram,
            zone_id=self.zone_id,
            boot=ImageBoot(os=self.template_id),
        )

    def add(self, name: str, *, state: str = "online", cores: int = 1, ram: int = 1024) -> CloudVM:
        """Add an existing VM, and return it.

        Args:
            name: Its label.
            state: Its state, any string.
            cores: Number of CPUs.
            ram: Memory in MB.
        """
        return self._do(
            lambda now: self.cloud.place(
                now,
                label=name,
                cores=cores,
                ram=ram,
                zone=_ZONE,
                template=_TEMPLATE,
                state=state,
            )
        )

    def adjust(self, pattern: str = "*", /, **changes: object) -> None:
        """Change the behaviour of some VMs, existing and future ones.

        Args:
            pattern: A VM id, or a name with ``*`` and ``?``.
            changes: Fields of `Settings` by name; times are in seconds.

        Raises:
            TypeError: If there is no such field, or a value has the wrong type.
            ValueError: If a value is invalid.
        """
        self._do(lambda _: self.cloud.adjust(pattern, **changes))

    def elapse(self, seconds: float) -> None:
        """Advance the cloud's clock, and run everything that is due by then.

        With long durations in its settings, a test decides when each step of an operation happens,
        on slow computers too. A client's clock does not change.

        Args:
            seconds: How far, 0 or more.

        Raises:
            ValueError: If it is negative or not finite.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds={seconds!r} is not a finite number, 0 or more")

        def advance(now: float) -> None:
            self._offset += seconds
            self.cloud.advance(now + seconds)

        self._do(advance)

    def fail_next(
        self,
        call: str,
        kind: FaultKind | None = None,
        *,
        after_processing: bool | None = None,
        **fields: Any,
    ) -> None:
        """Inject a fault in the next request of a call; several calls of this method queue up.

        Args:
            call: Name of the call in WIRE §2, like ``create`` or ``power_on``.
            kind: The kind of fault, see `Fault`. By default the connection is dropped.
            after_processing: For a dropped connection or a ``server_error``: whether the cloud
                executes the request before. By default it does not.
            fields: Other fields of `Fault`.

        Raises:
            ValueError: If there is no such call, or a field is invalid or not for that call.
        """
        if call not in CALLS:
            raise ValueError(f"call={call!r} is not one of {', '.join(sorted(CALLS))}")
        if kind is None:
            kind = "drop_after" if after_processing else "drop_before"
        elif after_processing is not None:
            if kind != "server_error":
                raise ValueError(f"after_processing is not for kind={kind!r}")
            fields["after"] = after_processing
        self._do(lambda _: self.faults.fail_next(call, kind, **fields))

    # --- inspection ------------------------------------------------------------------------------

    @property
    def vms(self) -> tuple[CloudVM, ...]:
        """The actual state of all VMs, in the order of their creation.

        Unlike reads of a client, this includes each VM as soon as its create is accepted.
        """
        return self._do(self._present)

    def vm(self, name: str) -> CloudVM:
        """Return the actual state of the only VM with a name or an id.

        Raises:
            LookupError: If there is none or more than one; the message lists the VMs.
        """
        found = [vm for vm in self.vms if name in (vm.label, vm.id)]
        if len(found) != 1:
            count = f"{len(found)} VMs are" if found else "no VM is"
            raise LookupError(f"{count} named {name!r} in {self!r}")
        return found[0]

    # --- the clock -------------------------------------------------------------------------------

    def handle(self, request: Request, *, now: float, today: datetime) -> Response:
        """Handle a request; see `CloudAPI.handle`."""
        return super().handle(request, now=self.cloud_time(now), today=today)

    def _present(self, now: float) -> tuple[CloudVM, ...]:
        self.cloud.advance(now)
        return tuple(self.cloud.vms.values())

    def _do(self, act: Callable[[float], T]) -> T:
        """Call a function with the cloud's current time."""
        return act(self._now())

    def _now(self) -> float:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.cloud.now
        return self.cloud_time(loop.time())

    def cloud_time(self, now: float) -> float:
        """Convert a time of the running loop's clock to the cloud's clock, in seconds."""
        loop = asyncio.get_running_loop()
        # Loops have different clocks, and looptime resets one for each test; the cloud's clock
        # must not jump or go back.
        if loop is not self._loop or now + self._offset < self.cloud.now:
            self._loop, self._offset = loop, self.cloud.now - now
        return now + self._offset


_ZONE: Final = next(zone for zone in catalogue.ZONES.values() if zone["available"])
_TEMPLATE: Final = max(catalogue.TEMPLATES, key=lambda template: len(template["supports"]))
