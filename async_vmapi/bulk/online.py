"""Count which VMs of a bulk call are online, for a plan's ``min_online``. Pure."""

__all__ = ["OnlineVMs"]


class OnlineVMs:
    """The VMs that are online, as far as this call knows.

    Args:
        online: The VMs that are online now.
        minimum: How many must stay online.

    Attributes:
        minimum: As above.
    """

    def __init__(self, online: set[str], minimum: int) -> None:
        self._online = online
        self.minimum = minimum

    def may_go_down(self, vm_id: str | None) -> bool:
        """Return whether an operation may take a VM offline."""
        return vm_id not in self._online or len(self._online) > self.minimum

    def take(self, vm_id: str | None) -> bool:
        """Count a VM as offline; return whether it was online."""
        if vm_id is None or vm_id not in self._online:
            return False
        self._online.remove(vm_id)
        return True

    def add(self, vm_id: str) -> None:
        """Count a VM as online."""
        self._online.add(vm_id)
