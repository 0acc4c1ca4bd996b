"""Rehearse a bulk call: run its plan many times on an emulated copy of the fleet.

`BulkExecutor.rehearse` does it. These are what it takes and returns; `async_vmapi.rehearsal.rehearse`
runs the plan in other processes, on a virtual clock.
"""

from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.rehearsal import Rehearsal, RehearsalRun, Spread, Timeline, WaveSpan

__all__ = ["Hazards", "Rehearsal", "RehearsalRun", "Spread", "Timeline", "WaveSpan"]
