"""Writes are sent at most once, and none is lost.

`Writes` sends each write and keeps an account of it; a create whose response was lost is looked for
among the VMs that a list shows. `vms`, `bulk` and `durable` import `Writes` and the record of a
write; this room imports tasks and the transport.
"""
