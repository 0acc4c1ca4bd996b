"""Writes: carried out at most once, and never lost.

`Writes` sends each write and records its outcome; if the response to a create was lost, it searches
the list for the VM. `vms`, `bulk` and `durable` import `Writes` and the record of a write; this
package imports tasks and the transport.
"""
