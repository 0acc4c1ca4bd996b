"""Rollouts that survive the loss of a process or host, on DBOS (extra: durable).

A `DurableFleet` keeps jobs in a database: SQLite for the workers of one host, PostgreSQL for those
of many. Any number of workers share them; what one leaves unfinished, another resumes.
"""

try:
    import dbos as _  # noqa: F401 - checks that it is installed
except ModuleNotFoundError as error:
    if error.name != "dbos":
        raise
    raise ModuleNotFoundError(
        "async_vmapi.durable needs an extra: pip install 'async-vmapi[durable]'", name="dbos"
    ) from None

from async_vmapi.durable.fleet import DurableFleet, Submission
from async_vmapi.durable.job import DurableJob, JobState, JobStatus
from async_vmapi.durable.rows import UntrustedData
from async_vmapi.durable.store import DatabaseLost, DatabaseUnavailable
from async_vmapi.durable.worker_stats import WorkerItem, WorkerStatus
from async_vmapi.errors import JobExists, JobNotFound

__all__ = [
    "DatabaseLost",
    "DatabaseUnavailable",
    "DurableFleet",
    "DurableJob",
    "JobExists",
    "JobNotFound",
    "JobState",
    "JobStatus",
    "Submission",
    "UntrustedData",
    "WorkerItem",
    "WorkerStatus",
]
