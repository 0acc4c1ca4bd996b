"""`DurableJob`: a job that was submitted, to be asked for its state, events and report."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal, TypeAlias, cast

import attrs
import msgspec
from dbos import PortableWorkflowError, WorkflowStatus

from async_vmapi import validation
from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.bulk.report import BulkReport, Status
from async_vmapi.durable.events import STREAM, Reader
from async_vmapi.durable.rows import UntrustedData, decoding
from async_vmapi.durable.store import (
    ENDED,
    VERSION,
    Database,
    DatabaseUnavailable,
    is_outage,
    job_id,
)
from async_vmapi.errors import InvalidState, JobNotFound

__all__ = ["DurableJob", "JobState", "JobStatus", "status_of"]

JobState: TypeAlias = Literal["waiting", "running", "paused", "cancelling", "finished", "broken"]
"""How far a job is; what each word means says `JobStatus`."""


@attrs.frozen(kw_only=True)
class JobStatus:
    """A job as it is now.

    Attributes:
        name: Its name.
        operation: Which, for instance ``"shutdown"``.
        state: ``waiting`` (no worker has taken it up), ``running``, ``paused``, ``cancelling``
            (nothing new starts, what is in flight is watched), ``finished`` (its report is there)
            or ``broken`` (its workflow was ended from outside, by DBOS's own tools).
        total: How many items it has.
        done: How many have ended, by what became of them.
        in_flight: How many operations are under way, or about to be.
        wave: The number of the wave under way, from 1.
        stopped: Why nothing new starts any more; None if it does.
        submitted: When it was, in seconds since the epoch.
        changed: When something was last heard of it, in seconds since the epoch.
        waits_for: The version of worker that it waits for, where it was submitted by another
            version of this package: workers of this one leave it alone. None otherwise.
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


def status_of(found: WorkflowStatus) -> JobStatus:
    """Return a job's status from its workflow's."""
    told: dict[str, Any] = found.attributes or {}
    progress: dict[str, Any] = told.get("progress") or {}
    state: JobState
    if found.status == "SUCCESS":
        state = "finished"
    elif found.status in ENDED:
        state = "broken"
    elif told.get("cancelled"):
        state = "cancelling"
    elif told.get("paused"):
        state = "paused"
    else:
        state = "running" if found.status == "PENDING" or progress else "waiting"
    return JobStatus(
        name=found.workflow_id.removeprefix(job_id("")),
        operation=str(told.get("operation", "")),
        state=state,
        total=int(told.get("total", 0)),
        done=cast("dict[Status, int]", progress.get("done") or {}),
        in_flight=int(progress.get("in_flight", 0)),
        wave=int(progress.get("wave", 1)),
        stopped=progress.get("stopped"),
        submitted=(found.created_at or 0) / 1000,
        changed=(found.updated_at or 0) / 1000,
        waits_for=None
        if found.status in ENDED or found.app_version == VERSION
        else found.app_version,
    )


class DurableJob:
    """A job of a `DurableFleet`, from `DurableFleet.submit` or `DurableFleet.job`.

    Args:
        database: Where it is.
        name: Its name.
        polling_interval: Seconds between two looks at it.
    """

    def __init__(self, database: Database, name: str, *, polling_interval: float) -> None:
        self._database = database
        self._interval: Final = polling_interval
        self.name: Final = name

    def __repr__(self) -> str:
        return f"<DurableJob {self.name!r}>"

    async def status(self) -> JobStatus:
        """Return how it is now."""
        return status_of(await self._found())

    async def report(self, timeout: float | None = None) -> BulkReport:
        """Wait for the job's end, and return what became of every item.

        Its ``requests`` are empty: workers count for all jobs together. Its outcomes have no
        ``value``, ``exception`` and ``source``, like those of a report that was read from JSON.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Raises:
            TimeoutError: If it has not ended in time; it goes on.
            InvalidState: If its workflow was ended from outside, or by an error.
            UntrustedData: If somebody else has written it.
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
            # Its text may hold anything.
            error = whole.error
            why = f" ({error.name})" if isinstance(error, PortableWorkflowError) else ""
            raise InvalidState(
                f"job {self.name!r} has no report: its workflow is {whole.status}{why}"
            )
        return BulkReport.from_json(whole.output)

    async def events(self) -> AsyncIterator[BulkEvent]:
        """Iterate over all that happens in it: what was before, then as it comes, to its end.

        Each event is told once. There are none of the kind ``accepted``.

        Raises:
            UntrustedData: If somebody else has written one.
        """
        reader, offset = Reader(), 0
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

    def _events_in(self, text: object, reader: Reader) -> list[BulkEvent]:
        try:
            return list(reader.read(cast(str, text)))
        except (msgspec.DecodeError, TypeError):
            raise UntrustedData(f"an event of job {self.name!r} is not readable") from None

    async def pause(self) -> None:
        """Start nothing new until `resume`; what is in flight goes on.

        Raises:
            InvalidState: If it has ended or was cancelled.
        """
        await self._control(paused=True)

    async def resume(self) -> None:
        """End a `pause`.

        Raises:
            InvalidState: If it has ended or was cancelled.
        """
        await self._control(paused=False)

    async def cancel(self) -> None:
        """Start nothing new for good; what is in flight is watched to its end.

        Raises:
            InvalidState: If it has ended.
        """
        await self._control(cancelled=True)

    async def _control(self, **flag: bool) -> None:
        """Set a flag of its own: what others set in the same moment is neither read nor lost."""
        state = (await self.status()).state
        if state in ("finished", "broken") or (state == "cancelling" and "paused" in flag):
            raise InvalidState(f"job {self.name!r} is {state}")
        await self._database.note(job_id(self.name), **flag)

    async def _found(self, *, whole: bool = False) -> WorkflowStatus:
        found = await self._database.find(job_id(self.name), whole=whole)
        if found is None:
            raise JobNotFound(f"there is no job {self.name!r}", name=self.name)
        return found
