"""Who counts as dead."""

import asyncio
import sqlite3
import threading
import time

import pytest
from sqlalchemy import exc

from async_vmapi.durable import heartbeat as leases
from async_vmapi.durable.heartbeat import HEARTBEATS, Leases
from async_vmapi.durable.rows import Rows
from async_vmapi.durable.store import (
    OPERATION_WORKFLOW,
    OPERATIONS,
    Database,
    DatabaseUnavailable,
    is_outage,
)

from .fleets import taken_by


@pytest.fixture
async def database(database_url):
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def both(database):
    """Two workers of one fleet."""
    one, other = Leases(database, "one", 600.0), Leases(database, "other", 600.0)
    await one.begin()
    await other.begin()
    yield one, other
    one.end()
    other.end()


class TestLeases:
    async def test_one_that_goes_on_counting_lives(self, both):
        """However often the other looks."""
        one, other = both
        for _ in range(3 * HEARTBEATS):
            other.heartbeat()
            assert await one.expired_workers() == []

    async def test_one_that_counts_no_more_is_dead_after_so_many_looks(self, both):
        """And is forgotten once it is buried."""
        one, _ = both
        assert [await one.expired_workers() for _ in range(HEARTBEATS + 1)] == [
            *[[]] * HEARTBEATS,
            ["other"],
        ]
        await one.remove("other")
        assert await one.expired_workers() == []

    async def test_one_is_given_its_own_lease(self, both, database):
        """It sends as long as that lets it, however much sooner the other looks again."""
        _, other = both
        hasty = Leases(database, "hasty", 200.0)
        for _ in range(3 * HEARTBEATS):
            assert await hasty.expired_workers() == []
        assert other.holds()
        assert await hasty.expired_workers() == ["one", "other"]

    async def test_one_that_could_not_begin_begins_once_more(self, both):
        """The database went away in between; it is counted once."""
        _, other = both
        await other.begin()
        other.heartbeat()
        assert other.holds()

    async def test_one_that_cannot_count_once_goes_on_counting(self, database, monkeypatch):
        """Whatever the reason: a thread that ended would be a worker that waits for ever."""
        one, beats = Leases(database, "one", 0.1), []
        again = threading.Event()

        def beat():
            beats.append(1)
            if len(beats) > 1:
                again.set()
            raise exc.InternalError("UPDATE", {}, Exception("terminated, as it stood still"))

        monkeypatch.setattr(one, "heartbeat", beat)
        await one.begin()
        assert await asyncio.to_thread(again.wait, 60)
        one.end()

    async def test_one_that_has_left_need_not_be_waited_for(self, both):
        """It said so itself."""
        one, other = both
        other.end()
        await other.leave()
        assert await one.expired_workers() == ["other"]

    async def test_one_that_counts_on_in_the_last_moment_is_not_declared_dead(self, both):
        """It was only slow."""
        one, other = both
        for _ in range(HEARTBEATS + 1):
            dead = await one.expired_workers()
        other.heartbeat()
        assert not await one.expire(*dead)
        assert await one.expired_workers() == []
        assert other.holds()

    async def test_one_that_was_declared_dead_learns_of_it(self, both):
        """At its next beat, and for ever."""
        one, other = both
        for _ in range(HEARTBEATS + 1):
            await one.expired_workers()
        assert await one.expire("other")
        other.heartbeat()
        assert other.expired
        assert not other.holds()
        await one.remove("other")
        other.heartbeat()
        assert other.expired

    async def test_what_one_took_that_was_buried_already_is_not_lost(self, both, database):
        """It wakes, takes what it finds in the queue, and only then hears of its death."""
        one, _ = both
        await database.enqueue(OPERATIONS, OPERATION_WORKFLOW, [("op:a:0", "{}"), ("op:a:1", "{}")])
        taken_by(database.url, "ghost", "op:a:0")
        taken_by(database.url, "other", "op:a:1")
        assert await one.expired_workers() == ["ghost"]
        assert await one.expire("ghost")
        taken_by(database.url, "other", "op:a:0")
        assert await one.expired_workers() == []

    async def test_a_beat_is_good_for_less_than_a_lease(self, both, monkeypatch):
        """By either clock, as one of them may stand still."""
        _, other = both
        assert other.holds()
        for clock in ("monotonic", "time"):
            with monkeypatch.context() as later:
                now = getattr(leases.time, clock)
                later.setattr(leases.time, clock, lambda now=now: now() + 500)
                assert not other.holds()

    async def test_a_thread_counts_while_the_loop_is_busy(self, database, monkeypatch):
        """A worker whose event loop is late holds its lease."""
        monkeypatch.setattr(leases, "_STUCK", 1e6)
        one = Leases(database, "one", 0.2)
        await one.begin()
        start = time.monotonic()
        # For longer than a lease; and a machine may be slow to write.
        while time.monotonic() - start < 0.5 or not one.holds():
            assert time.monotonic() - start < 30
            time.sleep(0.01)  # noqa: ASYNC251 - a busy event loop
        one.end()
        await one.leave()

    async def test_a_loop_that_is_stuck_for_long_is_dead(self, database):
        """Its thread counts for it no more."""
        one = Leases(database, "one", 0.1)
        await one.begin()
        time.sleep(0.1 * (leases._STUCK + 2))  # noqa: ASYNC251 - one that is stuck
        assert not one.holds()
        one.end()
        await one.leave()

    async def test_looks_that_fail_count_for_nothing(self, both, database, monkeypatch):
        """A database that was away kills nobody."""
        one, other = both
        read = one._read
        for _ in range(2 * HEARTBEATS):

            def away():
                raise TimeoutError

            monkeypatch.setattr(one, "_read", away)
            with pytest.raises(TimeoutError):
                await one.expired_workers()
            monkeypatch.setattr(one, "_read", read)
        other.heartbeat()
        assert await one.expired_workers() == []


class TestDatabase:
    async def test_sqlite_tells_parts_of_a_second(self, sqlite_url):
        """Also one before 3.42, of which Python 3.12 and later may be built."""
        database = Database(sqlite_url)
        await database.open()
        before = time.time()
        with database.engine.connect() as connection:
            told = connection.exec_driver_sql("SELECT unixepoch('subsec')").scalar()
        await database.close()
        assert before - 0.01 <= told <= time.time() + 0.01

    def test_a_new_file_that_others_open_too(self, tmp_path):
        """Workers that start at once wait for each other, where SQLite itself would not."""
        file = tmp_path / "fleet"
        other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        leaving = threading.Timer(0.3, other.execute, ["COMMIT"])
        leaving.start()
        one = sqlite3.connect(file, **Database(f"sqlite:///{file}").connect_args(Rows()))
        assert one.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        leaving.join()
        one.close()
        other.close()

    async def test_one_that_is_away_is_said_to_be(self, tmp_path):
        """By an error of this package, and without the URL's password."""
        database = Database("postgresql://me:hunter2@127.0.0.1:1/fleet?connect_timeout=1")
        with pytest.raises(DatabaseUnavailable) as away:
            await database.open()
        assert "hunter2" not in str(away.value)
        await database.close()

    @pytest.mark.parametrize(
        ("kind", "lost", "away"),
        [
            (exc.OperationalError, False, True),
            (exc.InterfaceError, False, True),
            # A transaction that stood still, or a server that has become one that only reads.
            (exc.InternalError, False, True),
            (exc.DatabaseError, True, True),
            (exc.DatabaseError, False, False),
            (exc.ProgrammingError, False, False),
            (exc.IntegrityError, False, False),
        ],
    )
    def test_what_counts_as_away(self, kind, lost, away):
        """The rest are bugs, and are raised."""
        error = kind("SELECT 1", {}, Exception(), connection_invalidated=lost)
        assert is_outage(error) == away

    async def test_only_what_is_still_ones_own_is_put_back(self, database):
        """Another worker may have it by now, who does not expect a third."""
        await database.enqueue(OPERATIONS, OPERATION_WORKFLOW, [("op:a:0", "{}")])
        taken_by(database.url, "other", "op:a:0")
        await database.requeue("op:a:0", OPERATIONS, "one")
        assert await database.pending_of("other") == {"op:a:0": OPERATIONS}
        await database.requeue("op:a:0", OPERATIONS, "other")
        assert await database.pending_of("other") == {}
        found = await database.find("op:a:0")
        assert (found.status, found.queue_name) == ("ENQUEUED", OPERATIONS)
