"""`Client`: connects the layers below, and closes what must be closed."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, overload

from async_vmapi import validation
from async_vmapi.bulk.executor import BulkExecutor
from async_vmapi.bulk.plan import BulkEvent, BulkPlan, OnFailure, Promote, Share, SpreadBy, plan_of
from async_vmapi.bulk.rehearsal import Rehearsal
from async_vmapi.catalogue import Account, Regions, Templates
from async_vmapi.errors import InvalidArgument
from async_vmapi.facts.assumptions import assumptions_of
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.options import (
    ClientOptions,
    checked,
    environment,
    transport_of,
)
from async_vmapi.readiness.conditions import CheckFunction, Ready
from async_vmapi.redaction import Secret
from async_vmapi.signing import Credentials
from async_vmapi.tasks import task as tasks
from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.rules import DEFAULT_RULES, Rules
from async_vmapi.tasks.schedule import Schedule
from async_vmapi.tasks.task import Task
from async_vmapi.tasks.vm_list import VMListSource
from async_vmapi.telemetry.guards import Guard, GuardedObserver
from async_vmapi.transport.endpoint import key_of, origin_of, url_of_region
from async_vmapi.transport.pipeline import Pipeline, running_loop
from async_vmapi.transport.rate_limit import Pace
from async_vmapi.vms import VirtualMachines
from async_vmapi.writes.record import UnresolvedWrite
from async_vmapi.writes.shield import Shield
from async_vmapi.writes.writes import Writes

if TYPE_CHECKING:
    from async_vmapi.emulator.api import CloudAPI

__all__ = ["Client", "ClientOptions"]

_REHEARSED: Final = (
    "timeout",
    "max_connections",
    "max_requests_per_second",
    "max_retries",
    "reconcile_timeout",
    "cancel_grace",
    "max_staleness",
    "min_poll_interval",
    "max_poll_interval",
)
"""The options that decide how a bulk call goes."""


class Client:
    """A client for the API of one region.

    Use it as an async context manager, or call `close` when done. One asyncio task may enter it and
    another leave it. After that it raises `InvalidState` until it is entered again, in the same or
    another event loop. It requires asyncio; trio is not supported.

    Args:
        base_url: Scheme and host, and optionally a port, like
            ``https://eu-poland-1warszawa.api.e24cloud.com``. Plain http is for loopback hosts.
        api_key: The API key.
        api_secret: Its secret; no ``repr``, log or error shows it.
        options: Keywords, all of which have defaults: see `async_vmapi.client.ClientOptions`.

    Raises:
        InvalidArgument: If an argument is invalid.

    Attributes:
        vms: The VMs.
        regions: The regions and their zones.
        templates: The templates to create VMs from.
        account: The account's SSH keys.
    """

    vms: VirtualMachines
    regions: Regions
    templates: Templates
    account: Account

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str,
        api_secret: str,
        **options: Unpack[ClientOptions],
    ) -> None:
        # Before any check fails: an error shows this frame's variables.
        secret = Secret(api_secret)
        del api_secret
        origin = origin_of(base_url)
        option = checked(options)
        transport = transport_of(base_url, option)
        host = origin.host_subcomponent or ""
        own_origin = str(origin).rstrip("/")
        telemetry, guard = option["telemetry"], Guard()
        rate, seed = option["max_requests_per_second"], option["seed"]
        rules = DEFAULT_RULES
        if option["facts"] is not None:
            rules = Rules.of(assumptions_of(option["facts"]))
        staleness = option["max_staleness"]
        if staleness is None:
            staleness = rules.assume.max_staleness
        shortest, longest = option["min_poll_interval"], option["max_poll_interval"]
        self._options = option
        self._max_connections = option["max_connections"]
        self._max_staleness: float = staleness
        self._pipeline = Pipeline(
            transport,
            origin=own_origin,
            host=host if origin.is_default_port() else f"{host}:{origin.port}",
            credentials=Credentials(key_of(api_key), validation.secret("api_secret", secret)),
            pace=Pace(self._max_connections, rate),
            max_retries=option["max_retries"],
            max_response_size=option["max_response_size"],
            seed=seed,
            observer=None if telemetry is None else GuardedObserver(telemetry, own_origin, guard),
        )
        schedule = Schedule(
            min_interval=shortest,
            max_interval=longest,
            seed=seed,
            rate=rate,
            durations=rules.assume.durations,
        )
        self._vm_lists = VMListSource(self._pipeline, schedule)
        self._hub = PollHub(
            self._pipeline, self._vm_lists, schedule, max_staleness=staleness, rules=rules
        )
        self._shield = Shield(
            self._pipeline,
            grace=option["cancel_grace"],
            on_unresolved=option["on_unresolved"],
            guard=guard,
        )
        self._writes = Writes(
            self._pipeline,
            self._hub,
            self._vm_lists,
            self._shield,
            window=option["reconcile_timeout"],
            max_staleness=staleness,
        )
        self.vms = VirtualMachines(self._pipeline, self._writes)
        self.regions = Regions(self._pipeline)
        self.templates = Templates(self._pipeline)
        self.account = Account(self._pipeline)

    @classmethod
    def for_region(
        cls,
        region: str,
        *,
        api_key: str,
        api_secret: str,
        **options: Unpack[ClientOptions],
    ) -> Self:
        """Return a client for one of the provider's regions (WIRE §1).

        Args:
            region: The region's name in its endpoint, like ``eu-poland-1warszawa``.
            api_key: The API key.
            api_secret: Its secret.
            options: Other keyword arguments of `Client`.
        """
        secret = Secret(api_secret)
        del api_secret
        url = url_of_region(region)
        secret = validation.secret("api_secret", secret)
        return cls(url, api_key=api_key, api_secret=secret.text(), **options)

    @classmethod
    def from_env(cls, **options: Unpack[ClientOptions]) -> Self:
        """Return a client configured by environment variables.

        It reads ``VMAPI_API_KEY``, ``VMAPI_API_SECRET`` and either ``VMAPI_URL`` or
        ``VMAPI_REGION``; ``VMAPI_MAX_STALENESS``, in seconds, for `max_staleness`; and
        ``VMAPI_FACTS``, the path of a file, for `facts`.

        Args:
            options: Other keyword arguments of `Client`.

        Raises:
            InvalidArgument: If a variable is missing or invalid, or both URL and region are set.
        """
        found = environment(options)
        url = found.url or url_of_region(found.region)
        return cls(url, api_key=found.api_key, api_secret=found.api_secret.text(), **options)

    @classmethod
    def in_memory(
        cls,
        cloud: "CloudAPI",
        *,
        latency: float = 0.0,
        **options: Unpack[ClientOptions],
    ) -> Self:
        """Return a client for an emulated cloud in this process, without sockets.

        Requests are signed and handled as over HTTP. In an event loop with virtual time (such as
        looptime), hours pass in moments.

        Args:
            cloud: An `async_vmapi.emulator.CloudAPI`.
            latency: Seconds that each request takes.
            options: Other keyword arguments of `Client`, except those for HTTP. The transport is
                an `async_vmapi.emulator.InMemoryTransport`.
        """
        # Imported on demand: the emulator needs aiohttp.web.
        from async_vmapi.emulator import InMemoryTransport

        if options.get("transport") is not None:
            raise InvalidArgument(
                "in_memory creates its own transport; pass yours to Client", argument="transport"
            )
        options["transport"] = InMemoryTransport(cloud, latency=latency)
        return cls(
            "https://in-memory.invalid",
            api_key=cloud.api_key,
            api_secret=cloud.api_secret,
            **options,
        )

    def __repr__(self) -> str:
        return f"<Client of {self._pipeline.origin}>"

    @property
    def origin(self) -> str:
        """Scheme and host of the endpoint, and its port unless that is the default."""
        return self._pipeline.origin

    @property
    def max_staleness(self) -> float:
        """Maximum age of a read, in seconds, that this client assumes."""
        return self._max_staleness

    @property
    def requests(self) -> Mapping[str, int]:
        """The number of requests sent, by the call's name in WIRE §2."""
        return MappingProxyType(self._pipeline.requests)

    @overload
    def bulk(self, plan: BulkPlan, /) -> BulkExecutor: ...

    @overload
    def bulk(
        self,
        plan: None = None,
        /,
        *,
        limit: int = 50,
        max_failures: Share | None = None,
        waves: Sequence[Share] | None = None,
        min_online: Share | None = None,
        check: Ready | CheckFunction | None = None,
        check_timeout: float = 300.0,
        soak: float = 0.0,
        promote: Promote = "auto",
        spread_by: SpreadBy | None = None,
        on_failure: OnFailure = "stop",
        dry_run: bool = False,
        on_event: Callable[[BulkEvent], object] | None = None,
    ) -> BulkExecutor: ...

    def bulk(self, plan: BulkPlan | None = None, /, **fields: Any) -> BulkExecutor:
        """Return an executor for operations on many VMs.

        Args:
            plan: The options of the rollout.
            fields: Or the fields of a `BulkPlan` as keywords.

        Raises:
            InvalidArgument: If an argument is invalid.
        """
        return BulkExecutor(
            self.vms,
            plan_of(plan, fields),
            origin=self._pipeline.origin,
            reconcile=lambda token, besides: self._writes.reconcile(token, besides=besides),
            requests=lambda: self._pipeline.requests,
            connections=self._max_connections,
            max_staleness=self._max_staleness,
            rehearse=self._rehearse,
        )

    async def _rehearse(self, *call: Any, **options: Any) -> Rehearsal:
        # Imported on demand: most programs rehearse nothing.
        from async_vmapi.rehearsal.rehearse import rehearse

        known = {name: self._options[name] for name in _REHEARSED}
        return await rehearse(
            *call,
            origin=self._pipeline.origin,
            options={name: value for name, value in known.items() if value is not None},
            facts=self._options["facts"],
            **options,
        )

    def resume(self, token: str) -> Task[VirtualMachine | None]:
        """Resume a task from its `Task.token`, in this process or another.

        The task polls; it never resends the write. The token contains what was observed before,
        so a completion in the meantime has the evidence ``inferred``.

        Raises:
            InvalidArgument: If the token is damaged, or belongs to another endpoint.
            InvalidState: If no asyncio event loop is running.
        """
        running_loop()
        task = tasks.resume(self._hub, token)
        self._shield.resumed(token)
        return task

    @property
    def unresolved(self) -> tuple[UnresolvedWrite, ...]:
        """Writes whose caller was cancelled before their outcome was known.

        A write in flight is added as soon as its caller is cancelled. If the response arrives
        within `cancel_grace` seconds, a create that was accepted gets its VM's id here; a write
        that was refused, or whose VM is known, is removed. `reconcile`, `resume` and `dismiss`
        remove the others.
        """
        return self._shield.unresolved

    @property
    def pending(self) -> tuple[Task[Any], ...]:
        """Incomplete tasks of this client, the oldest first.

        They include tasks that your code lost, for example because it was cancelled. A task is
        removed once it is awaited or refreshed, and complete. Tasks from `resume` are listed only
        while your code holds them. At most the latest 10,000 are kept, even after `close`.
        """
        return tasks.pending(self._hub)

    async def reconcile(
        self, token: str, *, reconcile_timeout: float | None = None
    ) -> Task[VirtualMachine | None]:
        """Find out the outcome of a write from the token of an `OutcomeUnknown`.

        It polls and sends no write, so you can call it any number of times, in this process or
        another. It accepts the token of a task, too.

        Args:
            token: The token.
            reconcile_timeout: Maximum seconds to search; None for the client's setting.

        Raises:
            OutcomeUnknown: If the outcome is still unknown.
            InvalidArgument: If the token is damaged, or belongs to another endpoint.
        """
        return await self._writes.reconcile(token, reconcile_timeout=reconcile_timeout)

    def dismiss(self, write: UnresolvedWrite) -> None:
        """Remove a write from `unresolved` after you have handled it.

        Raises:
            InvalidArgument: If it is not in `unresolved`.
        """
        self._shield.dismiss(write)

    async def close(self) -> None:
        """Close the connections; awaited tasks raise `InvalidState`.

        It waits up to `cancel_grace` seconds for responses to writes in flight, and logs a warning
        if any are left in `unresolved`. It closes a transport, but not a session, that was passed
        to `Client`. Until the client is entered again, using it raises `InvalidState`.
        """
        self._hub.close()
        try:
            await self._writes.close()
        finally:
            self._hub.close()
            self._vm_lists.close()
            await self._pipeline.close()

    async def __aenter__(self) -> Self:
        running_loop()
        self._pipeline.closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
