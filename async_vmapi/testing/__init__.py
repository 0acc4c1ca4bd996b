"""A cloud for tests of code that uses this package, in memory or over HTTP.

The pytest plugin ``pytest_async_vmapi.py`` is loaded automatically and provides the fixtures
`vm_cloud`, `vm_client` and `vm_server`. The classes behind them are here; they also work without
pytest. See docs/testing.md.
"""

from async_vmapi.testing.cloud import QUICK, VMCloud
from async_vmapi.testing.server import VMServer

__all__ = ["QUICK", "VMCloud", "VMServer"]
