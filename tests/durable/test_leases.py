"""Who counts as dead."""

import pytest

from async_vmapi.durable.database import Database, DatabaseUnavailable
from async_vmapi.durable.leases import BEATS, Leases


@pytest.fixture
async def database(sqlite_url):
    database = Database(sqlite_url)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def both(database):
    """Two workers of one fleet."""
    one, other = Leases(database, "one"), Leases(database, "other")
    await one.begin()
    await other.begin()
    return one, other


class TestLeases:
    async def test_one_that_goes_on_counting_lives(self, both):
        """However often the other looks."""
        one, other = both
        for _ in range(3 * BEATS):
            await other.beat()
            assert await one.dead() == []

    async def test_one_that_counts_no_more_is_dead_after_so_many_looks(self, both):
        """And is forgotten once it is buried."""
        one, _ = both
        assert [await one.dead() for _ in range(BEATS + 1)] == [*[[]] * BEATS, ["other"]]
        await one.bury("other")
        assert await one.dead() == []

    async def test_one_that_has_left_need_not_be_waited_for(self, both):
        """It said so itself."""
        one, other = both
        await other.leave()
        assert await one.dead() == ["other"]

    async def test_one_that_comes_back_before_it_is_buried_stays(self, both):
        """It was only slow."""
        one, other = both
        for _ in range(BEATS + 1):
            dead = await one.dead()
        await other.beat()
        await one.bury(*dead)
        assert await one.dead() == []
        assert await other.dead() == []

    async def test_looks_that_fail_count_for_nothing(self, both, database, monkeypatch):
        """A database that was away kills nobody."""
        one, other = both
        read = one._read
        for _ in range(2 * BEATS):

            def away():
                raise TimeoutError

            monkeypatch.setattr(one, "_read", away)
            with pytest.raises(TimeoutError):
                await one.dead()
            monkeypatch.setattr(one, "_read", read)
        await other.beat()
        assert await one.dead() == []


class TestDatabase:
    async def test_one_that_is_away_is_said_to_be(self, tmp_path):
        """By an error of this package, and without the URL's password."""
        database = Database("postgresql://me:hunter2@127.0.0.1:1/fleet?connect_timeout=1")
        with pytest.raises(DatabaseUnavailable) as away:
            await database.open()
        assert "hunter2" not in str(away.value)
        await database.close()
