"""Those who create machines and wait for them, one a module, for ``benchmarks/peers.py``.

A module's docstring says how its contender is set up, and by which of its documentation. Each has
``run(job)``; it calls ``job.saw(vm_id)`` at the moment when the code that awaits a machine goes
on. Two modules know no contender: `work` is the process that one of them has to itself, and
`signed` makes the requests of those that bring no client of this API along.
"""
