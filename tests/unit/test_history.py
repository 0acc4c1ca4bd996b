"""What a client knows of the VMs that it created, renamed and deleted."""

import pytest

from async_vmapi.tasks.vm_list import VMList
from async_vmapi.transport.codec import Named
from async_vmapi.writes import history
from async_vmapi.writes.history import History


class Clock:
    """Replaces the event loop."""

    now = 0.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(history.asyncio, "get_running_loop", lambda: clock)
    return clock


@pytest.fixture
def known(clock):
    return History(kept=600.0)


def roster(asked, *labels):
    return VMList(
        asked, [Named(str(n), "online", 1, 1024, label) for n, label in enumerate(labels)]
    )


class TestForgetting:
    def test_a_created_vm_is_known_for_a_while(self, clock, known):
        """With the requested name."""
        known.created("0", "web")
        clock.now = 600
        known.created("1", "web")
        assert (known.created_as("0"), {*known.created_with("web")}) == ("web", {"0", "1"})
        clock.now = 601
        known.created("2", "db")
        assert (known.created_as("0"), {*known.created_with("web")}) == (None, {"1"})
        clock.now = 1202
        known.created("3", "db")
        assert not known.created_with("web")

    def test_a_deleted_vm_is_known_for_a_while(self, clock, known):
        """From its last appearance."""
        assert known.deleted("0")
        assert not known.deleted("0")
        clock.now = 500
        known.deleted("0")
        clock.now = 1000
        known.deleted("1")
        assert known.is_deleted("0")
        known.not_deleted("0")
        assert not known.is_deleted("0")

    def test_the_history_is_bounded(self, known, monkeypatch):
        """The oldest entries are dropped."""
        monkeypatch.setattr(history, "_MOST", 3)
        for number in range(5):
            known.deleted(str(number))
        assert [known.is_deleted(str(number)) for number in range(5)] == [False] * 2 + [True] * 3


class TestChangedNames:
    def test_a_vm_under_another_name_shows_a_name_change(self, known):
        """From then on it is expected."""
        known.created("1", "Web")
        known.compare(roster(1.0, "db", "Web"))
        assert not known.changes_names
        known.compare(roster(2.0, "db", "web"))
        known.compare(roster(3.0, "db", "Web"))
        assert known.changes_names

    def test_this_clients_renames_show_no_name_change(self, known):
        """Nor do VMs of other clients."""
        known.created("1", "web")
        known.renamed("1")
        known.compare(roster(1.0, "db", "other"))
        assert not known.changes_names
