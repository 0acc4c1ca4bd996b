"""The contenders of ``benchmarks/peers.py``, which create VMs and wait for them, one per module.

A module's docstring describes the set-up and the documentation that it follows. Each module has
``run(job)``, which calls ``job.saw(vm_id)`` when the code that awaits a VM continues. `work` is the
process that runs a contender, and `signed` makes requests for those without a client of this API.
"""
