"""A cloud for the tests of code that uses this package: in memory, or over HTTP.

pytest finds the fixtures `vm_cloud`, `vm_client` and `vm_server` by itself, where this package is
installed; they are in ``pytest_async_vmapi.py``, which costs nothing until one of them is asked
for. What they hand out is here, for use without pytest too. See docs/testing.md.
"""

from async_vmapi.testing.cloud import QUICK, VMCloud
from async_vmapi.testing.server import VMServer

__all__ = ["QUICK", "VMCloud", "VMServer"]
