"""Durable jobs with a worker in this process, on SQLite and on PostgreSQL."""

import asyncio
from contextlib import aclosing

import pytest

from async_vmapi import (
    AuthenticationError,
    BulkPlan,
    Client,
    ImageBoot,
    InvalidArgument,
    InvalidState,
    JobExists,
    JobNotFound,
    SecretRef,
)
from async_vmapi.durable import DurableFleet
from async_vmapi.facts import Fact, Facts

from .fleets import (
    at_work,
    client_of,
    everything_in,
    ids_of,
    most_in_flight,
    requests,
    taken_by,
    until,
)

pytestmark = pytest.mark.programs

PASSWORD = "correct horse battery staple"
USER_DATA = "#cloud-config\nruncmd: [halt]"


async def created(fleet, count, **options):
    """Return the ids of new VMs."""
    job = await fleet.submit("make", limit=count).create(requests(count), unique_name=True)
    return ids_of(await job.report(120))


class TestJobs:
    async def test_a_job_does_what_a_bulk_call_does(self, fleet, lively):
        """Create, shut down, rename and delete: the VMs are so, and the reports say so."""
        job = await fleet.submit("make", limit=5).create(requests(8))
        report = await job.report(120)
        assert (report.operation, report.counts["succeeded"], report.complete) == (
            "create",
            8,
            True,
        )
        assert [o.item for o in report.outcomes] == [f"w-{n:04}" for n in range(8)]
        assert all(o.evidence and o.seconds for o in report.outcomes)
        assert most_in_flight(lively) <= 5
        assert max([event.in_flight async for event in job.events()]) == 5
        ids = ids_of(report)
        down = await (await fleet.submit("down").shutdown(ids[:4], wait_for=2)).report(120)
        assert down.arguments == {"wait_for": 2}
        assert {lively.cloud.vms[i].state for i in ids_of(down)} == {"offline"}
        names = {ids[0]: "a", ids[1]: "b"}
        await (await fleet.submit("names").rename(names)).report(120)
        assert [lively.cloud.vms[i].label for i in ids[:2]] == ["a", "b"]
        gone = await (await fleet.submit("gone").delete(ids)).report(120)
        assert gone.counts["succeeded"] == 8
        assert not lively.cloud.vms

    async def test_deleting_missing_vms_succeeds(self, database_url, lively):
        """Also in a job that may have no failure; the report names the VMs."""
        # For this long, a VM that no read has shown may be one that is not visible yet.
        facts = Facts({"reads.appears_within": Fact(0.2, "assumed")})
        make = client_of(lively, facts=facts)
        times = {"polling_interval": 0.05, "lease_duration": 1.0}
        async with DurableFleet(database_url, make, **times) as fleet, at_work(fleet):
            ids = await created(fleet, 4)
            await (await fleet.submit("some").delete(ids[:2])).report(120)
            job = await fleet.submit("all", max_failures=0).delete(ids)
            report = await job.report(120)
            strict = await fleet.submit("strict").delete(ids[:1], missing_ok=False)
            assert [o.error for o in (await strict.report(120)).failed] == ["NotFound"]
        assert (report.counts["succeeded"], report.stopped) == (4, None)
        assert [o.reason for o in report.outcomes] == ["it was gone already"] * 2 + [""] * 2
        assert not lively.cloud.vms

    async def test_events_are_yielded_once_each_until_completion(self, fleet):
        """Each start and each end, also for a late listener."""
        job = await fleet.submit("make", limit=2, waves=[1, "100%"]).create(requests(4))
        live = [event async for event in job.events()]
        await job.report(120)
        later = [event async for event in job.events()]
        assert live == later
        kinds = [(e.kind, e.index) for e in live]
        assert sorted(kinds) == [(kind, n) for kind in ("finished", "started") for n in range(4)]
        assert live[-1].done == {"succeeded": 4}
        assert {e.outcome.status for e in live if e.kind == "finished"} == {"succeeded"}
        assert [e.wave for e in live if e.kind == "started"] == [1, 2, 2, 2]

    async def test_an_event_iteration_can_end_early(self, fleet):
        """It disturbs nothing."""
        job = await fleet.submit("make").create(requests(2))
        async with aclosing(job.events()) as events:
            assert (await anext(events)).kind == "started"
        assert (await job.report(120)).counts["succeeded"] == 2

    async def test_jobs_are_listed_with_their_status(self, fleet):
        """The newest comes first."""
        await created(fleet, 2)
        await (await fleet.submit("nothing").reset([])).report(120)
        newest, first = await fleet.jobs()
        assert (newest.name, newest.total, newest.state) == ("nothing", 0, "finished")
        assert (first.name, first.operation, first.total) == ("make", "create", 2)
        assert (first.state, first.done, first.in_flight) == ("finished", {"succeeded": 2}, 0)
        assert first.changed >= first.submitted > 0
        assert (await fleet.job("make")).name == "make"

    async def test_a_job_is_paused_and_resumed(self, fleet, lively):
        """While it is paused nothing new starts; operations in flight complete."""
        job = await fleet.submit("make", limit=2).create(requests(16))
        await until(lambda: _in_flight(job))
        await job.pause()
        await until(lambda: _idle(job))
        sent = lively.api.requests["create"]
        await asyncio.sleep(0.5)
        assert lively.api.requests["create"] == sent < 16
        assert (await job.status()).state == "paused"
        await job.resume()
        assert (await job.report(120)).counts["succeeded"] == 16

    async def test_a_job_is_cancelled(self, fleet, lively):
        """Nothing new starts, operations in flight are watched, and the report has both."""
        job = await fleet.submit("make", limit=2).create(requests(16))
        await until(lambda: _sent(lively, 2))
        await job.cancel()
        with pytest.raises(InvalidState, match="is cancelling"):
            await job.resume()
        report = await job.report(120)
        assert report.stopped == "the job was cancelled"
        assert report.counts["succeeded"] == len(lively.cloud.vms)
        assert 0 < report.counts["succeeded"] < 16
        assert report.counts["succeeded"] + report.counts["not_started"] == 16
        with pytest.raises(InvalidState, match="finished"):
            await job.cancel()

    async def test_the_failure_budget_stops_it(self, fleet, lively):
        """With more failures than allowed nothing new starts."""
        lively.cloud.adjust("w-0001", quota=0)
        job = await fleet.submit("make", limit=1, max_failures=0).create(requests(5))
        report = await job.report(120)
        assert [o.status for o in report.outcomes] == ["succeeded", "failed", *["not_started"] * 3]
        assert report.stopped == "more than 0 failed"
        assert report.failed[0].error == "AuthenticationError"
        assert lively.api.requests["create"] == 2
        assert (await job.status()).stopped == "more than 0 failed"

    async def test_the_minimum_stays_online(self, fleet, lively):
        """An item that would go below it is not started."""
        ids = await created(fleet, 4)
        job = await fleet.submit("down", min_online="50%").shutdown(ids)
        report = await job.report(120)
        assert (report.counts["succeeded"], report.counts["not_started"]) == (2, 2)
        assert sorted(lively.cloud.vms[i].state for i in ids) == [*["offline"] * 2, *["online"] * 2]

    async def test_a_dry_run_writes_nothing(self, fleet, lively):
        """The report says what would be done."""
        job = await fleet.submit("make", dry_run=True, waves=[1, 2]).create(requests(3))
        report = await job.report(120)
        assert report.dry_run
        assert [o.wave for o in report.not_started] == [1, 2, 2]
        assert lively.api.requests["create"] == 0

    async def test_a_refusal_fails_one_item(self, fleet):
        """The others are done."""
        ids = await created(fleet, 1)
        report = await (await fleet.submit("down").shutdown([*ids, "no-such-vm"])).report(120)
        assert [o.status for o in report.outcomes] == ["succeeded", "failed"]
        assert report.failed[0].error == "NotFound"

    async def test_items_come_from_any_iterable(self, fleet):
        """An async generator works like a list."""

        async def some():
            for request in requests(2):
                yield request

        job = await fleet.submit("make").create(some())
        assert (await job.report(120)).counts["succeeded"] == 2


async def _sent(emulator, count):
    return emulator.api.requests["create"] >= count


async def _in_flight(job):
    return (await job.status()).in_flight == 2


async def _some_done(job):
    return sum((await job.status()).done.values()) > 0


async def _idle(job):
    return (await job.status()).in_flight == 0


class TestNames:
    async def test_submitting_the_same_twice_is_one_job(self, fleet, lively):
        """It is done once."""
        for _ in range(2):
            job = await fleet.submit("make", BulkPlan(limit=3)).create(requests(3))
        assert (await job.report(120)).counts["succeeded"] == 3
        again = await fleet.submit("make", limit=3).create(requests(3))
        assert (await again.report(120)).counts["succeeded"] == 3
        assert lively.api.requests["create"] == 3
        assert len(await fleet.jobs()) == 1

    @pytest.mark.parametrize("differing", ["plan", "operation", "arguments", "items"])
    async def test_another_job_of_the_same_name_is_refused(self, sqlite_url, differing):
        """A name belongs to one job for ever."""
        async with DurableFleet(sqlite_url) as fleet:
            await fleet.submit("night").shutdown(["a", "b"], wait_for=4)
            other = {
                "plan": lambda: fleet.submit("night", limit=49).shutdown(["a", "b"], wait_for=4),
                "operation": lambda: fleet.submit("night").reboot(["a", "b"]),
                "arguments": lambda: fleet.submit("night").shutdown(["a", "b"], wait_for=5),
                "items": lambda: fleet.submit("night").shutdown(["b", "a"], wait_for=4),
            }
            with pytest.raises(JobExists, match="already") as refused:
                await other[differing]()
            assert (refused.value.name, refused.value.argument) == ("night", "name")
            assert [job.state for job in await fleet.jobs()] == ["waiting"]

    async def test_an_unknown_job_is_an_error(self, sqlite_url):
        """No job of that name was submitted."""
        async with DurableFleet(sqlite_url) as fleet:
            with pytest.raises(JobNotFound, match="no job 'night'") as refused:
                await fleet.job("night")
            assert refused.value.name == "night"

    async def test_a_script_that_is_run_again_attaches(self, fleet, lively):
        """It selects what is online, and by then its own job has begun."""
        ids = await created(fleet, 3)
        job = await fleet.submit("dev-off", limit=1, attach=True).shutdown(ids)
        await until(lambda: _some_done(job))
        still = [vm_id for vm_id in ids if lively.cloud.vms[vm_id].state == "online"]
        again = await fleet.submit("dev-off", limit=1, attach=True).shutdown(still)
        assert (await again.report(120)).counts["succeeded"] == 3
        nothing = await fleet.submit("dev-off", limit=1, attach=True).shutdown([])
        assert (await nothing.report(120)).counts["succeeded"] == 3

    @pytest.mark.parametrize("differing", ["plan", "operation", "arguments"])
    async def test_attaching_needs_the_same_work(self, sqlite_url, differing):
        """A dry run, say, is another job."""
        async with DurableFleet(sqlite_url) as fleet:
            await fleet.submit("night", attach=True).shutdown(["a", "b"], wait_for=4)
            other = fleet.submit("night", attach=True, dry_run=differing == "plan")
            operate = {
                "plan": lambda: other.shutdown(["a"], wait_for=4),
                "operation": lambda: other.reboot(["a"]),
                "arguments": lambda: other.shutdown(["a"], wait_for=5),
            }[differing]
            with pytest.raises(JobExists, match="another operation or plan"):
                await operate()

    async def test_attaching_accepts_other_names_of_a_rename(self, sqlite_url):
        """They belong to its items."""
        async with DurableFleet(sqlite_url) as fleet:
            await fleet.submit("names", attach=True).rename({"a": "x", "b": "y"})
            await fleet.submit("names", attach=True).rename({"b": "y"})
            assert [job.total for job in await fleet.jobs()] == [2]


class TestSecrets:
    async def test_references_are_resolved_when_they_are_sent(
        self, database_url, lively, monkeypatch, caplog
    ):
        """The cloud gets the secrets; the database and the log hold none of them."""
        monkeypatch.setenv("VMAPI_SECRET_PASSWORD", PASSWORD)

        async def vault(name):
            assert name == "vault:boot"
            return USER_DATA

        bodies = []
        handle = lively.api.handle

        def listen(request, *args, **kwargs):
            bodies.append(request.body)
            return handle(request, *args, **kwargs)

        monkeypatch.setattr(lively.api, "handle", listen)
        boot = ImageBoot(
            os="2268",
            password=SecretRef("env:VMAPI_SECRET_PASSWORD"),
            user_data=SecretRef("vault:boot"),
        )
        options = {"polling_interval": 0.05, "secrets": vault}
        async with DurableFleet(database_url, client_of(lively), **options) as fleet:
            async with at_work(fleet):
                job = await fleet.submit("make").create(requests(1, boot=boot))
                report = await job.report(120)
            assert report.counts["succeeded"] == 1
            stored = everything_in(database_url)
        assert any(PASSWORD.encode() in body and b"runcmd" in body for body in bodies)
        assert b"env:VMAPI_SECRET_PASSWORD" in stored
        for secret in (PASSWORD.encode(), b"runcmd", lively.api_secret.encode()):
            assert secret not in stored
            assert secret.decode() not in caplog.text

    @pytest.mark.parametrize("field", ["password", "user_data"])
    async def test_a_plain_secret_is_refused_before_anything_is_stored(self, sqlite_url, field):
        """The error does not show it."""
        boot = ImageBoot(os="2268", **{field: PASSWORD})
        async with DurableFleet(sqlite_url) as fleet:
            with pytest.raises(
                InvalidArgument, match=f"'w-0000': the {field} is a plain"
            ) as refused:
                await fleet.submit("make").create(requests(1, boot=boot))
            assert not await fleet.jobs()
        assert PASSWORD not in str(refused.value)

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("env:VMAPI_SECRET_NOT_SET", "not set on this worker"),
            ("env:HOME", "--secret HOME"),
            ("env:VMAPI_API_SECRET", "credential of the worker"),
            ("vault:none", "no function for secrets"),
        ],
    )
    async def test_an_unresolvable_reference_fails_and_sends_nothing(
        self, sqlite_url, lively, name, why
    ):
        """The reason names the reference."""
        boot = ImageBoot(os="2268", password=SecretRef(name))
        async with (
            DurableFleet(sqlite_url, client_of(lively), polling_interval=0.05) as fleet,
            at_work(fleet),
        ):
            job = await fleet.submit("make").create(requests(1, boot=boot))
            (failed,) = (await job.report(120)).failed
        assert name in failed.reason
        assert why in failed.reason
        assert lively.api.requests["create"] == 0

    async def test_the_error_of_a_vault_function_is_not_shown(self, sqlite_url, lively):
        """Its text may hold the secret."""

        def vault(name):
            raise RuntimeError(PASSWORD)

        boot = ImageBoot(os="2268", password=SecretRef("x"))
        fleet = DurableFleet(sqlite_url, client_of(lively), polling_interval=0.05, secrets=vault)
        async with fleet, at_work(fleet):
            report = await (await fleet.submit("make").create(requests(1, boot=boot))).report(120)
        assert "RuntimeError" in report.failed[0].reason
        assert PASSWORD not in report.to_json()


class TestFleet:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"database_url": "mysql://host/fleet"},
            {"database_url": "sqlite://"},
            {"database_url": "not a URL"},
            {"client": "a client"},
            {"secrets": "a secret"},
            {"secret_names": "ROOT"},
            {"secret_names": [""]},
            {"secret_names": ["ROOT", "VMAPI_API_SECRET"]},
            {"limit": 0},
            {"worker_limit": 0},
            {"lease_duration": 0},
            {"polling_interval": 0},
        ],
    )
    def test_wrong_arguments_are_refused(self, arguments):
        """No connection is opened."""
        with pytest.raises(InvalidArgument) as refused:
            DurableFleet(**({"database_url": "sqlite:///fleet.sqlite"} | arguments))
        assert refused.value.argument in arguments

    def test_the_repr_shows_no_password(self):
        """Nor does the error for a wrong URL."""
        fleet = DurableFleet("postgresql://me:hunter2@db.example/fleet")
        assert "db.example" in repr(fleet)
        assert "hunter2" not in repr(fleet)
        with pytest.raises(InvalidArgument) as refused:
            DurableFleet("mysql://me:hunter2@db.example/fleet")
        assert "hunter2" not in str(refused.value)

    @pytest.mark.parametrize(
        ("name", "plan", "fields"),
        [
            ("a/b", None, {}),
            ("", None, {}),
            ("x", "plan", {}),
            ("x", BulkPlan(), {"limit": 3}),
            ("x", None, {"limit": 0}),
        ],
    )
    def test_a_wrong_submission_is_refused(self, name, plan, fields):
        """At once, not when its operation is chosen."""
        fleet = DurableFleet("sqlite:///fleet.sqlite")
        with pytest.raises(InvalidArgument):
            fleet.submit(name, plan, **fields)

    async def test_items_that_cannot_be_stored_are_refused(self, sqlite_url):
        """Functions, duplicate names, and what a bulk call refuses too."""

        async def start(item):
            return item

        twice = [*requests(1), *requests(1)]
        async with DurableFleet(sqlite_url) as fleet:
            for submit in (
                lambda: fleet.submit("x").run(["a"], start),
                lambda: fleet.submit("x").run(["a"], "explode"),
                lambda: fleet.submit("x", BulkPlan(on_event=print)).reboot(["a"]),
                lambda: fleet.submit("x", check=start).reboot(["a"]),
                lambda: fleet.submit("x", soak=5).delete(["a"]),
                lambda: fleet.submit("x").create(twice),
                lambda: fleet.submit("x").create(["a"]),
                lambda: fleet.submit("x").reboot(["a", "a"]),
                lambda: fleet.submit("x").reboot("a"),
                lambda: fleet.submit("x").shutdown(["a"], wait_for=-1),
                lambda: fleet.submit("x").rename({"a": ""}),
            ):
                with pytest.raises(InvalidArgument):
                    await submit()
            assert not await fleet.jobs()

    async def test_a_process_has_one_worker(self, sqlite_url, lively):
        """A second one is refused, and disturbs nothing."""
        fleet = DurableFleet(sqlite_url, client_of(lively), polling_interval=0.05)
        async with fleet, at_work(fleet):
            await asyncio.sleep(0)
            with pytest.raises(InvalidState, match="another worker"):
                await fleet.work()
            assert (await (await fleet.submit("x").reset([])).report(120)).complete

    async def test_items_dequeued_by_a_forgotten_worker_are_taken_over(self, database_url, lively):
        """It was suspended, expired, and was killed when it had just resumed."""
        async with DurableFleet(
            database_url, client_of(lively), polling_interval=0.05, lease_duration=1.0
        ) as fleet:
            job = await fleet.submit("make").create(requests(2))
            taken_by(database_url, "ghost", "job:make")
            async with at_work(fleet):
                report = await job.report(60)
        assert report.counts["succeeded"] == 2

    async def test_a_database_belongs_to_one_endpoint(self, database_url, lively, emulator):
        """A job's VMs exist there alone; on another one, new ones would be created."""
        async with DurableFleet(database_url, client_of(lively), polling_interval=0.05) as fleet:
            for name in ("first", "second"):
                async with at_work(fleet):
                    job = await fleet.submit(name).create(requests(1))
                    await job.report(60)
        async with DurableFleet(database_url, client_of(emulator), polling_interval=0.05) as fleet:
            job = await fleet.submit("make").create(requests(2))
            with pytest.raises(InvalidState, match=f"are of {lively.url}.*{emulator.url}"):
                await fleet.work()
            assert (await job.status()).done == {}

    async def test_a_worker_with_a_refused_key_dequeues_nothing(self, sqlite_url, lively):
        """It would fail each item, and be the fastest of all."""

        def stranger():
            return Client(lively.url, api_key=lively.api_key, api_secret="another")

        async with DurableFleet(sqlite_url, stranger, polling_interval=0.05) as fleet:
            job = await fleet.submit("make").create(requests(2))
            with pytest.raises(AuthenticationError):
                await fleet.work()
            assert (await job.status()).done == {}

    async def test_leaving_the_fleet_stops_its_worker(self, sqlite_url, lively):
        """The event loop keeps its threads."""
        async with DurableFleet(sqlite_url, client_of(lively), polling_interval=0.05) as fleet:
            worker = asyncio.create_task(fleet.work())
            await (await fleet.submit("x").reset([])).report(120)
        await worker
        assert await asyncio.to_thread(lambda: 1) == 1

    async def test_a_cancelled_worker_drains(self, sqlite_url, lively):
        """And is cancelled all the same; another continues at once."""
        async with DurableFleet(
            sqlite_url, client_of(lively), polling_interval=0.05, lease_duration=600.0
        ) as fleet:
            worker = asyncio.create_task(fleet.work())
            job = await fleet.submit("make").create(requests(2))
            await until(lambda: _in_flight(job))
            worker.cancel()
            with pytest.raises(asyncio.CancelledError):
                await worker
            async with at_work(fleet):
                assert (await job.report(120)).counts["succeeded"] == 2
        assert lively.api.requests["create"] == 2

    async def test_waiting_for_a_report_has_a_timeout(self, sqlite_url):
        """A job without a worker stays queued."""
        async with DurableFleet(sqlite_url, polling_interval=0.05) as fleet:
            job = await fleet.submit("x").reboot(["a"])
            with pytest.raises(TimeoutError):
                await job.report(0.2)
            assert (await job.status()).state == "waiting"

    async def test_a_fleet_that_is_not_open_is_an_error(self):
        """With a clear message."""
        with pytest.raises(InvalidState, match="not open"):
            await DurableFleet("sqlite:///fleet.sqlite").jobs()
