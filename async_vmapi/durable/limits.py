"""The settings of a fleet's workers. Pure."""

import attrs

__all__ = ["Limits"]


@attrs.frozen(kw_only=True)
class Limits:
    """The settings of a fleet's workers.

    Attributes:
        limit: Maximum operations in flight, of all jobs on all workers; None for no limit other
            than those of the jobs' plans.
        worker_limit: Maximum operations in flight on one worker; None for no limit.
        lease_duration: Seconds without a heartbeat after which a worker expires.
        polling_interval: Seconds between two polls of a queue.
    """

    limit: int | None
    worker_limit: int | None
    lease_duration: float
    polling_interval: float
