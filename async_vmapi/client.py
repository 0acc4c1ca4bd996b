"""`Client`: wires the floors below together and owns what must be closed."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

import aiohttp

from async_vmapi import validation
from async_vmapi.bulk.executor import BulkExecutor
from async_vmapi.bulk.plan import BulkEvent, BulkPlan, Share
from async_vmapi.catalogue import Account, Regions, Templates
from async_vmapi.errors import InvalidArgument
from async_vmapi.models import VirtualMachine
from async_vmapi.options import (
    ClientOptions,
    environment,
    intervals_of,
    transport_of,
    url_of_region,
)
from async_vmapi.redaction import Secret
from async_vmapi.signing import Credentials
from async_vmapi.tasks import task as tasks
from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.schedule import Schedule
from async_vmapi.tasks.task import Task
from async_vmapi.tasks.vm_list import VMListSource
from async_vmapi.telemetry.guards import Guard, GuardedObserver
from async_vmapi.telemetry.hooks import Telemetry
from async_vmapi.transport.endpoint import (
    check_on_unresolved,
    check_telemetry,
    key_of,
    origin_of,
)
from async_vmapi.transport.http import MAX_BODY
from async_vmapi.transport.pipeline import Pipeline, running_loop
from async_vmapi.transport.rate_limit import Pace
from async_vmapi.transport.transport import Transport
from async_vmapi.vms import VirtualMachines
from async_vmapi.writes.record import UnresolvedWrite
from async_vmapi.writes.shield import CANCEL_GRACE, Shield
from async_vmapi.writes.writes import Writes

if TYPE_CHECKING:
    from async_vmapi.emulator.api import CloudAPI

__all__ = ["Client", "ClientOptions"]


class Client:
    """A connection to the API of one region.

    Use it as an async context manager, or call `close` at the end. It may be entered in one
    asyncio task and left in another. Once left or closed it raises `InvalidState`, until it is
    entered again, in the same event loop or in another. It needs asyncio; trio is not supported.

    Args:
        base_url: Scheme and host, and a port if need be, like
            ``https://eu-poland-1warszawa.api.e24cloud.com``. Plain http is for loopback hosts.
        api_key: The API key.
        api_secret: Its secret; it shows in no ``repr``, log or error.
        transport: What sends the requests: any object with the two methods of `Transport`. It is
            closed with the client. None for HTTP, as the three arguments below say; with a
            transport they are refused.
        session: An `aiohttp.ClientSession` to use in place of an own one. It is not closed.
            Its middlewares are not run: they could change what is signed, or send it twice.
        timeout: Seconds for a whole request, connecting included; infinity for no limit, None
            for the default of 30.
        connect_timeout: Seconds to get a connection; None for the default of 10.
        max_response_size: Bytes that a response's body may have at most, decompressed.
        max_connections: How many requests are on the wire at once, at most.
        max_requests_per_second: How many requests set out in a second, at most; None for no
            limit. Set it to what the provider allows: keeping within costs less than being
            refused.
        max_retries: How often a call is retried that failed on the wire, at most; 0 for never. See
            `async_vmapi.vms` for what is repeated.
        reconcile_timeout: Seconds for which a create, reboot or reset whose answer was lost is
            looked for before it is given up as an `OutcomeUnknown`. These calls and `reconcile`
            take it for one call, too.
        cancel_grace: Seconds for which a cancelled call, and `close`, wait for the responses to
            writes in flight, at most; 0 for not at all.
        max_staleness: Seconds by which the response to any read may be old, for each VM. 0 is
            right for a provider that reads its own writes; see docs/completion.md.
        min_poll_interval: Seconds between two looks at an awaited machine, at least.
        max_poll_interval: Seconds between two looks at an awaited machine, at most.
        on_unresolved: Called with each `UnresolvedWrite`, in the event loop, at the moment when it
            is added to `unresolved`. What it raises is logged once, and changes nothing.
        telemetry: Where traces and metrics go: an `async_vmapi.otel.OpenTelemetry`. None for
            nowhere, at no cost.
        seed: Makes the jitter of polling and retries repeatable; None for real chance.

    Raises:
        InvalidArgument: If one of them is not as said above.

    Attributes:
        vms: The machines.
        regions: The regions and their zones.
        templates: The templates to create machines from.
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
        transport: Transport | None = None,
        session: aiohttp.ClientSession | None = None,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        max_response_size: int = MAX_BODY,
        max_connections: int = 100,
        max_requests_per_second: float | None = None,
        max_retries: int = 5,
        reconcile_timeout: float = 60.0,
        cancel_grace: float = CANCEL_GRACE,
        max_staleness: float = 10.0,
        min_poll_interval: float = 1.0,
        max_poll_interval: float = 15.0,
        on_unresolved: Callable[[UnresolvedWrite], object] | None = None,
        telemetry: Telemetry | None = None,
        seed: int | None = None,
    ) -> None:
        # Before anything can be refused, which would show this frame's variables.
        secret = Secret(api_secret)
        del api_secret
        origin = origin_of(base_url)
        max_response_size = validation.whole("max_response_size", max_response_size, minimum=1)
        max_connections = validation.whole("max_connections", max_connections, minimum=1)
        transport = transport_of(
            base_url,
            transport,
            session=session,
            timeout=timeout,
            connect_timeout=connect_timeout,
            max_response_size=max_response_size,
            max_connections=max_connections,
        )
        host = origin.host_subcomponent or ""
        floor, ceiling = intervals_of(min_poll_interval, max_poll_interval)
        rate = max_requests_per_second
        if rate is not None:
            rate = validation.number("max_requests_per_second", rate, above=0.0)
        window = validation.number("reconcile_timeout", reconcile_timeout, least=0.0)
        staleness = validation.number(
            "max_staleness", max_staleness, least=0.0, finite=True, what="a number of seconds"
        )
        if seed is not None:
            seed = validation.whole("seed", seed, minimum=0)
        grace = validation.number(
            "cancel_grace", cancel_grace, least=0.0, finite=True, what="a number of seconds"
        )
        check_on_unresolved(on_unresolved)
        check_telemetry(telemetry)
        guard = Guard()
        self._max_connections = max_connections
        own_origin = str(origin).rstrip("/")
        self._pipeline = Pipeline(
            transport,
            origin=own_origin,
            host=host if origin.is_default_port() else f"{host}:{origin.port}",
            credentials=Credentials(key_of(api_key), validation.secret("api_secret", secret)),
            pace=Pace(max_connections, rate),
            max_retries=validation.whole("max_retries", max_retries, minimum=0),
            max_response_size=max_response_size,
            seed=seed,
            observer=(None if telemetry is None else GuardedObserver(telemetry, own_origin, guard)),
        )
        self._vm_lists = VMListSource(self._pipeline, floor=floor)
        schedule = Schedule(floor=floor, ceiling=ceiling, seed=seed, rate=rate)
        self._hub = PollHub(self._pipeline, self._vm_lists, schedule, max_staleness=staleness)
        self._shield = Shield(self._pipeline, grace=grace, on_unresolved=on_unresolved, guard=guard)
        self._writes = Writes(
            self._pipeline,
            self._hub,
            self._vm_lists,
            self._shield,
            window=window,
            max_staleness=staleness,
        )
        self.vms = VirtualMachines(self._pipeline, self._hub, self._writes)
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
        """Return a client of one of the provider's regions (WIRE §1).

        Args:
            region: The region's name in its endpoint, like ``eu-poland-1warszawa``.
            api_key: The API key.
            api_secret: Its secret.
            options: What else `Client` takes, by keyword.
        """
        secret = Secret(api_secret)
        del api_secret
        url = url_of_region(region)
        secret = validation.secret("api_secret", secret)
        return cls(url, api_key=api_key, api_secret=secret.text(), **options)

    @classmethod
    def from_env(cls, **options: Unpack[ClientOptions]) -> Self:
        """Return a client set up by environment variables.

        Reads ``VMAPI_API_KEY``, ``VMAPI_API_SECRET`` and either ``VMAPI_URL`` or
        ``VMAPI_REGION``; and ``VMAPI_MAX_STALENESS``, in seconds, for `max_staleness`.

        Args:
            options: What else `Client` takes, by keyword.

        Raises:
            InvalidArgument: If one of them is missing or wrong, or both URL and region are set.
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
        """Return a client of a cloud in this process, without any socket.

        Requests are signed and handled as over HTTP. On an event loop whose clock jumps
        (looptime, for instance) hours pass in moments.

        Args:
            cloud: An `async_vmapi.emulator.CloudAPI`.
            latency: Seconds that each request takes.
            options: What else `Client` takes, by keyword, except what is about HTTP. The
                transport is an `async_vmapi.emulator.InMemoryTransport`.
        """
        # The emulator needs aiohttp.web; do not load it for those who never ask for it.
        from async_vmapi.emulator import InMemoryTransport

        if options.get("transport") is not None:
            raise InvalidArgument(
                "in_memory has a transport of its own; give yours to Client", argument="transport"
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
        """The endpoint that it talks to, as scheme and host, and a port if that is unusual."""
        return self._pipeline.origin

    @property
    def requests(self) -> Mapping[str, int]:
        """How many requests this client has sent, by the call's name in WIRE §2."""
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
        dry_run: bool = False,
        on_event: Callable[[BulkEvent], object] | None = None,
    ) -> BulkExecutor: ...

    def bulk(self, plan: BulkPlan | None = None, /, **fields: Any) -> BulkExecutor:
        """Return what does an operation to many machines, so many at once.

        Args:
            plan: How to go about it, in one value.
            fields: Or the fields of a `BulkPlan`, each by its name.

        Raises:
            InvalidArgument: If one of them is wrong.
        """
        if plan is None:
            plan = BulkPlan(**fields)
        elif not isinstance(plan, BulkPlan) or fields:
            raise validation.refuse("plan", plan, "a BulkPlan without further fields")
        return BulkExecutor(
            self.vms,
            plan,
            origin=self._pipeline.origin,
            reconcile=lambda token, besides: self._writes.reconcile(token, besides=besides),
            requests=lambda: self._pipeline.requests,
            connections=self._max_connections,
        )

    def resume(self, token: str) -> Task[VirtualMachine | None]:
        """Take up a task again from its `Task.token`, in this process or another.

        It watches; it never sends the write again. What was seen before counts, what happened in
        between does not, so an end that came meanwhile is known as ``inferred``.

        Raises:
            InvalidArgument: If the token is damaged, or belongs to another endpoint.
            InvalidState: If no asyncio event loop is running.
        """
        running_loop()
        task = tasks.resume(self._hub, self._pipeline.origin, token)
        self._shield.resumed(token)
        return task

    @property
    def unresolved(self) -> tuple[UnresolvedWrite, ...]:
        """Writes whose caller was cancelled before their outcome was known.

        A write in flight is added at the moment when its caller is cancelled. The response may
        come in the next `cancel_grace` seconds: then a write that was refused, or whose VM is
        known anyhow, is removed, and a create that was accepted is there with its VM's id. Each
        is there until `reconcile`, `resume` or `dismiss` removes it.
        """
        return self._shield.unresolved

    @property
    def pending(self) -> tuple[Task[Any], ...]:
        """Tasks that this client returned and that are not complete, the oldest first.

        Also those that your code did not keep, for instance since it was cancelled: they can be
        awaited. A task is removed when it is seen to be complete, which takes someone who awaits
        or refreshes it. Of `resume`, only tasks that your code holds are listed, since it has
        their tokens. The latest 10,000 are kept, after `close` too.
        """
        return tuple(self._hub.pending.tasks())

    async def reconcile(
        self, token: str, *, reconcile_timeout: float | None = None
    ) -> Task[VirtualMachine | None]:
        """Find out what became of a write in doubt, from the token of an `OutcomeUnknown`.

        It polls, and sends no write; so it may be called any number of times, in this process or
        another. The token of a task is taken too.

        Args:
            token: The token.
            reconcile_timeout: Seconds to look for, at most; None for the client's own.

        Raises:
            OutcomeUnknown: If it still cannot be told.
            InvalidArgument: If the token is damaged, or belongs to another endpoint.
        """
        return await self._writes.reconcile(token, reconcile_timeout=reconcile_timeout)

    def dismiss(self, write: UnresolvedWrite) -> None:
        """Take a write off `unresolved`, having dealt with it.

        Raises:
            InvalidArgument: If it is not there.
        """
        self._shield.dismiss(write)

    async def close(self) -> None:
        """Close the connections; tasks that are awaited end with an `InvalidState`.

        Writes in flight get `cancel_grace` seconds for their responses. A warning is logged if some
        are left in `unresolved`. A transport that was given is closed too; a session that was given
        stays open. Until the client is entered again, all that would use it raises `InvalidState`.
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
