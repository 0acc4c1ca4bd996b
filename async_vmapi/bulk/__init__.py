"""One operation on many VMs.

`BulkExecutor` takes a plan (waves, limit, failure budget) and runs it; `scheduler` decides which
item starts next, and `report` has what became of each. `client` and `durable` import the executor,
plans and reports; this room starts every write through `async_vmapi.vms`.
"""
