"""What a client knows of the VMs that it created, changed, renamed and deleted."""

import pytest

from async_vmapi.tasks import changes as module
from async_vmapi.tasks.changes import OwnChanges
from async_vmapi.tasks.rules import Target
from async_vmapi.tasks.vm_list import VMList
from async_vmapi.transport.codec import NamedVM

D = 10.0


class Clock:
    """Replaces an event loop."""

    def __init__(self, now=0.0):
        self.now = now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: clock)
    return clock


@pytest.fixture
def changes(clock):
    return OwnChanges(D)


def listed(sent_at, *labels):
    return VMList(
        sent_at, [NamedVM(str(n), "online", 1, 1024, label) for n, label in enumerate(labels)]
    )


class TestQuiet:
    def test_a_vm_is_quiet_max_staleness_after_its_last_change(self, clock, changes):
        """From its observed completion, or from the longest time it may last."""
        assert changes.is_quiet("a")
        changes.begin("a", Target("shutdown"))
        clock.now = 609.9
        assert not changes.is_quiet("a")
        clock.now = 610.0
        assert changes.is_quiet("a")
        changes.begin("a", Target("shutdown"))
        clock.now = 620.0
        changes.end("a", visible=True)
        clock.now = 629.9
        assert not changes.is_quiet("a")
        clock.now = 630.0
        assert changes.is_quiet("a")
        assert changes.is_visible("a")
        assert not changes.is_visible("b")

    def test_an_operation_does_not_count_against_itself(self, clock, changes):
        """A reboot that may have been sent may show; what was changed before it still counts."""
        changes.begin("a", Target("reboot"))
        changes.end("b", visible=True)
        clock.now = 5.0
        changes.begin("b", Target("reboot"))
        clock.now = 60.0
        assert not changes.is_quiet("a")
        assert changes.is_quiet("a", besides="reboot")
        assert not changes.is_quiet("a", besides="reset")
        assert not changes.is_quiet("b", besides="reboot")
        changes.end("a", visible=True)
        clock.now = 65.0
        assert not changes.is_quiet("a", besides="reboot")

    def test_in_another_event_loop_all_changes_are_recent(self, clock, changes, monkeypatch):
        """Its clock may show any time; an operation in progress lasts as long as before."""
        clock.now = 5000.0
        changes.end("ended", visible=True)
        changes.begin("in progress", Target("shutdown"))
        clock.now = 5100.0
        assert changes.is_quiet("ended")
        other = Clock(3.0)
        monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: other)
        assert not changes.is_quiet("ended")
        other.now = 13.0
        assert changes.is_quiet("ended")
        other.now = 512.9
        assert not changes.is_quiet("in progress")
        other.now = 513.1
        assert changes.is_quiet("in progress")


class TestForgetting:
    def test_a_created_vm_is_known_for_a_while(self, clock, changes):
        """With the requested name."""
        changes.created("0", "web")
        clock.now = 600
        changes.created("1", "web")
        assert (changes.created_as("0"), {*changes.created_with("web")}) == ("web", {"0", "1"})
        clock.now = 601
        assert (changes.created_as("0"), {*changes.created_with("web")}) == (None, {"1"})
        changes.keep_for(700)
        assert changes.created_as("0") == "web"
        clock.now = 1301
        assert not changes.created_with("web")
        assert not changes.created_with("db")

    def test_a_deleted_vm_is_known_for_a_while(self, clock, changes):
        """From its last appearance."""
        assert changes.deleted("0")
        assert not changes.deleted("0")
        clock.now = 500
        changes.deleted("0")
        clock.now = 1100
        assert changes.is_deleted("0")
        changes.not_deleted("0")
        assert not changes.is_deleted("0")
        changes.deleted("0")
        clock.now = 1701
        assert not changes.is_deleted("0")
        changes.not_deleted("never seen")
        assert not changes.is_deleted("never seen")

    def test_old_vms_are_forgotten(self, clock, changes):
        """A client that lives for months keeps no list of all its VMs."""
        for number in range(20_000):
            clock.now = float(number)
            changes.created(f"vm-{number}", f"w-{number % 10}")
            changes.begin(f"vm-{number}", Target("create"))
            changes.end(f"vm-{number}", visible=True)
        assert sum(changes.is_visible(f"vm-{number}") for number in range(20_000)) < 3000
        assert len(changes.created_with("w-9")) == 61


class TestProviderRenames:
    def test_a_vm_under_another_name_shows_that_the_provider_renames(self, changes):
        """From then on it is expected."""
        changes.created("1", "Web")
        changes.compare(listed(1.0, "db", "Web"))
        assert not changes.provider_renames
        changes.compare(listed(2.0, "db", "web"))
        changes.compare(listed(3.0, "db", "Web"))
        assert changes.provider_renames

    def test_this_clients_renames_do_not(self, changes):
        """Nor do VMs of other clients."""
        changes.created("1", "web")
        changes.renamed("1")
        changes.renamed("0")
        changes.compare(listed(1.0, "db", "other"))
        assert not changes.provider_renames

    def test_nor_do_renames_of_long_ago(self, clock, changes):
        """Somebody else may have renamed the VM meanwhile."""
        changes.created("1", "web")
        clock.now = 601
        changes.compare(listed(600.0, "db", "other"))
        assert not changes.provider_renames
