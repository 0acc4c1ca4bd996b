"""`VMCloud`: the emulator's cloud with what a test arranges beforehand and asks afterwards."""

import asyncio
import math
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
from async_vmapi.models import CreateRequest, ImageBoot

__all__ = ["QUICK", "VMCloud"]

T = TypeVar("T")

_LOG: Final = 1000
"""How many of the latest requests are kept."""

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
"""A cloud for real time: as quick as lets a client still see what happens."""

_QUICK_CLIENT: Final[ClientOptions] = {
    "seed": 1,
    # A quick cloud shows what is so: nothing is gained by waiting for what reads may hide.
    "max_staleness": 0.0,
    "min_poll_interval": 0.005,
    "max_poll_interval": 0.02,
    "reconcile_timeout": 0.5,
}


class VMCloud(CloudAPI):
    """A cloud in memory, without sockets, to be adjusted, broken and looked into.

    It may be used in any event loop, and in one after another: its own clock goes on where it
    stopped. It is what `Client.in_memory` and `Emulator` take.

    Args:
        settings: How it behaves. By default quick, see `QUICK`; lifelike, which is the emulator's
            default, with `virtual_time`.
        seed: Makes it repeatable: the same ids and durations in each test.
        virtual_time: Whether the event loop's clock jumps (looptime), so that minutes cost
            nothing.

    Attributes:
        requests: How many requests it has answered, by the call's name. One that a fault kept
            away from it is not among them, but is in ``faults.injected``.
        log: The latest requests, the oldest first.
        faults: What goes wrong for which requests: a `FaultPlan`, to be replaced at any time.
        cloud: What is beneath: all that was ever accepted, and every machine's history.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        seed: int | None = 1,
        virtual_time: bool = False,
    ) -> None:
        settings = settings or (Settings() if virtual_time else QUICK)
        super().__init__(settings=settings, seed=seed, log=_LOG, faults=FaultPlan(seed=seed))
        self._suited: ClientOptions = {"seed": 1} if virtual_time else _QUICK_CLIENT
        self._loop: asyncio.AbstractEventLoop | None = None
        # From the clock of who asks to the cloud's own.
        self._offset = 0.0

    def __repr__(self) -> str:
        shown = [f"{vm.label} {vm.state}" for vm in self.cloud.vms.values()]
        return f"<VMCloud: {', '.join(shown) or 'no machines'}>"

    # --- what a test arranges --------------------------------------------------------------------

    def client(self, **options: Unpack[ClientOptions]) -> Client:
        """Return a client of this cloud that looks as often as things happen here.

        In memory there is nothing that must be closed.

        Args:
            options: What `Client.in_memory` takes, by keyword.
        """
        return Client.in_memory(self, **(self._suited | options))

    @property
    def zone_id(self) -> str:
        """A zone in which machines can be created."""
        return _ZONE["id"]

    @property
    def template_id(self) -> str:
        """A template that takes a password, an SSH key and user data."""
        return _TEMPLATE["id"]

    def create_request(self, name: str, *, cpus: int = 1, ram: int = 1024) -> CreateRequest:
        """Return a request to create a machine that this cloud accepts.

        Args:
            name: The machine's name.
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
        """Put a machine there, as if it had been there all along, and return it.

        Args:
            name: Its label.
            state: Its state, any word.
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
        """Change how some machines behave, of those there are and those to come.

        Args:
            pattern: A machine's id, or a name with ``*`` and ``?``.
            changes: Fields of `Settings`, by name; times are in seconds.

        Raises:
            TypeError: If there is no such field, or a value is of the wrong type.
            ValueError: If a value is not allowed.
        """
        self._do(lambda _: self.cloud.adjust(pattern, **changes))

    def elapse(self, seconds: float) -> None:
        """Let so much time pass in the cloud, at once; what was due in it has happened then.

        With long durations in its settings, the cloud does each step when the test says so, however
        slow or busy the machine is. A client's own clock is not touched.

        Args:
            seconds: How much, 0 at least.

        Raises:
            ValueError: If it is less.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds={seconds!r} is not a number from 0")

        def pass_by(now: float) -> None:
            self._offset += seconds
            self.cloud.advance(now + seconds)

        self._do(pass_by)

    def fail_next(
        self,
        call: str,
        kind: FaultKind | None = None,
        *,
        after_processing: bool | None = None,
        **fields: Any,
    ) -> None:
        """Let the next request of a call go wrong, once; several of them wait in a row.

        Args:
            call: The call's name in WIRE §2, like ``create`` or ``power_on``.
            kind: What goes wrong, see `Fault`. By default the connection is lost.
            after_processing: Of a lost connection or a ``server_error``: whether the cloud had
                carried the request out before. By default it had not.
            fields: Other fields of `Fault`.

        Raises:
            ValueError: If there is no such call, or a field is not allowed or not for that call.
        """
        if call not in _CALLS:
            raise ValueError(f"call={call!r} is not one of {', '.join(sorted(_CALLS))}")
        if kind is None:
            kind = "drop_after" if after_processing else "drop_before"
        elif after_processing is not None:
            if kind != "server_error":
                raise ValueError(f"after_processing is not for kind={kind!r}")
            fields["after"] = after_processing
        self._do(lambda _: self.faults.fail_next(call, kind, **fields))

    # --- what a test asks ------------------------------------------------------------------------

    @property
    def vms(self) -> tuple[CloudVM, ...]:
        """All machines as they really are by now, in the order of their creation.

        That is more than a client is shown: a machine is here from the moment at which its create
        was accepted.
        """
        return self._do(self._present)

    def vm(self, name: str) -> CloudVM:
        """Return the one machine of a name, or of an id, as it really is by now.

        Raises:
            LookupError: If there is none, or more than one; it says which there are.
        """
        found = [vm for vm in self.vms if name in (vm.label, vm.id)]
        if len(found) != 1:
            count = f"{len(found)} machines are" if found else "no machine is"
            raise LookupError(f"{count} called {name!r} in {self!r}")
        return found[0]

    # --- the clock -------------------------------------------------------------------------------

    def handle(self, request: Request, *, now: float, today: datetime) -> Response:
        """Answer a request; see `CloudAPI.handle`."""
        return super().handle(request, now=self._from(now), today=today)

    def _present(self, now: float) -> tuple[CloudVM, ...]:
        self.cloud.advance(now)
        return tuple(self.cloud.vms.values())

    def _do(self, act: Callable[[float], T]) -> T:
        """Do something at the cloud's present time."""
        return act(self._now())

    def _now(self) -> float:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.cloud.now
        return self._from(loop.time())

    def _from(self, now: float) -> float:
        """Return the cloud's time for a time of the running loop's clock."""
        loop = asyncio.get_running_loop()
        # Each loop's clock is its own, and looptime sets one back where a test begins; the
        # cloud's must not jump, nor go back.
        if loop is not self._loop or now + self._offset < self.cloud.now:
            self._loop, self._offset = loop, self.cloud.now - now
        return now + self._offset


_ZONE: Final = next(zone for zone in catalogue.ZONES.values() if zone["available"])
_TEMPLATE: Final = max(catalogue.TEMPLATES, key=lambda template: len(template["supports"]))
_CALLS: Final = frozenset(
    {
        *("create", "list", "get", "rename", "delete", "resize", "console"),
        *("shutdown", "reboot", "reset", "power_on", "power_off"),
        *("regions", "templates", "account"),
    }
)
