"""`DurableFleet`: jobs in a database, for any number of workers."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, cast, overload

from async_vmapi import validation
from async_vmapi.bulk.item import Items
from async_vmapi.bulk.operations import Operations
from async_vmapi.bulk.plan import BulkPlan, Share
from async_vmapi.client import Client
from async_vmapi.durable.job import DurableJob, JobStatus, status_of
from async_vmapi.durable.secrets import Secrets, SecretStore
from async_vmapi.durable.spec import decode_spec, encode, same_but_items, spec_of
from async_vmapi.durable.store import UNDER_WAY, WORKFLOW, Database, job_id
from async_vmapi.durable.worker import Limits, Worker
from async_vmapi.durable.worker_stats import WorkerStats, WorkerStatus
from async_vmapi.errors import JobExists

__all__ = ["DurableFleet", "Submission"]


class DurableFleet:
    """Jobs that outlive the process that submitted them and the machine that worked on them.

    Use it as an async context manager; leaving it stops the worker that it runs. Submitting and
    asking needs the database alone; working needs the API's credentials too.

    Args:
        database_url: ``sqlite:///PATH`` for the workers of one machine, or
            ``postgresql://USER@HOST/DATABASE``. What is missing in it is created.
        client: Makes a worker's client.
        secrets: Returns, on a worker, the secret of a `SecretRef` whose name does not begin with
            ``env:``. It may be a coroutine function, which gets a minute; a plain one must not
            wait, for it holds up all that the worker does.
        secret_names: Environment variables of a worker that a `SecretRef` of ``env:NAME`` may
            name, besides those that begin with ``VMAPI_SECRET_``. The API's credentials, the
            database's address and PostgreSQL's own variables never may.
        limit: How many operations are in flight at once at most, of all jobs on all workers; None
            for no more than each job's plan says. Of workers that differ, the last one started
            counts.
        worker_limit: How many are in flight on one worker at most; None for no limit but `limit`.
        lease_duration: Seconds after which others take over what a worker had begun that says
            nothing.
        polling_interval: Seconds between two looks into the database for what is new.

    Raises:
        InvalidArgument: If one of them is wrong.
        DatabaseUnavailable: By ``async with``, if the database cannot be reached or used.
    """

    def __init__(
        self,
        database_url: str,
        client: Callable[[], Client] = Client.from_env,
        *,
        secrets: Secrets | None = None,
        secret_names: Iterable[str] = (),
        limit: int | None = None,
        worker_limit: int | None = None,
        lease_duration: float = 15.0,
        polling_interval: float = 1.0,
    ) -> None:
        if not callable(client):
            raise validation.refuse("client", client, "a function")
        self._database: Final = Database(database_url)
        self._client = client
        self._secrets = SecretStore(secrets, secret_names)
        self._at_work: dict[asyncio.Event, asyncio.Event] = {}
        self._stats: Final = WorkerStats()
        self._limits = Limits(
            limit=None if limit is None else validation.whole("limit", limit, minimum=1),
            worker_limit=None
            if worker_limit is None
            else validation.whole("worker_limit", worker_limit, minimum=1),
            lease_duration=validation.seconds("lease_duration", lease_duration),
            polling_interval=validation.number("polling_interval", polling_interval, least=0.01),
        )

    def __repr__(self) -> str:
        return f"<DurableFleet of {self._database!r}>"

    @property
    def database(self) -> str:
        """Which database it is, without what may be a secret in its URL."""
        return self._database.shown

    @overload
    def submit(self, name: str, plan: BulkPlan, /, *, attach: bool = False) -> "Submission": ...

    @overload
    def submit(
        self,
        name: str,
        plan: None = None,
        /,
        *,
        limit: int = 50,
        max_failures: Share | None = None,
        waves: Sequence[Share] | None = None,
        min_online: Share | None = None,
        dry_run: bool = False,
        attach: bool = False,
    ) -> "Submission": ...

    def submit(
        self, name: str, plan: BulkPlan | None = None, /, *, attach: bool = False, **fields: Any
    ) -> "Submission":
        """Return what takes a job's operation: ``await fleet.submit(name, plan).shutdown(vms)``.

        Its methods are those of ``client.bulk(plan)``, and return the `DurableJob`. Submitting
        the same once more returns the same job. A script that selects VMs, submits and is run again
        after it was killed selects others the second time, for the job has begun: with ``attach``
        it gets the job that is there.

        Args:
            name: The job's name: letters, digits, ``_`` and ``-``.
            plan: How to go about it, in one value.
            attach: Whether a job of that name that is there is returned although its items are
                others; its operation, arguments and plan must be the same.
            fields: Or the fields of a `BulkPlan`, each by its name.

        Raises:
            InvalidArgument: If one of them is wrong.
        """
        validation.identifier("name", name)
        validation.boolean("attach", attach)
        if plan is None:
            plan = BulkPlan(**fields)
        elif not isinstance(plan, BulkPlan) or fields:
            raise validation.refuse("plan", plan, "a BulkPlan without further fields")
        return Submission(
            self._database,
            name,
            plan,
            polling_interval=self._limits.polling_interval,
            attach=attach,
        )

    async def job(self, name: str) -> DurableJob:
        """Return the job of a name.

        Raises:
            JobNotFound: If there is none.
        """
        job = DurableJob(
            self._database,
            validation.identifier("name", name),
            polling_interval=self._limits.polling_interval,
        )
        await job.status()
        return job

    async def jobs(self, *, ended: bool = True, limit: int | None = None) -> list[JobStatus]:
        """Return how the jobs are now, the newest first.

        Args:
            ended: Whether those that have ended are wanted too.
            limit: How many at most; None for all.

        Raises:
            InvalidArgument: If one of them is wrong.
            DatabaseUnavailable: If the database is away.
        """
        validation.boolean("ended", ended)
        found = await self._database.call(
            self._database.client.list_workflows,
            name=WORKFLOW,
            status=None if ended else UNDER_WAY,
            limit=None if limit is None else validation.whole("limit", limit, minimum=1),
            load_input=False,
            load_output=False,
            sort_desc=True,
        )
        return [status_of(status) for status in found]

    async def work(self, stop: asyncio.Event | None = None) -> None:
        """Work on the jobs, on this event loop, until `stop` is set or this is cancelled.

        Then requests that are on the wire get ten seconds to be answered, and what is left is
        other workers', at once. There can be one worker in a process.

        Args:
            stop: To be set, by a handler of SIGTERM for instance.

        Raises:
            InvalidState: If another worker is at work in this process, or the database's workers
                have another endpoint.
            AuthenticationError: If the API refuses the client's credentials, at the start or
                later. What this worker had is then other workers', as if it had been stopped.
            DatabaseLost: If the database's file was deleted or replaced.
        """
        stop, ended = stop or asyncio.Event(), asyncio.Event()
        self._at_work[stop] = ended
        try:
            while await self._worker().run(stop):
                pass  # it was taken for dead, and begins again
        finally:
            del self._at_work[stop]
            ended.set()

    def _worker(self) -> Worker:
        return Worker(self._database, self._client, self._secrets, self._limits, self._stats)

    def worker_status(self) -> WorkerStatus:
        """Return what `work` has in hand here, and has done since this fleet was made."""
        return self._stats.status()

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stop, ended in list(self._at_work.items()):
            stop.set()
            await ended.wait()
        await self._database.close()


class Submission(Operations[DurableJob]):
    """Submits a job; made by `DurableFleet.submit`. Its methods are those of ``client.bulk``.

    Args:
        database: Where to.
        name: The job's name.
        plan: How to go about it.
        polling_interval: Seconds between two looks at it.
        attach: Whether a job with other items may be there.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        plan: BulkPlan,
        *,
        polling_interval: float,
        attach: bool,
    ) -> None:
        self._attach = attach
        self._database = database
        self._job = DurableJob(database, name, polling_interval=polling_interval)
        self._plan = plan

    async def run(self, items: Items[Any], start: str, **keywords: Any) -> DurableJob:
        """Submit an operation, given by its name, on many items.

        Args:
            items: Machines, ids or requests. All are taken at once, for all are stored.
            start: The operation's name; a function cannot be stored.
            keywords: The operation's arguments.

        Raises:
            InvalidArgument: If something is wrong, or is a plain secret.
            JobExists: If the job of that name was submitted with something else.
            UntrustedData: If somebody else has written to the job of that name.
        """
        if isinstance(items, str | bytes | Mapping) or not isinstance(
            items, Iterable | AsyncIterable
        ):
            raise validation.refuse(
                "items", cast(object, items), "an iterable of machines, ids or requests"
            )
        given = [item async for item in items] if isinstance(items, AsyncIterable) else list(items)
        spec = spec_of(start, given, keywords, self._plan)
        text, workflow_id = encode(spec), job_id(self._job.name)
        about = {"operation": spec.operation, "total": len(spec.items)}
        await self._database.submit(workflow_id, text, about)
        stored = await self._database.find(workflow_id, whole=True)
        (kept,) = stored.input["args"] if stored is not None and stored.input else (None,)
        if kept == text:
            return self._job
        if not self._attach:
            others = "operation, plan or items"
        elif not isinstance(kept, str) or not same_but_items(decode_spec(kept), spec):
            others = "operation or plan"
        else:
            return self._job
        name = self._job.name
        raise JobExists(f"there is a job {name!r} already, with another {others}", name=name)
