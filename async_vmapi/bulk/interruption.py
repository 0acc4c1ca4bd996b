"""`BulkInterrupted`: the report of a bulk call that was cancelled."""

from typing import cast

from async_vmapi.bulk.report import BulkReport
from async_vmapi.errors import VMAPIError

__all__ = ["BulkInterrupted"]


class BulkInterrupted(VMAPIError):
    """A bulk call was cancelled; `report` has the outcome of every item.

    The call still raises `asyncio.CancelledError`, so that timeouts, task groups and Ctrl-C work as
    usual; this is its ``__cause__``. `from_exception` finds it from there, or from the
    `TimeoutError`, `KeyboardInterrupt` or group that the cancellation turned into. If it is lost,
    as in a task group in which another task failed, `BulkExecutor.report` has the same report.

    Attributes:
        report: The `BulkReport`; operations in flight are in its ``unknown``, with tokens.
    """

    def __init__(self, report: BulkReport) -> None:
        tokens = "".join(f"\n  {outcome.token}" for outcome in report.unknown if outcome.token)
        super().__init__(f"{report}{'; tokens to resume from:' if tokens else ''}{tokens}")
        self.report = report

    @staticmethod
    def from_exception(error: BaseException) -> "BulkInterrupted | None":
        """Return the interruption that caused an error; None if there is none."""
        seen: set[int] = set()
        waiting: list[BaseException | None] = [error]
        while waiting:
            at = waiting.pop()
            if at is None or id(at) in seen:
                continue
            if isinstance(at, BulkInterrupted):
                return at
            seen.add(id(at))
            waiting += [at.__context__, at.__cause__]
            if isinstance(at, BaseExceptionGroup):
                waiting += cast("BaseExceptionGroup[BaseException]", at).exceptions
        return None
