"""`DurableJob`: a submitted job, with its status, events and report."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal, TypeAlias, cast

import attrs
from dbos import PortableWorkflowError, WorkflowStatus

from async_vmapi import validation
from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.bulk.report import BulkReport, Status
from async_vmapi.durable.rows import UntrustedData, decoding
from async_vmapi.durable.spec import STREAM, EventReader
from async_vmapi.durable.store import (
    ENDED,
    VERSION,
    Database,
    DatabaseUnavailable,
    is_outage,
    job_id,
)
from async_vmapi.errors import InvalidState, JobNotFound
from async_vmapi.models.serialization import Serializable

__all__ = ["DurableJob", "JobState", "JobStatus", "status_of"]

JobState: TypeAlias = Literal[
    "waiting", "running", "held", "paused", "cancelling", "finished", "broken"
]
"""A job's state; see `JobStatus`."""


@attrs.frozen(kw_only=True)
class JobStatus(Serializable):
    """The current status of a job.

    Attributes:
        name: The job's name.
        operation: The operation, for instance ``"shutdown"``.
        state: ``waiting`` (no worker has started it), ``running``, ``held`` (a wave is to be
            promoted), ``paused``, ``cancelling`` (nothing new starts; operations in progress are
            watched), ``finished`` (it has a report) or ``broken`` (its workflow was ended by other
            means, such as DBOS's own tools).
        total: The number of items.
        done: The number of finished items by status.
        in_flight: The number of operations in progress or enqueued.
        wave: The number of the current wave, from 1.
        stopped: Why the job stopped starting items; None if it did not.
        submitted: When the job was submitted, in seconds since the epoch.
        changed: When the job last changed, in seconds since the epoch.
        waits_for: The version of worker that the job waits for, if another version of this package
            submitted it; workers of this version ignore it. None otherwise.
        soaking: The number of VMs that must stay healthy until the next wave starts.
        held: The wave to be promoted before the next one starts; None if there is none now.
        paused: Why the job is paused; None if it is not.
    """

    name: str
    operation: str
    state: JobState
    total: int
    done: Mapping[Status, int]
    in_flight: int
    wave: int
    stopped: str | None
    submitted: float
    changed: float
    waits_for: str | None = None
    soaking: int = 0
    held: int | None = None
    paused: str | None = None


def status_of(found: WorkflowStatus) -> JobStatus:
    """Return a job's status from its workflow's."""
    attributes: dict[str, Any] = found.attributes or {}
    progress: dict[str, Any] = attributes.get("progress") or {}
    held, paused = progress.get("held"), progress.get("suspended")
    if held is not None and attributes.get("promoted", 0) >= held:
        held = None
    if attributes.get("paused"):
        paused = "it was paused"
    elif paused is not None and attributes.get("forgiven", 0) >= _failures(progress):
        paused = None
    state: JobState
    if found.status == "SUCCESS":
        state = "finished"
    elif found.status in ENDED:
        state = "broken"
    elif attributes.get("cancelled"):
        state = "cancelling"
    elif paused is not None:
        state = "paused"
    elif held is not None:
        state = "held"
    else:
        state = "running" if found.status == "PENDING" or progress else "waiting"
    return JobStatus(
        name=found.workflow_id.removeprefix(job_id("")),
        operation=str(attributes.get("operation", "")),
        state=state,
        total=int(attributes.get("total", 0)),
        done=cast("dict[Status, int]", progress.get("done") or {}),
        in_flight=int(progress.get("in_flight", 0)),
        wave=int(progress.get("wave", 1)),
        stopped=progress.get("stopped"),
        submitted=(found.created_at or 0) / 1000,
        changed=(found.updated_at or 0) / 1000,
        waits_for=None
        if found.status in ENDED or found.app_version == VERSION
        else found.app_version,
        soaking=int(progress.get("soaking", 0)),
        held=held if state in ("held", "paused") else None,
        paused=paused if state == "paused" else None,
    )


def _failures(progress: Mapping[str, Any]) -> int:
    done: Mapping[str, int] = progress.get("done") or {}
    return done.get("failed", 0) + done.get("unknown", 0)


class DurableJob:
    """A job of a `DurableFleet`, from `DurableFleet.submit` or `DurableFleet.job`.

    Args:
        database: The fleet's database.
        name: The job's name.
        polling_interval: Seconds between two polls of the job.
    """

    def __init__(self, database: Database, name: str, *, polling_interval: float) -> None:
        self._database = database
        self._interval: Final = polling_interval
        self.name: Final = name

    def __repr__(self) -> str:
        return f"<DurableJob {self.name!r}>"

    async def status(self) -> JobStatus:
        """Return the job's current status."""
        return status_of(await self._found())

    async def report(self, timeout: float | None = None) -> BulkReport:
        """Wait for the job to finish, and return its report.

        The report's ``requests`` are empty, because workers do not count requests by job. Its
        outcomes have no ``value``, ``exception`` and ``source``, as in a report read from JSON.

        Args:
            timeout: Maximum seconds to wait; None for no limit.

        Raises:
            TimeoutError: If the job has not finished in time; it continues.
            InvalidState: If its workflow was ended by other means, or by an error.
            UntrustedData: If another program has written the report.
        """
        limit = None if timeout is None else validation.seconds("timeout", timeout)
        async with asyncio.timeout(limit):
            while True:
                with contextlib.suppress(DatabaseUnavailable):
                    if (await self._found()).status in ENDED:
                        whole = await self._found(whole=True)
                        break
                await asyncio.sleep(self._interval)
        if not isinstance(whole.output, str):
            # The error's text may contain secrets.
            error = whole.error
            why = f" ({error.name})" if isinstance(error, PortableWorkflowError) else ""
            raise InvalidState(
                f"job {self.name!r} has no report: its workflow is {whole.status}{why}; see the "
                "workers' logs, and check its VMs"
            )
        return BulkReport.from_json(whole.output)

    async def events(self) -> AsyncIterator[BulkEvent]:
        """Iterate over the job's events until it ends: past ones first, then new ones.

        There are no duplicates, and no events of the kind ``accepted``.

        Raises:
            UntrustedData: If another program has written an event.
        """
        reader, offset = EventReader(), 0
        while True:
            stream = self._database.client.read_stream_async(
                job_id(self.name), STREAM, offset=offset, polling_interval_sec=self._interval
            )
            try:
                async with aclosing(stream) as texts:
                    with decoding(f"an event of job {self.name!r}"):
                        async for text in texts:
                            offset += 1
                            for event in self._events_in(text, reader):
                                yield event
            except Exception as error:
                if not is_outage(error):
                    raise
                await asyncio.sleep(self._interval)
            else:
                return

    def _events_in(self, text: object, reader: EventReader) -> list[BulkEvent]:
        try:
            return list(reader.read(cast(str, text)))
        except UntrustedData:
            raise UntrustedData(f"an event of job {self.name!r} cannot be decoded") from None

    async def pause(self) -> None:
        """Start nothing new until `resume`; operations in progress continue.

        Raises:
            InvalidState: If the job has ended or was cancelled.
        """
        await self._control(paused=True)

    async def resume(self) -> None:
        """Start items again after `pause`, or after a pause because of failures.

        Failures so far are forgiven: the failure budget starts again.

        Raises:
            InvalidState: If the job has ended or was cancelled.
        """
        attributes = (await self._found()).attributes or {}
        failures = _failures(attributes.get("progress") or {})
        # A coordinator that has just taken over has not counted all of them again.
        forgiven = max(failures, int(attributes.get("forgiven", 0)))
        await self._control(paused=False, forgiven=forgiven)

    async def promote(self) -> None:
        """Let the wave start that waits for it, because of the plan's ``promote``.

        Raises:
            InvalidState: If none waits; see `JobStatus.held`.
        """
        status = await self.status()
        if status.held is None:
            raise InvalidState(f"job {self.name!r} is {status.state}, and no wave is held")
        await self._control(promoted=status.held)

    async def cancel(self) -> None:
        """Start nothing new, permanently; operations in progress are watched to completion.

        Raises:
            InvalidState: If the job has ended.
        """
        await self._control(cancelled=True)

    async def _control(self, **flag: bool | int) -> None:
        """Set flags; concurrent changes of others are kept."""
        state = (await self.status()).state
        if state in ("finished", "broken") or (state == "cancelling" and "paused" in flag):
            raise InvalidState(f"job {self.name!r} is {state}")
        await self._database.note(job_id(self.name), **flag)

    async def _found(self, *, whole: bool = False) -> WorkflowStatus:
        found = await self._database.find(job_id(self.name), whole=whole)
        if found is None:
            raise JobNotFound(
                f"there is no job {self.name!r}; DurableFleet.jobs() and 'async-vmapi job list' "
                "list those that exist",
                name=self.name,
            )
        return found
