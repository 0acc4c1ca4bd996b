"""Rehearse a bulk call: run its plan many times on an emulated copy of the fleet.

`async_vmapi.rehearsal.rehearse` runs them in other processes, on a virtual clock. The results are
`async_vmapi.bulk.rehearsal`.
"""
