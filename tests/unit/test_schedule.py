"""When to poll, and by GETs or by a list."""

import pytest

from async_vmapi.tasks.schedule import Schedule


@pytest.fixture
def schedule():
    return Schedule(min_interval=1.0, max_interval=15.0, seed=0)


class TestListOrGets:
    def test_a_few_vms_are_polled_by_get(self, schedule):
        """Before anything is measured, three VMs are not worth a list."""
        assert not schedule.prefers_list(3, list_mode=False)

    def test_many_vms_are_polled_by_one_list(self, schedule):
        """A thousand GETs cost more than a list of a thousand."""
        assert schedule.prefers_list(1000, list_mode=False)

    def test_a_large_account_makes_the_list_expensive(self, schedule):
        """Where the list is long, it pays only for more VMs."""
        assert schedule.prefers_list(50, list_mode=False)
        schedule.measured_list(10_000 * 1000)
        assert not schedule.prefers_list(50, list_mode=False)
        assert schedule.prefers_list(500, list_mode=False)

    def test_a_small_difference_does_not_switch_back(self, schedule):
        """A list stays in use while it costs less than twice as much."""
        fewest = next(n for n in range(1, 1000) if schedule.prefers_list(n, list_mode=False))
        assert schedule.prefers_list(fewest - 1, list_mode=True)
        assert not schedule.prefers_list(fewest // 2 - 1, list_mode=True)

    def test_one_vm_alone_is_polled_by_get(self, schedule):
        """It costs less, and proves more, also where a list is in use."""
        schedule.measured_list(2000)
        assert schedule.prefers_list(2, list_mode=True)
        assert not schedule.prefers_list(1, list_mode=True)


class TestIntervals:
    def test_polls_are_frequent_after_the_write_and_rarer_later(self, schedule):
        """The interval grows with the elapsed time, within its limits."""
        early, middle, late = (schedule.get_interval("create", t) for t in (0, 60, 900))
        assert 1.0 <= early <= 1.2
        assert 7.5 <= middle <= 9.0
        assert late == 15.0

    def test_more_waiting_vms_make_lists_more_frequent(self, schedule):
        """Four times as many VMs halve the interval, down to `min_poll_interval`."""
        assert 3.7 <= schedule.list_interval(16, cycling=False) <= 4.2
        assert 1.0 <= schedule.list_interval(1000, cycling=False) <= 1.1

    def test_a_reboot_shows_for_a_short_while_only(self, schedule):
        """While one is awaited, lists are fetched every other second, however few wait."""
        assert 2.0 <= schedule.list_interval(3, cycling=True) <= 2.2
        assert 1.0 <= schedule.list_interval(1000, cycling=True) <= 1.1

    def test_jitter_stays_below_the_maximum(self, schedule):
        """No interval is longer than `max_poll_interval`."""
        assert max(schedule.get_interval("create", 1e6) for _ in range(100)) <= 15.0
        assert max(schedule.backoff(n) for n in range(100)) <= 15.0

    def test_jitter_is_repeatable_for_a_seed(self):
        """Two schedules of one seed poll at the same times."""
        first, second = (Schedule(min_interval=1, max_interval=15, seed=7) for _ in range(2))
        asked = [[s.get_interval("create", t) for t in range(50)] for s in (first, second)]
        assert asked[0] == asked[1]

    def test_no_failure_means_no_delay(self, schedule):
        """Failures double the interval, beginning with none."""
        assert schedule.backoff(0) == 0
        assert 2.0 <= schedule.backoff(1) <= 2.4
        assert 8.0 <= schedule.backoff(3) <= 9.6


class TestLearning:
    def test_the_first_poll_is_before_the_shortest_known_duration(self, schedule):
        """After some creates of 40 s and more, it comes near 36 s."""
        for elapsed in (40, 44, 50, 55, 60):
            schedule.completed("create", elapsed)
        assert schedule.get_interval("create", 26) >= 10
        assert schedule.get_interval("create", 45) <= 1.2
        assert schedule.get_interval("create", 120) == 15.0

    def test_operations_are_learned_separately(self, schedule):
        """What creates take says nothing about shutdowns."""
        for _ in range(5):
            schedule.completed("create", 60)
        assert schedule.get_interval("shutdown", 0) <= 1.2
