"""Which workers have expired."""

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

from .fleets import failing, taken_by


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
    async def test_a_worker_that_renews_its_lease_is_alive(self, both):
        """However often the other one checks."""
        one, other = both
        for _ in range(3 * HEARTBEATS):
            other.heartbeat()
            assert await one.expired_workers() == []

    async def test_a_worker_without_heartbeats_expires_after_some_checks(self, both):
        """Its row is deleted then."""
        one, _ = both
        assert [await one.expired_workers() for _ in range(HEARTBEATS + 1)] == [
            *[[]] * HEARTBEATS,
            ["other"],
        ]
        await one.remove("other")
        assert await one.expired_workers() == []

    async def test_each_worker_has_its_own_lease_duration(self, both, database):
        """It sends as long as that allows, however much sooner the other one checks again."""
        _, other = both
        hasty = Leases(database, "hasty", 200.0)
        for _ in range(3 * HEARTBEATS):
            assert await hasty.expired_workers() == []
        assert other.holds()
        assert await hasty.expired_workers() == ["one", "other"]

    async def test_a_worker_that_could_not_register_registers_again(self, both):
        """The database was unavailable in between; the worker is counted once."""
        _, other = both
        await other.begin()
        other.heartbeat()
        assert other.holds()

    async def test_a_failed_heartbeat_does_not_end_the_thread(self, database, monkeypatch):
        """Whatever the reason: without heartbeats the worker would wait for ever."""
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

    async def test_a_worker_that_left_is_not_awaited(self, both):
        """It deleted its row."""
        one, other = both
        other.end()
        await other.leave()
        assert await one.expired_workers() == ["other"]

    async def test_a_late_heartbeat_prevents_expiry(self, both):
        """The worker was only slow."""
        one, other = both
        for _ in range(HEARTBEATS + 1):
            dead = await one.expired_workers()
        other.heartbeat()
        assert not await one.expire(*dead)
        assert await one.expired_workers() == []
        assert other.holds()

    async def test_an_expired_worker_learns_of_it(self, both):
        """At its next heartbeat, and for ever."""
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

    async def test_items_dequeued_by_an_expired_worker_are_not_lost(self, both, database):
        """It resumes, dequeues, and only then learns that it expired."""
        one, _ = both
        await database.enqueue(OPERATIONS, OPERATION_WORKFLOW, [("op:a:0", "{}"), ("op:a:1", "{}")])
        taken_by(database.url, "ghost", "op:a:0")
        taken_by(database.url, "other", "op:a:1")
        assert await one.expired_workers() == ["ghost"]
        assert await one.expire("ghost")
        taken_by(database.url, "other", "op:a:0")
        assert await one.expired_workers() == []

    async def test_a_heartbeat_is_valid_for_less_than_a_lease(self, both, monkeypatch):
        """By either clock, as one of them may stand still."""
        _, other = both
        assert other.holds()
        for clock in ("monotonic", "time"):
            with monkeypatch.context() as later:
                now = getattr(leases.time, clock)
                later.setattr(leases.time, clock, lambda now=now: now() + 500)
                assert not other.holds()

    async def test_heartbeats_continue_while_the_loop_is_busy(self, database):
        """They have their own thread."""
        one = Leases(database, "one", 0.5)
        await one.begin()
        start = time.monotonic()
        # For longer than a lease; and a busy host may be slow to write.
        while time.monotonic() - start < 1 or not one.holds():
            assert time.monotonic() - start < 30
            time.sleep(0.01)  # noqa: ASYNC251 - a busy event loop
        one.end()
        await one.leave()

    async def test_a_worker_whose_loop_is_blocked_expires(self, database):
        """Its thread stops its heartbeats."""
        one = Leases(database, "one", 0.1)
        await one.begin()
        time.sleep(1.2)  # noqa: ASYNC251 - blocked for longer than ten leases
        assert not one.holds()
        one.end()
        await one.leave()

    async def test_failed_checks_do_not_count(self, both):
        """An unavailable database expires no worker."""
        one, other = both
        with failing("SELECT async_vmapi_workers"):
            for _ in range(2 * HEARTBEATS):
                with pytest.raises(DatabaseUnavailable):
                    await one.expired_workers()
        other.heartbeat()
        assert await one.expired_workers() == []


class TestDatabase:
    async def test_sqlite_has_fractions_of_a_second(self, sqlite_url):
        """Also before 3.42, with which Python 3.12 and later may be built."""
        database = Database(sqlite_url)
        await database.open()
        before = time.time()
        with database.engine.connect() as connection:
            database_time = connection.exec_driver_sql("SELECT unixepoch('subsec')").scalar()
        await database.close()
        assert before - 0.01 <= database_time <= time.time() + 0.01

    def test_several_workers_open_a_new_file(self, tmp_path):
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

    async def test_an_unavailable_database_is_reported(self, tmp_path):
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
            # A blocked transaction, or a server that has become read-only.
            (exc.InternalError, False, True),
            (exc.DatabaseError, True, True),
            (exc.DatabaseError, False, False),
            (exc.ProgrammingError, False, False),
            (exc.IntegrityError, False, False),
        ],
    )
    def test_errors_that_mean_unavailable(self, kind, lost, away):
        """The rest are bugs, and are raised."""
        error = kind("SELECT 1", {}, Exception(), connection_invalidated=lost)
        assert is_outage(error) == away

    async def test_only_a_workers_own_workflows_are_put_back(self, database):
        """Another worker may have one by now."""
        await database.enqueue(OPERATIONS, OPERATION_WORKFLOW, [("op:a:0", "{}")])
        taken_by(database.url, "other", "op:a:0")
        await database.requeue("op:a:0", OPERATIONS, "one")
        assert await database.pending_of("other") == {"op:a:0": OPERATIONS}
        await database.requeue("op:a:0", OPERATIONS, "other")
        assert await database.pending_of("other") == {}
        found = await database.find("op:a:0")
        assert (found.status, found.queue_name) == ("ENQUEUED", OPERATIONS)
