"""`VMServer`: the emulator over HTTP in a separate thread."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final, Self, TypeVar, Unpack

from async_vmapi.client import Client, ClientOptions
from async_vmapi.emulator import Emulator, Settings
from async_vmapi.facts import Facts
from async_vmapi.facts.assumptions import assumptions_of
from async_vmapi.testing.cloud import VMCloud

__all__ = ["VMServer"]

T = TypeVar("T")

_PATIENCE: Final = 60.0
"""Seconds within which the thread must respond, even on a very busy computer."""


class VMServer:
    """A cloud that listens on a free port of 127.0.0.1, as a context manager.

    It runs in a thread, in real time, so it works with async code, blocking code and other
    programs, and does not need an async fixture.

    Args:
        settings: Its behaviour; that of the facts, or `async_vmapi.testing.QUICK`, by default.
        facts: What is known about the provider, as `async_vmapi.facts.Facts` or the path of their
            file. `client` and `env` use them, too.
        seed: Random seed, to make it reproducible.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        facts: Facts | str | os.PathLike[str] | None = None,
        seed: int | None = 1,
    ) -> None:
        self._cloud = _ServedCloud(settings, facts=facts, seed=seed)
        self._facts = facts
        self._url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<VMServer {f'at {self._url}' if self._url else 'not running'}>"

    @property
    def cloud(self) -> VMCloud:
        """Its cloud, to set up, inject faults into, and inspect."""
        return self._cloud

    @property
    def url(self) -> str:
        """The base URL."""
        if not self._url:
            raise RuntimeError("the server is not running")
        return self._url

    @property
    def api_key(self) -> str:
        """The only valid API key."""
        return self._cloud.api_key

    @property
    def api_secret(self) -> str:
        """The secret of the key."""
        return self._cloud.api_secret

    @property
    def env(self) -> dict[str, str]:
        """Environment variables for `Client.from_env`, including the secret.

        Facts that have no file are left out, except the age of reads.
        """
        found = {
            "VMAPI_URL": self.url,
            "VMAPI_API_KEY": self.api_key,
            "VMAPI_API_SECRET": self.api_secret,
        }
        match self._facts:
            case None:
                return found | {"VMAPI_MAX_STALENESS": "0"}
            case Facts():
                staleness = assumptions_of(self._facts).max_staleness
                return found | {"VMAPI_MAX_STALENESS": str(staleness)}
            case path:
                return found | {"VMAPI_FACTS": os.fspath(path)}

    def client(self, **options: Unpack[ClientOptions]) -> Client:
        """Return a client with polling intervals that suit this cloud. The caller must close it.

        Args:
            options: Keyword arguments of `Client`.
        """
        options = self._cloud.suited | {"reconcile_timeout": 2.0} | options
        return Client(self.url, api_key=self.api_key, api_secret=self.api_secret, **options)

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("the server is already running")
        self._listening.clear()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="vm_server", daemon=True)
        self._thread.start()
        if not self._listening.wait(_PATIENCE):
            raise RuntimeError(f"the server did not start within {_PATIENCE:g} s")
        if self._error is not None:
            self._thread.join(_PATIENCE)
            error, self._error, self._thread, self._url = self._error, None, None, ""
            raise error
        return self

    def __exit__(self, *_: object) -> None:
        thread, self._thread, self._url = self._thread, None, ""
        if thread is None or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise RuntimeError(f"the server did not stop within {_PATIENCE:g} s")
        if self._error is not None:
            failure, self._error = self._error, None
            raise failure

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised in __enter__ or __exit__
            self._error = error
        finally:
            self._listening.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Emulator(self._cloud) as emulator:
            self._cloud.served(self._loop, lambda: emulator.now)
            self._url = emulator.url
            self._listening.set()
            try:
                await self._stop.wait()
            finally:
                self._cloud.served(None, None)


class _ServedCloud(VMCloud):
    """A cloud that is served by another thread, and accessed only there."""

    _serving: asyncio.AbstractEventLoop | None = None
    _clock: Callable[[], float] | None = None

    def served(
        self, loop: asyncio.AbstractEventLoop | None, clock: Callable[[], float] | None
    ) -> None:
        """Set the loop that serves it, and the clock there; None if it is not served."""
        self._serving, self._clock = loop, clock

    def _do(self, act: Callable[[float], T]) -> T:
        loop, clock = self._serving, self._clock
        if loop is None or clock is None:
            return act(self.cloud.now)

        async def there() -> T:
            return act(self.cloud_time(clock()))

        return asyncio.run_coroutine_threadsafe(there(), loop).result(_PATIENCE)
