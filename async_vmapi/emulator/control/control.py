"""`Control`: a served cloud, its clock, its requests and its events, to be seen and changed."""

from collections import deque
from typing import Final

import msgspec

from async_vmapi.emulator.api import CloudAPI
from async_vmapi.emulator.clock import Clock
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.control.events import Events
from async_vmapi.emulator.control.models import (
    Changed,
    ClockView,
    OperationView,
    VMView,
    What,
)
from async_vmapi.emulator.control.request_log import LoggedRequest, as_text
from async_vmapi.emulator.faults import FaultPlan
from async_vmapi.emulator.snapshot import restore
from async_vmapi.emulator.vm import CloudVM
from async_vmapi.errors import InvalidArgument

__all__ = ["Control", "Problem"]

_REQUESTS: Final = 1000
_LAST_YEAR: Final = 9000


class Problem(Exception):
    """A request to the control API is refused, with the HTTP status `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """What the control API acts on. All methods run on the event loop that serves the cloud.

    Args:
        api: The API of the cloud.
        clock: The clock that drives it.

    Attributes:
        api: As above.
        clock: As above.
        events: What happens: ``vm``, ``request``, ``clock`` and ``changed`` events.
        requests: The latest requests to the cloud's API, oldest first.
    """

    def __init__(self, api: CloudAPI, clock: Clock) -> None:
        self.api = api
        self.clock = clock
        self.events = Events(self._describe)
        self.requests: deque[LoggedRequest] = deque(maxlen=_REQUESTS)
        self._counted = 0
        # What `reset` returns to.
        self._settings = api.cloud.settings
        self._faults = api.faults.to_dict()
        self._speed = clock.speed
        self._rate = api.max_requests_per_second

    def open(self) -> None:
        """Watch the cloud; since `__init__`, another one may have been loaded."""
        self.api.cloud.observer = self._observe
        self.events.ended = False

    def cloud(self) -> Cloud:
        """Return the cloud, after all that is due by now."""
        cloud = self.api.cloud
        cloud.advance(self.now)
        return cloud

    @property
    def now(self) -> float:
        """Seconds on the cloud's clock."""
        return self.api.cloud_time(self.clock.now)

    # --- the clock -----------------------------------------------------------------------------

    def set_clock(
        self,
        *,
        paused: bool | None = None,
        speed: float | None = None,
        to: float | None = None,
    ) -> ClockView:
        """Change the clock, and return what it shows.

        Args:
            paused: Whether it stands still.
            speed: Its speed.
            to: A time of the cloud, to which it moves unless it is later already; all that is due
                until then happens.

        Raises:
            Problem: If the time is too far in the future.
        """
        # What was due before happens at the old pace.
        cloud, clock = self.cloud(), self.clock
        if paused is not None:
            clock.paused = paused
        if speed is not None:
            clock.speed = speed
        if to is not None:
            self._check_date(to)
            clock.advance(max(0.0, to - self.now))
            # The sum of floating-point numbers may be a bit less.
            cloud.advance(to)
        view = self.clock_view()
        self.events.publish("clock", view)
        return view

    def _check_date(self, at: float) -> None:
        try:
            if self.api.cloud.date(at).year <= _LAST_YEAR:
                return
        except OverflowError:
            pass
        raise Problem(400, f"the clock cannot go beyond the year {_LAST_YEAR}")

    def clock_view(self) -> ClockView:
        """Return what the clock shows."""
        cloud, clock = self.cloud(), self.clock
        return ClockView(
            now=cloud.now,
            date=self.date(cloud.now),
            paused=clock.paused,
            speed=clock.speed,
            next=cloud.next,
        )

    def date(self, at: float) -> str:
        """Return the date of a time of the cloud's clock."""
        return as_text(self.api.cloud.date(at))

    # --- the cloud -----------------------------------------------------------------------------

    def changed(self, what: What) -> None:
        """Publish that settings, faults or groups have changed."""
        self.events.publish("changed", Changed(what=what))

    def reset(self, seed: int | None) -> None:
        """Start again with an empty cloud; its clock continues."""
        now = self.cloud().now
        cloud = Cloud(self._settings, seed=seed, epoch=self.api.cloud.date(now))
        cloud.advance(now)
        self.api.faults = FaultPlan.from_dict(self._faults)
        self.api.max_requests_per_second = self._rate
        self.clock.speed, self.clock.paused = self._speed, False
        self.api.replace(cloud)
        self._replaced()

    def restore(self, content: object) -> None:
        """Continue from a snapshot; the clock continues where it was then, as fast as now.

        Raises:
            Problem: If it is no snapshot; nothing is changed then.
        """
        now = self.clock.now
        # A `VMCloud` may be ahead of the clock.
        ahead = self.api.cloud_time(now) - now
        try:
            restore(self.api, content)
        except InvalidArgument as error:
            raise Problem(400, str(error)) from None
        self.clock.start(self.api.cloud.now - ahead)
        self._replaced()

    def _replaced(self) -> None:
        """Report that the cloud is another one."""
        self.requests.clear()
        self.changed("reset")
        self.events.publish("clock", self.clock_view())

    # --- VMs -----------------------------------------------------------------------------------

    def _observe(self, vm: CloudVM, at: float) -> None:
        self.events.publish("vm", self.vm_view(vm, at))

    def vm_view(self, vm: CloudVM, at: float) -> VMView:
        """Return the state of a VM."""
        return VMView(
            id=vm.id,
            label=vm.label,
            state=None if vm.is_gone else vm.state,
            cores=vm.cores,
            ram=vm.ram,
            zone=vm.zone["label"],
            template=vm.template and vm.template["label"],
            created=vm.created,
            address=vm.address if vm.has_address else None,
            visible=vm.visible,
            groups=[group["name"] for group in vm.groups],
            operations=[
                OperationView(
                    kind=operation.kind,
                    accepted_at=operation.accepted_at,
                    started_at=operation.started_at,
                )
                for operation in vm.queue
            ],
            at=at,
        )

    def find(self, name: str, *, deleted: bool = False) -> CloudVM:
        """Return the VM with an id, or the only existing one with a name.

        Args:
            name: The id or the name.
            deleted: Whether it may be the id of a deleted VM.

        Raises:
            Problem: If there is none, or more than one.
        """
        cloud = self.cloud()
        vm = cloud.vms.get(name)
        if vm is None and deleted:
            vm = cloud.gone.get(name)
        if vm is not None:
            return vm
        named = [vm for vm in cloud.vms.values() if vm.label == name]
        if len(named) > 1:
            ids = ", ".join(vm.id for vm in named[:5])
            raise Problem(409, f"{len(named)} VMs are named {name!r}; use an id: {ids}")
        if not named:
            raise Problem(404, f"there is no VM with the id or name {name!r}")
        return named[0]

    # --- requests ------------------------------------------------------------------------------

    def count_request(self) -> int:
        """Return the number of a request whose response is ready."""
        self._counted += 1
        return self._counted

    def _describe(self, content: msgspec.Struct) -> msgspec.Struct:
        return content.entry(self.api) if isinstance(content, LoggedRequest) else content

    def log(self, request: LoggedRequest) -> None:
        """Log a request and its outcome."""
        self.requests.append(request)
        self.events.publish("request", request)
