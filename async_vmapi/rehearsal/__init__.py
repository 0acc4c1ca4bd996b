"""Rehearse a bulk call: run its plan many times on an emulated copy of the fleet.

`BulkExecutor.rehearse` does it, in other processes and on a virtual clock. These are what it takes
and returns.
"""

from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.rehearsal import Rehearsal, RehearsalRun, Spread, Timeline, WaveSpan

__all__ = ["Hazards", "Rehearsal", "RehearsalRun", "Spread", "Timeline", "WaveSpan"]
