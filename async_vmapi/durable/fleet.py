"""`DurableFleet`: jobs in a database, for any number of workers."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any, Final, Self, overload

from async_vmapi import validation
from async_vmapi.bulk.item import Items, check_items
from async_vmapi.bulk.operations import Operations
from async_vmapi.bulk.plan import BulkPlan, OnFailure, Promote, Share, SpreadBy, plan_of
from async_vmapi.client import Client
from async_vmapi.durable.job import DurableJob, JobStatus, status_of
from async_vmapi.durable.limits import Limits
from async_vmapi.durable.secrets import Secrets, SecretStore
from async_vmapi.durable.spec import Spec, decode, encode, same_but_items, spec_of
from async_vmapi.durable.store import UNDER_WAY, WORKFLOW, Database, job_id
from async_vmapi.durable.worker import Worker
from async_vmapi.durable.worker_stats import WorkerStats, WorkerStatus
from async_vmapi.errors import JobExists
from async_vmapi.readiness.conditions import Ready

__all__ = ["DurableFleet", "Submission"]


class DurableFleet:
    """Jobs that survive the loss of the process that submitted them and of the hosts running them.

    Use it as an async context manager; leaving it stops its worker. Submitting jobs and reading
    their status needs only the database; a worker also needs the API's credentials.

    Args:
        database_url: ``sqlite:///PATH`` for the workers of one host, or
            ``postgresql://USER@HOST/DATABASE``. Missing tables are created.
        client: Creates a worker's client.
        secrets: Returns, on a worker, the secret of a `SecretRef` whose name does not start with
            ``env:``. A coroutine function has a timeout of a minute; a plain function must not
            block, because it would block the entire worker.
        secret_names: Environment variables of a worker to which a `SecretRef` of ``env:NAME`` may
            refer, in addition to those that start with ``VMAPI_SECRET_``. The API's credentials,
            the database's address and PostgreSQL's own variables are never allowed.
        limit: Maximum operations in flight, of all jobs on all workers; None for no limit other
            than each job's plan. If workers differ, the last one started counts.
        worker_limit: Maximum operations in flight on one worker; None for no limit other than
            `limit`.
        lease_duration: Seconds without a heartbeat after which a worker expires and others take
            over its workflows.
        polling_interval: Seconds between two polls of the database.

    Raises:
        InvalidArgument: If an argument is wrong.
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
            raise validation.refuse(
                "client", client, "a function that creates one, like Client.from_env"
            )
        self._database: Final = Database(database_url)
        self._client = client
        self._secrets = SecretStore(secrets, secret_names)
        self._workers: dict[asyncio.Event, asyncio.Event] = {}
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
        """The database's URL without anything that may be secret."""
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
        check: Ready | None = None,
        check_timeout: float = 300.0,
        soak: float = 0.0,
        promote: Promote = "auto",
        spread_by: SpreadBy | None = None,
        on_failure: OnFailure = "stop",
        dry_run: bool = False,
        attach: bool = False,
    ) -> "Submission": ...

    def submit(
        self, name: str, plan: BulkPlan | None = None, /, *, attach: bool = False, **fields: Any
    ) -> "Submission":
        """Return a submission: ``await fleet.submit(name, plan).shutdown(vms)``.

        Its methods are those of ``client.bulk(plan)``, and return the `DurableJob`. Submitting the
        same job again returns the existing job. If a script that selects VMs and submits a job is
        killed and run again, it may select other VMs, because the job has started; with ``attach``
        it gets the existing job.

        Args:
            name: The job's name: letters, digits, ``_`` and ``-``.
            plan: The plan.
            attach: Whether to return an existing job of that name even if its items differ; its
                operation, arguments and plan must be the same.
            fields: The fields of a `BulkPlan`, instead of `plan`.

        Raises:
            InvalidArgument: If an argument is wrong.
        """
        validation.identifier("name", name)
        validation.boolean("attach", attach)
        return Submission(self._database, self._job(name), plan_of(plan, fields), attach=attach)

    def _job(self, name: str) -> DurableJob:
        return DurableJob(self._database, name, polling_interval=self._limits.polling_interval)

    async def job(self, name: str) -> DurableJob:
        """Return the job with a name.

        Raises:
            JobNotFound: If it does not exist.
        """
        job = self._job(validation.identifier("name", name))
        await job.status()
        return job

    async def jobs(self, *, ended: bool = True, limit: int | None = None) -> list[JobStatus]:
        """Return the status of the jobs, the newest first.

        Args:
            ended: Whether to include jobs that have ended.
            limit: Maximum number of jobs; None for all.

        Raises:
            InvalidArgument: If an argument is wrong.
            DatabaseUnavailable: If the database is unavailable.
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
        """Run a worker on this event loop, until `stop` is set or this is cancelled.

        Then requests in flight get ten seconds for their responses, and other workers take over the
        rest immediately. A process can run one worker.

        Args:
            stop: Set it to stop the worker, for instance in a handler of SIGTERM.

        Raises:
            InvalidState: If another worker runs in this process, or the database's workers have
                another endpoint.
            AuthenticationError: If the API refuses the client's credentials, at the start or
                later. Other workers then take over this worker's items, as if it had been stopped.
            DatabaseLost: If the database's file was deleted or replaced.
        """
        stop, ended = stop or asyncio.Event(), asyncio.Event()
        self._workers[stop] = ended
        try:
            while await self._worker().run(stop):
                pass  # it had expired; a new worker replaces it
        finally:
            del self._workers[stop]
            ended.set()

    def _worker(self) -> Worker:
        return Worker(self._database, self._client, self._secrets, self._limits, self._stats)

    def worker_status(self) -> WorkerStatus:
        """Return what `work` is doing, and has done since this fleet was created."""
        return self._stats.status()

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for stop, ended in list(self._workers.items()):
            stop.set()
            await ended.wait()
        await self._database.close()


class Submission(Operations[DurableJob]):
    """Submits a job; created by `DurableFleet.submit`. Its methods are those of ``client.bulk``.

    Args:
        database: The fleet's database.
        job: The job to submit.
        plan: The plan.
        attach: Whether an existing job may have other items.
    """

    def __init__(
        self, database: Database, job: DurableJob, plan: BulkPlan, *, attach: bool
    ) -> None:
        self._attach = attach
        self._database = database
        self._job = job
        self._plan = plan

    async def run(self, items: Items[Any], start: str, **keywords: Any) -> DurableJob:
        """Submit an operation, given by its name, on many items.

        Args:
            items: VMs, ids or requests. All are read at once, because they are stored.
            start: The operation's name; a function cannot be stored.
            keywords: The operation's arguments.

        Raises:
            InvalidArgument: If an argument is wrong, or contains a plain secret.
            JobExists: If the existing job of that name is different.
            UntrustedData: If another program has written to the job of that name.
        """
        check_items(items)
        given = [item async for item in items] if isinstance(items, AsyncIterable) else list(items)
        spec = spec_of(start, given, keywords, self._plan)
        text, workflow_id = encode(spec), job_id(self._job.name)
        attributes = {"operation": spec.operation, "total": len(spec.items)}
        await self._database.submit(workflow_id, text, attributes)
        stored = await self._database.find(workflow_id, whole=True)
        (kept,) = stored.input["args"] if stored is not None and stored.input else (None,)
        if kept == text:
            return self._job
        if not self._attach:
            difference = (
                "operation, plan or items: use another name, or attach=True for other items"
            )
        elif not isinstance(kept, str) or not same_but_items(decode(kept, Spec), spec):
            difference = "operation or plan: use another name"
        else:
            return self._job
        name = self._job.name
        raise JobExists(f"job {name!r} already exists with another {difference}", name=name)
