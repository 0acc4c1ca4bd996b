"""When to look, and how."""

import pytest

from async_vmapi.tasks.schedule import Schedule


@pytest.fixture
def schedule():
    return Schedule(floor=1.0, ceiling=15.0, seed=0)


class TestListOrGets:
    def test_a_few_machines_are_asked_for_one_by_one(self, schedule):
        """Before anything is known, three machines are not worth a list."""
        assert not schedule.prefers_list(3, list_mode=False)

    def test_many_machines_are_asked_for_by_one_list(self, schedule):
        """A thousand GETs cost more than a list of a thousand."""
        assert schedule.prefers_list(1000, list_mode=False)

    def test_a_large_fleet_makes_the_list_dear(self, schedule):
        """Where the list is long, more machines must wait to make it pay."""
        assert schedule.prefers_list(50, list_mode=False)
        schedule.measured_list(10_000 * 1000)
        assert not schedule.prefers_list(50, list_mode=False)
        assert schedule.prefers_list(500, list_mode=False)

    def test_the_list_is_not_left_for_a_small_difference(self, schedule):
        """What is in use stays in use while it costs less than twice as much."""
        fewest = next(n for n in range(1, 1000) if schedule.prefers_list(n, list_mode=False))
        assert schedule.prefers_list(fewest - 1, list_mode=True)
        assert not schedule.prefers_list(fewest // 2 - 1, list_mode=True)

    def test_one_machine_alone_is_asked_for_by_get(self, schedule):
        """It costs less, and proves more, also where a list is in use."""
        schedule.measured_list(2000)
        assert schedule.prefers_list(2, list_mode=True)
        assert not schedule.prefers_list(1, list_mode=True)


class TestIntervals:
    def test_looks_are_frequent_after_the_write_and_rarer_later(self, schedule):
        """The interval grows with what has passed, between floor and ceiling."""
        early, middle, late = (schedule.between_gets("create", t) for t in (0, 60, 900))
        assert 1.0 <= early <= 1.2
        assert 7.5 <= middle <= 9.0
        assert late == 15.0

    def test_lists_are_more_frequent_the_more_machines_wait(self, schedule):
        """Four times as many machines halve the interval, down to the floor."""
        assert 3.7 <= schedule.between_lists(16, cycling=False) <= 4.2
        assert 1.0 <= schedule.between_lists(1000, cycling=False) <= 1.1

    def test_a_reboot_shows_for_a_short_while_alone(self, schedule):
        """While one is awaited, lists are taken every other second, however few wait."""
        assert 2.0 <= schedule.between_lists(3, cycling=True) <= 2.2
        assert 1.0 <= schedule.between_lists(1000, cycling=True) <= 1.1

    def test_the_ceiling_holds_with_jitter(self, schedule):
        """Nothing waits longer than the ceiling."""
        assert max(schedule.between_gets("create", 1e6) for _ in range(100)) <= 15.0
        assert max(schedule.after_failures(n) for n in range(100)) <= 15.0

    def test_the_jitter_is_repeatable_for_a_seed(self):
        """Two schedules of one seed ask at the same times."""
        first, second = (Schedule(floor=1, ceiling=15, seed=7) for _ in range(2))
        asked = [[s.between_gets("create", t) for t in range(50)] for s in (first, second)]
        assert asked[0] == asked[1]

    def test_no_failure_means_no_delay(self, schedule):
        """Failures double the wait, beginning with none."""
        assert schedule.after_failures(0) == 0
        assert 2.0 <= schedule.after_failures(1) <= 2.4
        assert 8.0 <= schedule.after_failures(3) <= 9.6


class TestLearning:
    def test_what_was_never_shorter_is_not_looked_at_before(self, schedule):
        """After some creates of 40 s and more, the first look comes near 36 s."""
        for elapsed in (40, 44, 50, 55, 60):
            schedule.took("create", elapsed)
        assert schedule.between_gets("create", 26) >= 10
        assert schedule.between_gets("create", 45) <= 1.2
        assert schedule.between_gets("create", 120) == 15.0

    def test_operations_are_learned_apart(self, schedule):
        """What creates take says nothing about shutdowns."""
        for _ in range(5):
            schedule.took("create", 60)
        assert schedule.between_gets("shutdown", 0) <= 1.2
