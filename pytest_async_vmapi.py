"""The pytest plugin of async_vmapi: a cloud for tests of code that uses the package.

pytest loads this module in every run, so it is outside the package and imports it only when a
fixture is used. No fixture is async, so they work with pytest-asyncio, anyio, or without either.
See docs/testing.md.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator

    from async_vmapi import Client
    from async_vmapi.emulator import Settings
    from async_vmapi.facts import Facts
    from async_vmapi.testing import VMCloud, VMServer


@pytest.fixture
def vm_virtual_time(request: pytest.FixtureRequest) -> bool:
    """Whether the test's event loop has a clock that jumps, like looptime's.

    Detects looptime's marker and option, and a looptime ``loop_factory`` of anyio's backend.
    Override it in other cases.
    """
    return _looptime_is_on(request.node) or _anyio_clock_jumps(request)


@pytest.fixture
def vm_settings() -> Settings | None:
    """The settings of `vm_cloud` and `vm_server`; override it to return your `Settings`."""
    return None


@pytest.fixture
def vm_facts() -> Facts | str | os.PathLike[str] | None:
    """What is known about the provider; override it to return `async_vmapi.facts.Facts` or a path.

    The clouds then behave by them, unless `vm_settings` is overridden, and the clients use them.
    """
    return None


@pytest.fixture
def vm_cloud(
    vm_settings: Settings | None,
    vm_facts: Facts | str | os.PathLike[str] | None,
    vm_virtual_time: bool,
) -> VMCloud:
    """A cloud in memory, to set up, inject faults into, and inspect."""
    from async_vmapi.testing import VMCloud

    return VMCloud(vm_settings, facts=vm_facts, virtual_time=vm_virtual_time)


@pytest.fixture
def vm_client(vm_cloud: VMCloud) -> Client:
    """A client of `vm_cloud`. It does not have to be closed."""
    return vm_cloud.client()


@pytest.fixture
def vm_server(
    vm_settings: Settings | None, vm_facts: Facts | str | os.PathLike[str] | None
) -> Iterator[VMServer]:
    """A cloud over HTTP in real time, for code that makes its own client, and for programs."""
    from async_vmapi.testing import VMServer

    with VMServer(vm_settings, facts=vm_facts) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that passed without a request for each of its ``fail_next``."""
    result = yield
    fixtures: dict[str, Any] = getattr(item, "funcargs", {})
    clouds = fixtures.get("vm_cloud"), getattr(fixtures.get("vm_server"), "cloud", None)
    unused = [
        f"{fault.call}: {fault.kind}"
        for cloud in clouds
        if cloud is not None
        for fault in cloud.faults.unused
    ]
    if unused:
        pytest.fail(
            f"no request got the fault of fail_next ({', '.join(unused)}), so this test does not "
            "test it. If that is meant, end the test with faults.clear()",
            pytrace=False,
        )
    return result


def _looptime_is_on(node: pytest.Item) -> bool:
    """Return whether looptime is active for this test."""
    option: bool | None = node.config.getoption("looptime", None)
    markers = list(node.iter_markers("looptime"))
    on = bool(markers or option) and option is not False
    for marker in reversed(markers):
        if marker.args:
            on = bool(marker.args[0])
    return on


def _anyio_clock_jumps(request: pytest.FixtureRequest) -> bool:
    looptime = sys.modules.get("looptime")
    if looptime is None or "anyio_backend" not in request.fixturenames:
        return False
    backend: Any = request.getfixturevalue("anyio_backend")
    options: dict[str, Any] = {} if isinstance(backend, str) else backend[1]
    factory = options.get("loop_factory")
    return isinstance(factory, type) and issubclass(factory, looptime.LoopTimeEventLoop)
