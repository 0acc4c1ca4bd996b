"""One operation on many VMs.

`BulkExecutor` runs a plan (waves, limit, failure budget); `scheduler` decides when each item
starts, and `report` has their outcomes. `client` and `durable` import the executor, plans and
reports. This package starts every write through `async_vmapi.vms`.
"""
