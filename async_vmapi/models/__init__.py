"""The API's data: VMs, the requests to create them, and the catalogue (WIRE §2, §3).

Frozen values without I/O. Each converts itself to plain data and back, by the converter in
`serialization`, which the bulk reports and the durable jobs share. This package imports only
arguments' checks, errors and `redaction`; everything but these may import it.
"""
