"""Measure a provider: `Probe` creates small VMs, measures, and returns `async_vmapi.facts.Facts`.

It stands on the client, whose transport it wraps to see responses as they came; only the command
line imports it.
"""

from async_vmapi.probe.plan import Estimate, ProbePlan
from async_vmapi.probe.probe import Probe, ProbeReport

__all__ = ["Estimate", "Probe", "ProbePlan", "ProbeReport"]
