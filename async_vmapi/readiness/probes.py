"""Probes: one attempt each to find out whether a VM meets a condition of its readiness.

They connect from this host, and never through the client's session, whose requests are signed.
"""

import asyncio
import ipaddress
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp

from async_vmapi.models.vm import VirtualMachine
from async_vmapi.readiness.conditions import Check, Http, Probe, Ssh, Tcp

__all__ = ["probe"]

_MOST_READ = 8192
"""Maximum bytes that are read from an SSH server before its banner."""


async def probe(condition: Probe, vm: VirtualMachine) -> str | None:
    """Return None if a VM meets a condition, else the reason why not.

    Args:
        condition: The condition.
        vm: The VM as last seen.
    """
    address = next(iter(vm.addresses), None)
    try:
        async with asyncio.timeout(condition.timeout):
            if isinstance(condition, Check):
                return await _call(condition, vm)
            if address is None or not _is_ip(address):
                return f"the VM's address is {address!r}"
            match condition:
                case Tcp(port=port):
                    async with _connected(address, port):
                        return None
                case Ssh(port=port):
                    return await _read_banner(address, port)
                case Http():
                    return await _get(condition, address)
    except TimeoutError:
        return f"no response within {condition.timeout:g} s"
    except (OSError, aiohttp.ClientError) as error:
        return _text_of(error)


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


@asynccontextmanager
async def _connected(address: str, port: int) -> AsyncGenerator[asyncio.StreamReader, None]:
    reader, writer = await asyncio.open_connection(address, port, limit=_MOST_READ)
    try:
        yield reader
    finally:
        # Nothing was written that must still arrive.
        writer.transport.abort()


async def _read_banner(address: str, port: int) -> str | None:
    left = _MOST_READ
    async with _connected(address, port) as reader:
        # RFC 4253: other lines may come before it.
        while left > 0:
            try:
                line = await reader.readline()
            except ValueError:
                break
            if line.startswith(b"SSH-"):
                return None
            if not line:
                return "the connection was closed before an SSH banner"
            left -= len(line)
    return "the port sends no SSH banner"


async def _get(condition: Http, address: str) -> str | None:
    connector = aiohttp.TCPConnector(force_close=True)
    url = f"http://{address}:{condition.port}{condition.path}"
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(url, allow_redirects=False, timeout=aiohttp.ClientTimeout()) as response,
    ):
        met = response.status == condition.status
        return None if met else f"the response has status {response.status}"


async def _call(condition: Check, vm: VirtualMachine) -> str | None:
    task = asyncio.current_task()
    try:
        result: object = await condition.function(vm)
    except asyncio.CancelledError:
        if task is None or task.cancelling():
            raise
        return "it raised CancelledError"
    except Exception as error:  # noqa: BLE001 - whatever a caller's own function raises
        # Its text may hold secrets.
        return f"it raised {type(error).__name__}"
    if result is True or result is False:
        return None if result else "it returned False"
    return f"it returned {type(result).__name__}; return True once the VM is ready"


def _text_of(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, aiohttp.ClientError):
        # asyncio adds the address to the text of some errors.
        return os.strerror(cause.errno).lower() if cause.errno else "the connection failed"
    return f"the connection failed with {type(cause).__name__}"
