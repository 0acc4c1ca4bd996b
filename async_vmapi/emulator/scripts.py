"""What operations do to VMs: one script for each; those of a VM run in sequence. Pure.

A script yields the seconds to wait, and receives the time afterwards.
"""

import functools
import random
from collections.abc import Callable
from typing import Any, cast

from async_vmapi.emulator.reads import Reads
from async_vmapi.emulator.settings import Span
from async_vmapi.emulator.timeline import Timeline
from async_vmapi.emulator.vm import Change, CloudOperation, CloudVM, Kind, Script

__all__ = ["Scripts"]


class Scripts:
    """Runs the operations of all VMs of a cloud.

    Args:
        seed: Random seed, to make it reproducible.

    Attributes:
        vms: The existing VMs by id.
        gone: The deleted VMs by id.
        timeline: The cloud's clock.
        reads: Decides what reads show.
        random: Random source of durations.
    """

    def __init__(self, seed: int | None) -> None:
        self.vms: dict[str, CloudVM] = {}
        self.gone: dict[str, CloudVM] = {}
        self.timeline = Timeline()
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        self.reads = Reads(self.timeline, self._draw, seed=seed)

    def start(self, vm: CloudVM, operation: CloudOperation, now: float) -> None:
        """Run an operation after the unfinished ones of its VM."""
        vm.queue.append((operation, self._script(vm, operation)))
        if len(vm.queue) == 1:
            self._step(vm, vm.generation, now)

    def cancel(self, vm: CloudVM, now: float) -> None:
        """Cancel all unfinished operations of a VM."""
        vm.generation += 1
        for operation, _ in vm.queue:
            operation.outcome, operation.finished_at = "cancelled", now
        vm.queue.clear()
        if not vm.visible:
            # The cancelled create would have made it visible.
            self.timeline.at(vm.visible_at, functools.partial(self._appear, vm))

    def _draw(self, span: Span) -> float:
        return self.random.uniform(*span)

    def _step(self, vm: CloudVM, generation: int, at: float) -> None:
        """Continue the VM's first operation; when it ends, start the next one."""
        if generation != vm.generation:
            return
        while vm.queue:
            operation, script = vm.queue[0]
            try:
                if operation.started_at is None:
                    operation.started_at = at
                    delay = next(script)
                else:
                    delay = script.send(at)
            except StopIteration:
                operation.finished_at = at
                operation.outcome = operation.outcome or "done"
                if vm.queue:
                    vm.queue.pop(0)
                continue
            self.timeline.at(at + delay, functools.partial(self._step, vm, generation))
            return

    # --- changes -------------------------------------------------------------------------------

    def change(self, vm: CloudVM, at: float, **changes: Any) -> None:
        """Change a VM, and what reads show of it."""
        self.reads.keep(vm)
        for name, value in changes.items():
            setattr(vm, name, value)
        last = vm.history[-1]
        if (vm.state, vm.cores, vm.ram) != (last.state, last.cores, last.ram):
            vm.history.append(Change(at, vm.state, vm.cores, vm.ram))
        self.reads.show(vm, at)

    def _appear(self, vm: CloudVM, at: float) -> None:
        if vm.id in self.vms:
            vm.visible = True
            self.reads.show(vm, at)

    def _get_address(self, vm: CloudVM, at: float) -> None:
        self.change(vm, at, has_address=True)

    def _size_early(self, vm: CloudVM, operation: CloudOperation, at: float) -> None:
        if operation.finished_at is None:
            self.change(vm, at, cores=operation.cores, ram=operation.ram)

    def _remove(self, vm: CloudVM, at: float) -> None:
        del self.vms[vm.id]
        self.gone[vm.id] = vm
        vm.visible = False
        vm.history.append(Change(at, None, vm.cores, vm.ram))
        self.reads.hide(vm, at)

    # --- scripts -------------------------------------------------------------------------------

    def _creating(self, vm: CloudVM, operation: CloudOperation) -> Script:
        settings = vm.settings
        hidden, total = self._draw(settings.not_found), self._draw(settings.create)
        vm.visible_at = operation.accepted_at + hidden
        now = yield hidden
        self._appear(vm, now)
        share = max(0.0, total - hidden) / (1 + len(settings.extra_states))
        now = yield share
        for state in settings.extra_states:
            self.change(vm, now, state=state)
            now = yield share
        if settings.fail_state is not None:
            operation.outcome = "failed"
            self.change(vm, now, state=settings.fail_state)
            return
        self.change(vm, now, state="online")
        address_at = now + self._draw(settings.address)
        self.timeline.at(address_at, functools.partial(self._get_address, vm))

    def _going_down(self, vm: CloudVM, operation: CloudOperation, honoured: float) -> Script:
        """Shut the guest down by ACPI, or power it off after ``wait_for`` minutes."""
        limit, acpi = 60.0 * operation.wait_for, vm.settings.acpi
        needed = limit if acpi == "ignore" else honoured if acpi == "honour" else float(acpi)
        now = yield min(needed, limit)
        self.change(vm, now, state="offline")

    def _shutting_down(self, vm: CloudVM, operation: CloudOperation) -> Script:
        yield self._draw(vm.settings.stale)
        if vm.state != "online":
            operation.outcome = "skipped"
            return
        yield from self._going_down(vm, operation, self._draw(vm.settings.shutdown))

    def _resizing(self, vm: CloudVM, operation: CloudOperation) -> Script:
        stale, total = self._stale_and_total(vm, operation)
        third = total / 3
        if vm.settings.early_size is not None:
            shown_at = operation.accepted_at + self._draw(vm.settings.early_size)
            # Not before the operation starts, if it was queued.
            shown_at = max(shown_at, cast("float", operation.started_at))
            self.timeline.at(shown_at, functools.partial(self._size_early, vm, operation))
        yield stale
        was_online = vm.state == "online"
        if was_online:
            yield from self._going_down(vm, operation, max(0.0, third - stale))
        now = yield third
        self.change(vm, now, cores=operation.cores, ram=operation.ram)
        if was_online and vm.settings.restart_after_resize:
            now = yield third
            self.change(vm, now, state="online")

    def _switching(self, vm: CloudVM, operation: CloudOperation) -> Script:
        on = operation.kind == "power_on"
        before, after = ("offline", "online") if on else ("online", "offline")
        stale, total = self._stale_and_total(vm, operation)
        yield stale
        if vm.state != before:
            operation.outcome = "skipped"
            return
        now = yield max(0.0, total - stale)
        self.change(vm, now, state=after)

    def _rebooting(self, vm: CloudVM, operation: CloudOperation) -> Script:
        acpi = vm.settings.acpi
        if acpi == "ignore":
            yield self._draw(vm.settings.stale)
            operation.outcome = "never"
            return
        delay = 0.0 if acpi == "honour" else float(acpi)
        yield from self._cycling(vm, operation, delay)

    def _cycling(self, vm: CloudVM, operation: CloudOperation, delay: float = 0.0) -> Script:
        stale, total = self._stale_and_total(vm, operation)
        yield stale
        if vm.state != "online":
            operation.outcome = "skipped"
            return
        half = max(0.0, total - stale) / 2
        now = yield delay + half
        if vm.settings.reboot_visible:
            self.change(vm, now, state="offline")
        now = yield half
        self.change(vm, now, state="online")

    def _deleting(self, vm: CloudVM, operation: CloudOperation) -> Script:
        stale, total = self._stale_and_total(vm, operation)
        now = yield stale
        self.change(vm, now, state="deleting")
        now = yield max(0.0, total - stale)
        self._remove(vm, now)

    def _stale_and_total(self, vm: CloudVM, operation: CloudOperation) -> tuple[float, float]:
        """Draw how long reads show no change, and how long the operation takes in all."""
        return self._draw(vm.settings.stale), self._draw(getattr(vm.settings, operation.kind))

    def _script(self, vm: CloudVM, operation: CloudOperation) -> Script:
        scripts: dict[Kind, Callable[[CloudVM, CloudOperation], Script]] = {
            "create": self._creating,
            "resize": self._resizing,
            "shutdown": self._shutting_down,
            "power_on": self._switching,
            "power_off": self._switching,
            "reboot": self._rebooting,
            "reset": self._cycling,
            "delete": self._deleting,
        }
        return scripts[operation.kind](vm, operation)
