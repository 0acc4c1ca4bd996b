"""What operations do to VMs: one script for each; those of a VM run in sequence. Pure.

A script is a list of steps, each with the seconds to wait before it. It is data, so that a snapshot
has it; some steps decide only then which steps follow.
"""

import operator
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from async_vmapi.emulator.reads import Reads
from async_vmapi.emulator.settings import Span
from async_vmapi.emulator.timeline import Timeline
from async_vmapi.emulator.vm import Change, CloudOperation, CloudVM, Kind, Step, StepAction

__all__ = ["Scripts"]

_Steps: TypeAlias = tuple[Step, ...]
_Begin: TypeAlias = Callable[[CloudVM, CloudOperation], _Steps]

_GONE_NUMBER: Final = operator.attrgetter("gone_number")


class Scripts:
    """Runs the operations of all VMs of a cloud.

    Args:
        seed: Random seed, to make it reproducible.
        encode: Returns a VM as JSON.

    Attributes:
        vms: The existing VMs by id.
        gone: The deleted VMs by id.
        operations: All operations ever accepted.
        timeline: The cloud's clock.
        reads: Decides what reads show.
        random: Random source of durations.
        observer: Called with each VM that changes, and the time.
    """

    def __init__(self, seed: int | None, encode: Callable[[CloudVM], bytes]) -> None:
        self.vms: dict[str, CloudVM] = {}
        self.gone: dict[str, CloudVM] = {}
        self.operations: list[CloudOperation] = []
        self.timeline = Timeline()
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        self.observer: Callable[[CloudVM, float], None] | None = None
        self.reads = Reads(self.timeline, self._draw, encode, seed=seed)
        self.timeline.handlers = {
            "step": self._step,
            "appear": self._appear,
            "address": self._get_address,
            "early_size": self._size_early,
            "publish": self.reads.publish,
        }
        self._begin: Final[Mapping[Kind, _Begin]] = {
            "create": self._creating,
            "resize": self._resizing,
            "shutdown": self._shutting_down,
            "power_on": self._switching,
            "power_off": self._switching,
            "reboot": self._rebooting,
            "reset": self._cycling,
            "delete": self._deleting,
        }
        # Each returns the steps that follow in place of none.
        self._act: Final[Mapping[StepAction, Callable[..., _Steps]]] = {
            "appear": self._appeared,
            "state": self._to_state,
            "fail": self._fail,
            "online": self._online,
            "stop": self._stop,
            "resize": self._resize,
            "size": self._size,
            "size_stopped": self._size_stopped,
            "switch": self._switch,
            "never": self._never,
            "cycle": self._cycle,
            "restart": self._restart,
            "remove": self._removed,
        }

    def load(self, vms: Iterable[CloudVM], operations: Iterable[CloudOperation]) -> None:
        """Add saved VMs and operations, in the order of creation, and what is due."""
        self.operations.extend(operations)
        gone: list[CloudVM] = []
        for vm in vms:
            if vm.is_gone:
                gone.append(vm)
            else:
                self.vms[vm.id] = vm
            for due in vm.due:
                self.timeline.add(vm, due)
        self.gone.update((vm.id, vm) for vm in sorted(gone, key=_GONE_NUMBER))
        self.reads.load((*self.vms.values(), *self.gone.values()))

    def start(self, vm: CloudVM, operation: CloudOperation, now: float) -> None:
        """Run an operation after the unfinished ones of its VM."""
        self.timeline.record(vm, operation)
        self.operations.append(operation)
        vm.queue.append(operation)
        self.report(vm, now)
        if len(vm.queue) == 1:
            self._step(vm, vm.generation, now)

    def cancel(self, vm: CloudVM, now: float) -> None:
        """Cancel all unfinished operations of a VM."""
        vm.generation += 1
        for operation in vm.queue:
            self.timeline.record(vm, operation)
            operation.outcome, operation.finished_at = "cancelled", now
            operation.steps = ()
        vm.queue.clear()
        if not vm.visible:
            # The cancelled create would have made it visible.
            self.timeline.at(vm.visible_at, vm, "appear")

    def _draw(self, span: Span) -> float:
        return self.random.uniform(*span)

    def _step(self, vm: CloudVM, generation: int, at: float) -> None:
        """Continue the VM's first operation; when it ends, start the next one."""
        if generation != vm.generation:
            return
        while vm.queue:
            operation = vm.queue[0]
            self.timeline.record(vm, operation)
            if operation.started_at is None:
                operation.started_at = at
                operation.steps = self._begin[operation.kind](vm, operation)
            else:
                step, *left = operation.steps
                follow = self._act[step.action](vm, operation, at, *step.arguments)
                operation.steps = (*left, *follow)
            if operation.steps:
                self.timeline.at(at + operation.steps[0].delay, vm, "step", generation)
                return
            operation.finished_at = at
            operation.outcome = operation.outcome or "done"
            del vm.queue[0]
            self.report(vm, at)

    # --- changes -------------------------------------------------------------------------------

    def change(self, vm: CloudVM, at: float, **changes: Any) -> None:
        """Change a VM, and what reads show of it."""
        self.timeline.record(vm)
        self.reads.keep(vm, at)
        for name, value in changes.items():
            setattr(vm, name, value)
        last = vm.history[-1]
        if (vm.state, vm.cores, vm.ram) != (last.state, last.cores, last.ram):
            vm.history.append(Change(at, vm.state, vm.cores, vm.ram))
        self.reads.show(vm, at)
        self.report(vm, at)

    def report(self, vm: CloudVM, at: float) -> None:
        """Call the observer."""
        if self.observer is not None:
            self.observer(vm, at)

    def _appear(self, vm: CloudVM, _: None, at: float) -> None:
        if vm.id in self.vms:
            vm.visible = True
            self.reads.show(vm, at)
            self.report(vm, at)

    def _get_address(self, vm: CloudVM, _: None, at: float) -> None:
        self.change(vm, at, has_address=True)

    def _size_early(self, vm: CloudVM, number: int, at: float) -> None:
        operation = self.operations[number]
        if operation.finished_at is None:
            self.change(vm, at, cores=operation.cores, ram=operation.ram)

    # --- how operations begin ------------------------------------------------------------------

    def _creating(self, vm: CloudVM, operation: CloudOperation) -> _Steps:
        settings = vm.settings
        hidden, total = self._draw(settings.not_found), self._draw(settings.create)
        vm.visible_at = operation.accepted_at + hidden
        share = max(0.0, total - hidden) / (1 + len(settings.extra_states))
        last = (
            Step(share, "online", settings.address)
            if settings.fail_state is None
            else _back(vm, share)
        )
        states = (Step(share, "state", (state,)) for state in settings.extra_states)
        return Step(hidden, "appear"), *states, last

    def _shutting_down(self, vm: CloudVM, _: CloudOperation) -> _Steps:
        return (Step(self._draw(vm.settings.stale), "stop"),)

    def _resizing(self, vm: CloudVM, operation: CloudOperation) -> _Steps:
        stale, total = self._stale_and_total(vm, operation)
        if vm.settings.early_size is not None:
            shown_at = operation.accepted_at + self._draw(vm.settings.early_size)
            # Not before the operation starts, if it was queued.
            shown_at = max(shown_at, operation.started_at or 0.0)
            self.timeline.at(shown_at, vm, "early_size", operation.number)
        return (Step(stale, "resize", (stale, total / 3)),)

    def _switching(self, vm: CloudVM, operation: CloudOperation) -> _Steps:
        stale, total = self._stale_and_total(vm, operation)
        return (Step(stale, "switch", (max(0.0, total - stale),)),)

    def _rebooting(self, vm: CloudVM, operation: CloudOperation) -> _Steps:
        acpi = vm.settings.acpi
        if acpi == "ignore":
            return (Step(self._draw(vm.settings.stale), "never"),)
        return self._cycling(vm, operation, 0.0 if acpi == "honour" else float(acpi))

    def _cycling(self, vm: CloudVM, operation: CloudOperation, delay: float = 0.0) -> _Steps:
        stale, total = self._stale_and_total(vm, operation)
        return (Step(stale, "cycle", (delay, max(0.0, total - stale) / 2)),)

    def _deleting(self, vm: CloudVM, operation: CloudOperation) -> _Steps:
        stale, total = self._stale_and_total(vm, operation)
        return (
            Step(stale, "state", ("deleting",)),
            Step(max(0.0, total - stale), "remove"),
        )

    def _stale_and_total(self, vm: CloudVM, operation: CloudOperation) -> tuple[float, float]:
        """Draw how long reads show no change, and how long the operation takes in all."""
        return self._draw(vm.settings.stale), self._draw(getattr(vm.settings, operation.kind))

    # --- steps ---------------------------------------------------------------------------------

    def _appeared(self, vm: CloudVM, _: CloudOperation, at: float) -> _Steps:
        self._appear(vm, None, at)
        return ()

    def _to_state(self, vm: CloudVM, _: CloudOperation, at: float, state: str) -> _Steps:
        self.change(vm, at, state=state)
        return ()

    def _fail(self, vm: CloudVM, operation: CloudOperation, at: float, state: str) -> _Steps:
        operation.outcome = "failed"
        return self._to_state(vm, operation, at, state)

    def _online(self, vm: CloudVM, _: CloudOperation, at: float, *address: float) -> _Steps:
        self.change(vm, at, state="online")
        low, high = address
        self.timeline.at(at + self._draw((low, high)), vm, "address")
        return ()

    def _going_down(self, vm: CloudVM, operation: CloudOperation, honoured: float) -> Step:
        """Shut the guest down by ACPI, or power it off after ``wait_for`` minutes."""
        limit, acpi = 60.0 * operation.wait_for, vm.settings.acpi
        needed = limit if acpi == "ignore" else honoured if acpi == "honour" else float(acpi)
        return Step(min(needed, limit), "state", ("offline",))

    def _stop(self, vm: CloudVM, operation: CloudOperation, _: float) -> _Steps:
        if vm.state != "online":
            operation.outcome = "skipped"
            return ()
        return (self._going_down(vm, operation, self._draw(vm.settings.shutdown)),)

    def _resize(
        self, vm: CloudVM, operation: CloudOperation, _: float, stale: float, third: float
    ) -> _Steps:
        if vm.state != "online":
            return (Step(third, "size"),)
        down = self._going_down(vm, operation, max(0.0, third - stale))
        return down, Step(third, "size_stopped", (third,))

    def _size(self, vm: CloudVM, operation: CloudOperation, at: float) -> _Steps:
        self.change(vm, at, cores=operation.cores, ram=operation.ram)
        return ()

    def _size_stopped(
        self, vm: CloudVM, operation: CloudOperation, at: float, third: float
    ) -> _Steps:
        self._size(vm, operation, at)
        return (_back(vm, third),) if vm.settings.restart_after_resize else ()

    def _switch(self, vm: CloudVM, operation: CloudOperation, _: float, rest: float) -> _Steps:
        on = operation.kind == "power_on"
        if vm.state != ("offline" if on else "online"):
            operation.outcome = "skipped"
            return ()
        return (_back(vm, rest) if on else Step(rest, "state", ("offline",)),)

    def _never(self, _: CloudVM, operation: CloudOperation, __: float) -> _Steps:
        operation.outcome = "never"
        return ()

    def _cycle(
        self, vm: CloudVM, operation: CloudOperation, _: float, delay: float, half: float
    ) -> _Steps:
        if vm.state != "online":
            operation.outcome = "skipped"
            return ()
        return (Step(delay + half, "restart", (half,)),)

    def _restart(self, vm: CloudVM, _: CloudOperation, at: float, half: float) -> _Steps:
        if vm.settings.reboot_visible:
            self.change(vm, at, state="offline")
        return (_back(vm, half),)

    def _removed(self, vm: CloudVM, _: CloudOperation, at: float) -> _Steps:
        del self.vms[vm.id]
        self.gone[vm.id] = vm
        vm.gone_number = len(self.gone)
        vm.visible = False
        vm.history.append(Change(at, None, vm.cores, vm.ram))
        self.reads.hide(vm, at)
        self.report(vm, at)
        return ()


def _back(vm: CloudVM, delay: float) -> Step:
    """Return the step after which the VM is online, or the operation has failed."""
    failed = vm.settings.fail_state
    return (
        Step(delay, "fail", (failed,)) if failed is not None else Step(delay, "state", ("online",))
    )
