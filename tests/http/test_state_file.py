"""A cloud that a file keeps: what is in it, when, and files that cannot be used."""

import asyncio
import json
import os
import resource
import shutil
import sqlite3
import stat

import pytest

from async_vmapi import Client, ImageBoot, InvalidArgument
from async_vmapi.emulator import (
    CloudAPI,
    Emulator,
    Fault,
    FaultPlan,
    Settings,
    restore,
    saving,
    snapshot,
    state_file,
)
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.emulator.saving import Saver
from tests.moves import SETTINGS, Player, cloud_of, moves_of
from tests.other_client import NEW, VMS, Sent, exchange, to_json

SLOW = Settings(create=1000, not_found=0, stale=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cloud.db"


@pytest.fixture
def writes(monkeypatch):
    """The rows of each transaction."""
    written, write = [], state_file.StateFile.write

    def recorded(self, rows):
        written.append(rows)
        write(self, rows)

    monkeypatch.setattr(state_file.StateFile, "write", recorded)
    return written


async def create(emulator, name="web-01"):
    """Create a VM by an accepted request, and return its id."""
    body = to_json({"create_vm": NEW | {"name": name}})
    status, shown = await exchange(emulator, Sent("PUT", VMS, body).encode(emulator))
    assert status == 200, shown
    return shown["virtual_machine"]["id"]


async def listed(emulator):
    status, shown = await exchange(emulator, Sent("GET", VMS).encode(emulator))
    assert status == 200
    return {vm["id"]: vm["state"] for vm in shown["virtual_machines"]}


def as_after_a_kill(path, folder):
    """Return the path of what a killed process would leave."""
    folder.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        shutil.copy(path.with_name(name), folder / name)
    return folder / path.name


class TestContent:
    @pytest.mark.parametrize("run", range(4))
    @pytest.mark.parametrize("killed", [False, True])
    async def test_it_is_all_that_a_snapshot_has(self, path, tmp_path, run, killed):
        """Though only what has changed is written after each move."""
        faults = None if run % 2 else {"fault": [{"kind": "not_found", "nth": [3, 5]}]}
        player = Player(cloud_of(SETTINGS[run], faults=faults))
        saver = Saver(path, player.api, lambda _: player.now)
        await saver.open()
        assert not saver.found
        for move in moves_of(run):
            player.play(move)
            await saver.saved(changed=True)
        kept = as_after_a_kill(path, tmp_path / "copy") if killed else path
        await saver.close()

        other = cloud_of(None, seed=99)
        again = Saver(kept, other, lambda _: player.now)
        await again.open()
        assert again.found
        await again.close()
        player.api.cloud.advance(player.now)
        content, expected = snapshot(other), snapshot(player.api)
        for vm, expected_vm in zip(content["vms"], expected["vms"], strict=True):
            views, expected_views = vm.pop("views", ()), expected_vm.pop("views", ())
            # Reads drop versions that are too old to be shown, and do not write to the file.
            for versions, expected_versions in zip(views, expected_views, strict=False):
                assert versions[-len(expected_versions) :] == expected_versions
        # It does not have the lists of the last seconds.
        assert content == expected | {"lists": []}

    async def test_only_what_changed_is_written(self, path, writes):
        """Whatever the number of VMs; reads write nothing."""
        api = cloud_of(SLOW)
        Player(api, now=0.0).play_all([("create", n, 0) for n in range(500)])
        async with Emulator(settings=SLOW, state=path) as emulator:
            restore(emulator.api, snapshot(api))
            vm_id = await create(emulator)
            assert {number for rows in writes for number, _ in rows.vms} == {*range(1, 502)}
            del writes[:]
            body = to_json({"name": "new"})
            sent = Sent("POST", f"{VMS}/{vm_id}/rename", body).encode(emulator)
            assert (await exchange(emulator, sent))[0] == 200
            # The clock may have been written besides.
            assert {number for rows in writes for number, _ in rows.vms} == {501}
            for rows in writes:
                assert (rows.whole, rows.settings, rows.operations) == (False, [], [])
                assert rows.history == []

    async def test_what_comes_together_is_written_together(self, path, writes):
        """A transaction serves all that wait: one is running, and one is next."""
        player = Player(cloud_of(SLOW), now=0.0)
        saver = Saver(path, player.api, lambda _: player.now)
        await saver.open()
        first = asyncio.create_task(saver.saved(changed=True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        player.play_all([("create", n, 0) for n in range(50)])
        await asyncio.gather(first, *(saver.saved(changed=True) for _ in range(50)))
        assert [len(rows.vms) for rows in writes] == [0, 50]
        await saver.close()

    async def test_a_read_waits_for_what_it_shows(self, path):
        """A VM that is not in the file yet is not shown, as a kill could undo it."""
        player = Player(cloud_of(SLOW), now=0.0)
        saver = Saver(path, player.api, lambda seconds: player.now + seconds)
        await saver.open()
        await saver.saved(changed=True)
        await saver.saved(changed=False)
        player.play(("create", 1, 0))
        writing = asyncio.create_task(saver.saved(changed=True))
        await asyncio.sleep(0)
        reading = asyncio.create_task(saver.saved(changed=False))
        await reading
        assert writing.done()
        # One wait may be cancelled; the other is not affected.
        leaving = asyncio.create_task(saver.saved(changed=True))
        staying = asyncio.create_task(saver.saved(changed=True))
        await asyncio.sleep(0)
        leaving.cancel()
        await staying
        await saver.close()


class TestClock:
    async def test_time_while_it_does_not_run_does_not_count(self, path):
        """Another start continues the clock, and the operations, where they were."""
        slowest = SLOW.changed(create=1e9)
        async with Emulator(settings=slowest, state=path, speed=1000) as emulator:
            vm_id = await create(emulator)
            began, date = emulator.now, emulator.cloud.second(emulator.now)[0]
        stopped = emulator.cloud.now
        async with Emulator(state=path) as emulator:
            assert emulator.continues
            assert began <= stopped <= emulator.cloud.now < stopped + 1000
            assert emulator.cloud.second(emulator.now)[0] >= date
            (change,) = emulator.cloud.vms[vm_id].history
            assert change.state == "installing"
            emulator.cloud.advance(change.at + 1e9)
            assert emulator.cloud.vms[vm_id].state == "online"

    @pytest.mark.parametrize("ahead", [0.0, 1.0])
    async def test_no_read_shows_an_earlier_moment_after_a_kill(self, path, tmp_path, ahead):
        """The clock continues after the last read, within a second."""
        player = Player(cloud_of(Settings(create=100.5, not_found=0)), now=0.0)
        saver = Saver(path, player.api, lambda seconds: player.now + seconds)
        await saver.open()
        player.play(("create", 1, 0))
        await saver.saved(changed=True)
        player.now = 100.5 + ahead
        shown = player.play(("get", 0, 0))
        assert b'"online"' in shown.body
        await saver.saved(changed=False)
        other = Player(cloud_of(None), ids=player.ids)
        again = Saver(as_after_a_kill(path, tmp_path / "copy"), other.api, lambda _: other.now)
        await again.open()
        other.now = other.api.cloud.now
        assert player.now <= other.now <= player.now + 1
        assert other.play(("get", 0, 0)).body == shown.body
        await again.close()
        await saver.close()

    async def test_it_is_saved_while_operations_go_on(self, path, tmp_path, monkeypatch, writes):
        """Also without requests, until nothing is due; not while the clock stands still."""
        monkeypatch.setattr(saving, "_AHEAD", 0.001)
        player = Player(cloud_of(Settings(create=50, not_found=0, address=0)), now=0.0)
        saver = Saver(path, player.api, lambda seconds: player.now)
        await saver.open()
        player.play(("create", 1, 0))
        await saver.saved(changed=True)
        count = len(writes)
        await asyncio.sleep(0.02)
        assert len(writes) == count
        for _ in range(8):
            count, player.now = len(writes), player.now + 10
            player.api.cloud.advance(player.now)
            cloud = player.api.cloud
            while len(writes) == count and cloud.next is not None:  # noqa: ASYNC110 - a timer acts
                await asyncio.sleep(0.001)
        assert writes[-1].clock == 40
        count = len(writes)
        await asyncio.sleep(0.02)
        assert len(writes) == count
        (vm,) = player.api.cloud.vms.values()
        assert vm.state == "online"
        await saver.close()


class TestStart:
    async def test_a_file_with_a_cloud_continues(self, path):
        """Its settings, seed and faults apply, and not those that are for a new cloud."""
        plan = FaultPlan([Fault(kind="html", nth=(3,), call="list")], seed=5)
        async with Emulator(settings=SLOW, seed=1, faults=plan, state=path) as emulator:
            assert not emulator.continues
            await create(emulator)
            await listed(emulator)
            emulator.cloud.adjust("web-*", acpi="ignore")
        async with Emulator(seed=2, settings=Settings(), state=path) as emulator:
            assert (emulator.cloud.seed, emulator.cloud.settings) == (1, SLOW)
            (vm,) = emulator.cloud.vms.values()
            assert vm.settings.acpi == emulator.cloud.settings_for("web-9").acpi == "ignore"
            # The second of three lists; they are counted on.
            assert list(await listed(emulator)) == [vm.id]
            with pytest.raises(json.JSONDecodeError):
                await listed(emulator)

    async def test_an_emulator_can_be_started_again(self, path):
        """With what happened to its cloud in between."""
        emulator = Emulator(settings=SLOW, state=path)
        async with emulator:
            first = await create(emulator)
        async with emulator:
            assert list(await listed(emulator)) == [first]
            second = await create(emulator)
        async with Emulator(state=path) as other:
            assert list(await listed(other)) == [first, second]

    async def test_what_the_control_api_changes_is_kept(self, path, writes):
        """Before its response is sent; and it sees what happens to VMs that continue."""
        token = "a-token-of-16-or-more"
        sent = {"Authorization": f"Bearer {token}"}
        async with Emulator(settings=SLOW, state=path, control_token=token) as emulator:
            vm_id = await create(emulator)
            for method, target, body in (
                ("POST", "/faults/next", {"call": "list", "kind": "html"}),
                ("PATCH", "/settings", {"acpi": "ignore"}),
                ("PATCH", f"/vms/{vm_id}", {"state": "broken"}),
            ):
                count = len(writes)
                data = Sent(method, f"/_emulator{target}", to_json(body), headers=sent)
                status, shown = await exchange(emulator, data.encode(emulator))
                assert (status, len(writes) > count) == (200, True), shown
        async with Emulator(state=path, control_token=token) as emulator:
            assert [fault.call for fault in emulator.api.faults.unused] == ["list"]
            assert emulator.cloud.settings.acpi == "ignore"
            assert emulator.cloud.vms[vm_id].state == "broken"
            data = Sent("GET", "/_emulator/events?kinds=vm", headers=sent).encode(emulator)
            port = int(emulator.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            async with asyncio.timeout(60):
                await reader.readuntil(b"retry")
                emulator.cloud.set_state(vm_id, "online", emulator.now)
                await reader.readuntil(vm_id.encode())
            writer.close()
            await writer.wait_closed()

    async def test_a_client_does_not_notice(self, path):
        """A task continues to be awaited after a restart on the same port."""
        settings = Settings(create=2, not_found=0, address=0)
        keys = {"api_key": "k", "api_secret": "s"}
        async with Emulator(settings=settings, state=path, **keys) as emulator:
            url, port = emulator.url, int(emulator.url.rpartition(":")[2])
            async with Client(url, **keys, max_staleness=0.0, min_poll_interval=0.01) as client:
                task = await client.vms.create(
                    name="web-01",
                    cpus=1,
                    ram=512,
                    zone_id=next(iter(ZONES)),
                    boot=ImageBoot(os=TEMPLATES[0]["id"]),
                )
                token = task.token()
        async with (
            Emulator(state=path, port=port, **keys),
            Client(url, **keys, max_staleness=0.0, min_poll_interval=0.01) as client,
        ):
            assert (await client.resume(token)).id == task.vm_id

    def test_an_api_that_was_given(self, path):
        """Its cloud would be replaced."""
        with pytest.raises(ValueError, match="state and faults are for a new API"):
            Emulator(CloudAPI(), state=path)
        assert not path.exists()


class TestFailures:
    async def test_a_disk_that_is_full(self, path):
        """The request fails; what it did is in the file with the next one that does not."""
        async with Emulator(settings=SLOW, state=path) as emulator:
            first = await create(emulator)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
            try:
                with pytest.raises(AssertionError, match="the state file cannot be written"):
                    await create(emulator)
                with pytest.raises(AssertionError):
                    await listed(emulator)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            last = await create(emulator)
        async with Emulator(state=path) as emulator:
            ids = list(await listed(emulator))
        assert len(ids) == 3
        assert (ids[0], ids[2]) == (first, last)

    async def test_an_unexpected_error(self, path, monkeypatch):
        """Those who wait get it, and do not wait forever."""
        player = Player(cloud_of(SLOW), now=0.0)
        saver = Saver(path, player.api, lambda _: 0.0)
        await saver.open()
        with monkeypatch.context() as patched:
            patched.setattr(saver, "_rows", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await saver.saved(changed=True)
        await saver.close()


def written(path, **pragmas):
    """Write a database that no emulator wrote."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.commit()
    connection.close()


async def opened(path, **options):
    async with Emulator(state=path, **options):
        pass


async def changed_to(path, statement):
    """Change a file that an emulator wrote."""
    async with Emulator(settings=SLOW, state=path) as emulator:
        await create(emulator)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


class TestRefusedFiles:
    async def refused(self, path, words):
        """Opening it fails, and leaves nothing open; the error names the file."""
        with pytest.raises(InvalidArgument, match=words) as caught:
            await opened(path)
        assert str(path) in str(caught.value)
        assert caught.value.argument == "state"

    async def test_a_directory(self, tmp_path):
        await self.refused(tmp_path, "is a directory; use the path of a file")

    async def test_a_folder_that_does_not_exist(self, tmp_path):
        await self.refused(tmp_path / "none" / "cloud.db", "No such file.*in a folder of yours")

    async def test_a_file_that_is_not_a_database(self, path):
        path.write_text("not a database\n" * 1000)
        await self.refused(path, "is not an SQLite database; use another file, or move it")
        assert path.read_text().startswith("not a database")

    async def test_a_database_of_another_program(self, path):
        written(path)
        await self.refused(path, "is a database of another program; use another file")

    async def test_another_version(self, path):
        await changed_to(path, "PRAGMA user_version = 2")
        await self.refused(path, "is of version 2, and this async_vmapi uses version 1; use the")

    async def test_a_damaged_file(self, path):
        async with Emulator(settings=SLOW, state=path) as emulator:
            for _ in range(30):
                await create(emulator)
        content = bytearray(path.read_bytes())
        content[4096:] = os.urandom(len(content) - 4096)
        path.write_bytes(content)
        await self.refused(path, "is damaged.*move it and its -wal file to start with a new cloud")

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE vms SET record = '{}'",
            "UPDATE vms SET record = 'null'",
            "UPDATE cloud SET record = json_set(record, '$.epoch', 'yesterday')",
            "DELETE FROM operations",
            "DELETE FROM history",
            "DROP TABLE history",
        ],
    )
    async def test_damaged_content(self, path, statement):
        await changed_to(path, statement)
        await self.refused(path, "is damaged|cannot be used: no such table")

    async def test_two_emulators(self, path):
        """The second one is refused, also if it is in the same process, and the first works on."""
        async with Emulator(settings=SLOW, state=path) as emulator:
            for _ in range(2):
                await self.refused(path, "is in use by another program; stop that emulator")
            vm_id = await create(emulator)
        async with Emulator(state=path) as emulator:
            assert list(await listed(emulator)) == [vm_id]

    async def test_a_port_in_use(self, path):
        """The file is closed, and another emulator can use it."""
        async with Emulator() as emulator:
            port = int(emulator.url.rpartition(":")[2])
            with pytest.raises(OSError, match="in use"):
                await opened(path, port=port)
        await opened(path)

    @pytest.mark.parametrize("there", [False, True])
    async def test_no_permission(self, path, monkeypatch, there):
        """The tests may run as a user who may do everything, so the system's replies are given."""
        if there:
            await opened(path)
            monkeypatch.setattr(state_file.os, "access", lambda *_: False)
            words = "cannot be read and written; change its permissions"
        else:

            def refuse(*_):
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr(state_file.os, "open", refuse)
            words = "cannot be created: Permission denied; use the path of a file in a folder of"
        await self.refused(path, words)

    async def test_a_kill_before_anything_was_saved(self, path):
        """The file has tables and no cloud: it is a new one."""
        file = state_file.StateFile(path)
        assert file.open() is None
        file.close()
        async with Emulator(state=path) as emulator:
            assert not emulator.continues

    async def test_an_empty_file_is_a_new_one(self, path):
        """Such as one of mktemp; its mode stays."""
        path.touch(0o640)
        await opened(path)
        async with Emulator(state=path) as emulator:
            assert emulator.continues
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    async def test_the_mode_of_a_new_file(self, path):
        """Only its owner reads it, and what SQLite adds to it."""
        async with Emulator(state=path) as emulator:
            await create(emulator)
            files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
            assert {file.suffix for file in files} == {".db", ".db-wal"}
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
