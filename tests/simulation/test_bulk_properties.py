"""Properties of bulk calls under any plan, faults, cancellations and resumes."""

import asyncio
import logging
from collections import Counter

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from async_vmapi import BulkPlan, BulkReport, Client, ConnectError, VMAPIError
from async_vmapi.bulk.plan import count_of
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings
from async_vmapi.writes.operations import operation_spec
from tests.virtual_time import JumpingLoop

from .in_memory import client_and_transport
from .test_bulk import fleet_of, least_online, now, requests, truth

# Many cases of the same code; what it covers is measured in the other tests.
pytestmark = [pytest.mark.looptime, pytest.mark.no_cover]

CLOUDS = st.builds(
    Settings,
    create=st.just((1, 20)),
    not_found=st.just(0),
    shutdown=st.just((1, 20)),
    reboot=st.just((1, 20)),
    reset=st.just((1, 20)),
    reboot_visible=st.booleans(),
    restart_after_resize=st.booleans(),
    acpi=st.sampled_from(["honour", "ignore"]),
    stale=st.sampled_from([0, (0, 3)]),
    list_lag=st.sampled_from([0, (0, 2)]),
)
SHARES = st.integers(0, 12) | st.integers(0, 100).map("{}%".format)


def plan_of(**fields):
    """Return a plan; without waves, there is nothing to promote."""
    if fields["waves"] is None and fields["spread_by"] is None:
        fields["promote"] = "auto"
    return BulkPlan(**fields)


PLANS = st.builds(
    plan_of,
    limit=st.integers(1, 8),
    max_failures=st.none() | st.none() | SHARES,
    waves=st.none()
    | st.lists(st.integers(1, 8) | st.integers(1, 100).map("{}%".format), min_size=1, max_size=3),
    min_online=st.none() | SHARES,
    soak=st.sampled_from([0, 0, 0, 12]),
    promote=st.sampled_from(["auto", "auto", "manual", "each"]),
    spread_by=st.sampled_from([None, None, "zone"]),
    on_failure=st.sampled_from(["stop", "stop", "pause"]),
    dry_run=st.sampled_from([False] * 7 + [True]),
)
FAULTS = st.lists(
    st.builds(
        Fault,
        kind=st.sampled_from(
            [
                "drop_before",
                "drop_after",
                "stall",
                "server_error",
                "truncated",
                "html",
                "rate_limited",
                "success_false",
                "slow_body",
                "refuse",
            ]
        ),
        probability=st.floats(0.05, 0.7),
        retry_after=st.sampled_from([None, 3]),
        after=st.booleans(),
    ),
    max_size=3,
)
SEEN = {"TaskFailed", "VMVanished", "TaskTimeout"}
"""The errors of items that were carried out."""
OPERATIONS = ["create", "reboot", "reset", "shutdown", "power_off", "resize", "delete"]
ONCE = {"create", "reboot", "reset"}
KEYWORDS = {"create": {"unique_name": True}, "resize": {"cores": 2, "ram": 2048, "wait_for": 0}}


@attrs.frozen
class Cut:
    """When a call is cancelled, and how long after that a second time; None for never."""

    at: float | None
    again: float | None


CUTS = st.lists(
    st.builds(Cut, st.none() | st.floats(0, 60), st.none() | st.floats(0, 3)),
    min_size=1,
    max_size=3,
)


class Tap:
    """Records the writes that are sent by a transport, and their responses.

    Attributes:
        sent: What each was about, a path or the name of what is created, in their order.
        unrefused: Of each, how many were not refused, so that they may be carried out.
    """

    def __init__(self, transport):
        self._send, transport.send = transport.send, self.send
        self.sent = []
        self.unrefused = Counter()

    async def send(self, method, target, headers, body):
        if method == "GET":
            return await self._send(method, target, headers, body)
        about = msgspec.json.decode(body)["name"] if method == "PUT" else target.partition("?")[0]
        self.sent.append(about)
        self.unrefused[about] += 1
        try:
            response = await self._send(method, target, headers, body)
        except ConnectError:
            self.unrefused[about] -= 1
            raise
        refused = response.status < 500 and response.status not in (200, 408)
        if refused or b'"success":false' in response.body.replace(b" ", b""):
            self.unrefused[about] -= response.status < 500
        return response


@settings(
    max_examples=settings.default.max_examples // 5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.generate],
)
@given(
    cloud=CLOUDS,
    plan=PLANS,
    operation=st.sampled_from(OPERATIONS),
    kinds=st.lists(
        st.sampled_from(["online", "online", "online", "offline", "no"]), min_size=1, max_size=12
    ),
    faults=FAULTS,
    cuts=CUTS,
    latency=st.sampled_from([0.02, 0.02, 2]),
    seed=st.integers(0, 100),
)
def test_bulk_invariants(cloud, plan, operation, kinds, faults, cuts, latency, seed):
    """Limit, budget, minimum online and the four lists hold, and nothing is duplicated or lost."""
    run = Run(cloud, plan, operation, kinds, faults, cuts, latency, seed)
    logging.disable(logging.ERROR)
    try:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(run.main())
    finally:
        logging.disable(logging.NOTSET)


@attrs.define
class Run:
    """A call that is cancelled, then resumed from JSON by another client, once for each cut.

    The last one is neither cut off nor disturbed.
    """

    cloud: Settings
    plan: BulkPlan
    operation: str
    kinds: list[str]
    faults: list[Fault]
    cuts: list[Cut]
    latency: float
    seed: int
    api: CloudAPI = None
    items: list = None
    ours: set = None
    carried_out_before: int = 0
    unrefused: Counter = attrs.field(factory=Counter)

    async def main(self):
        self.api = CloudAPI(settings=self.cloud, seed=self.seed)
        await self.prepare()
        await asyncio.sleep(60)
        self.ours = {vm.id for vm in truth(self.api)}
        began, self.carried_out_before = now(), len(self.api.cloud.operations)
        report = None
        for number, cut in enumerate([*self.cuts, None]):
            self.api.faults = FaultPlan(self.faults if cut else (), seed=self.seed)
            latency = self.latency if cut else 0.02
            client, transport = client_and_transport(self.api, latency=latency, seed=number)
            async with client:
                report = await self.one(client, Tap(transport), report, cut)
            # From then on no list can be stale about it.
            await asyncio.sleep(5)
        self.check_the_end(report)
        if self.plan.min_online is not None and self.operation != "create":
            given = set(self.items) & self.ours
            # VMs that do not exist are in no zone.
            total = len(given if self.plan.spread_by else self.items)
            wanted = count_of(self.plan.min_online, total, up=True)
            least, before = least_online(self.api, given, began)
            assert least >= min(before, wanted)

    async def prepare(self):
        count = len(self.kinds)
        if self.operation == "create":
            self.items = requests(count)
            return
        async with Client.in_memory(self.api, latency=0.02, seed=self.seed) as client:
            vms = iter(await fleet_of(client, count))
            self.items = [
                f"no-{n}" if k == "no" else next(vms).id for n, k in enumerate(self.kinds)
            ]
            down = [i for i, k in zip(self.items, self.kinds, strict=True) if k == "offline"]
            await client.bulk().shutdown(down, wait_for=0)

    async def one(self, client, tap, before, cut):
        at_stop = []
        sent_before = Counter(client.requests)

        def note(event):
            if event.kind == "stopped":
                at_stop.append((len(tap.sent), set(+tap.unrefused)))
            elif event.kind in ("held", "paused"):
                go_on = bulk.promote if event.kind == "held" else bulk.unpause
                asyncio.get_running_loop().call_later(20, go_on_if, event.kind, go_on)

        def go_on_if(kind, go_on):
            if kind == "paused" or bulk.held:
                go_on()

        plan = attrs.evolve(self.plan, on_event=note)
        if operation_spec(self.operation).stays_down:
            plan = attrs.evolve(plan, soak=0)
        if cut is None:
            changes = {"promote": "auto", "on_failure": "pause"}
            plan = attrs.evolve(plan, max_failures=None, waves=None, **changes)
        bulk = client.bulk(plan)
        call = self.call(bulk, before)
        first = len(self.api.cloud.operations)
        running = asyncio.create_task(call)
        if cut is not None and cut.at is not None:
            await asyncio.wait({running}, timeout=cut.at)
            running.cancel()
            if cut.again is not None:
                await asyncio.wait({running}, timeout=cut.again)
                running.cancel()
        await asyncio.wait({running})
        if not running.cancelled() and (error := running.exception()):
            assert isinstance(error, VMAPIError)
            assert plan.min_online is not None or plan.spread_by is not None
        report = bulk.report
        if report is None:
            # It was cancelled before it began.
            return before
        self.check(report, tap, at_stop)
        self.check_in_flight(report, first)
        assert Counter(report.requests) <= Counter(client.requests) - sent_before
        self.unrefused += tap.unrefused
        return BulkReport.from_json(report.to_json())

    def call(self, bulk, before):
        keywords = KEYWORDS.get(self.operation, {})
        if before is None:
            return bulk.run(self.items, self.operation, **keywords)
        return bulk.resume(before, self.items if self.operation == "create" else None)

    def check(self, report, tap, at_stop):
        assert [o.index for o in report.outcomes] == list(range(len(self.items)))
        assert sum(report.counts.values()) == len(self.items)
        assert BulkReport.from_json(report.to_json()) == report
        assert all(o.token for o in report.unknown if self.operation in ONCE or o.accepted)
        assert len(at_stop) <= 1
        if self.plan.dry_run:
            assert tap.sent == []
        if at_stop:
            # Nothing is sent then but to reconcile what may have been carried out.
            sent, unrefused = at_stop[0]
            assert set(tap.sent[sent:]) <= unrefused

    def check_in_flight(self, report, first):
        """Count by the cloud's log what was in flight at once; unknown items are left out."""
        truth(self.api)
        known = {o.vm_id for o in report.outcomes if o.status != "unknown"}
        spans = {}
        for operation in self.api.cloud.operations[first:]:
            if operation.kind != self.operation or operation.vm_id not in known:
                continue
            if operation.finished_at is not None:
                # One that was sent again with an unknown outcome is complete by the first request.
                spans.setdefault(operation.vm_id, operation)
        changes = [(o.accepted_at, 1) for o in spans.values()]
        changes += [(o.finished_at, -1) for o in spans.values()]
        count = 0
        for _, change in sorted(changes):
            count += change
            assert count <= self.plan.limit

    def check_the_end(self, report):
        done = Counter(
            operation.vm_id
            for operation in self.api.cloud.operations[self.carried_out_before :]
            if operation.kind == self.operation
        )
        if self.operation in ONCE:
            assert max(done.values(), default=0) <= 1
            assert max(self.unrefused.values(), default=0) <= 1
        refused = [o for o in report.failed if o.error not in SEEN]
        untouched = {o.item for o in [*refused, *report.not_started]}
        if self.operation == "create":
            labels = {vm.id: vm.label for vm in truth(self.api)}
            assert max(Counter(labels.values()).values(), default=0) <= 1
            assert not untouched & set(labels.values())
            assert all(labels[o.vm_id] == o.item for o in report.succeeded)
            if not report.stopped and not self.plan.dry_run:
                assert len(report.succeeded) + len(report.failed) + len(report.unknown) == len(
                    self.items
                )
        else:
            assert not untouched & set(done)
            # An unknown delete that finds no VM was carried out.
            seen = {o.item for o in report.succeeded if o.item in self.ours}
            assert seen <= set(done)
