"""Clouds with hidden behaviours, and the facts that a probe of them must find."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta

from async_vmapi import Client
from async_vmapi.emulator import Cloud, CloudAPI, InMemoryTransport, Response, Settings
from async_vmapi.probe import ProbePlan
from tests.conftest import TEMPLATE, ZONE

PLAN = ProbePlan(zone_id=ZONE, template=TEMPLATE, price=0.02, seed=1)
LATENCY = 0.05


class Hidden:
    """A cloud whose behaviour is drawn by a seed.

    Args:
        seed: The seed.
        faults: Faults to inject.
        changes: Settings that are not drawn.
    """

    def __init__(self, seed, *, faults=None, **changes):
        draw = random.Random(f"hidden {seed}")
        longest = draw.choice([0, 0, draw.uniform(1.5, 3), draw.uniform(3, 8)])
        lag = draw.choice([0, 0, draw.uniform(1.5, 5)])

        def span(low, high):
            begin = draw.uniform(low, high)
            return begin, draw.uniform(begin, high)

        self.settings = Settings(
            create=span(25, 90),
            not_found=span(0, 12),
            address=span(0, 12),
            resize=span(24, 60),
            shutdown=span(4, 30),
            power_on=span(8, 30),
            power_off=span(2, 10),
            reboot=span(14, 40),
            reset=span(14, 25),
            delete=span(5, 20),
            stale=span(0, 3),
            list_lag=(lag, lag),
            staleness=(0, longest),
            acpi=draw.choice(["honour", "honour", "honour", "ignore"]),
            restart_after_resize=draw.random() < 0.5,
            reboot_visible=draw.random() < 0.5,
            extra_states=draw.choice([(), ("provisioning",)]),
            get_shape=draw.choice(["list", "object"]),
            not_found_form=draw.choice(["json", "bare", "html", "gone", "success_false"]),
            names=draw.choice(["verbatim", "lower", "strip", "nfc", 64]),
            early_size=draw.choice([None, (0, 3)]),
            sparse=False,
            repeat_ids=draw.choice([0.0, 0.05]),
            strict=True,
        ).changed(**changes)
        self.missing = draw.choice([(), (), ("poweron",), ("poweroff",), ("poweron", "poweroff")])
        self.offset = draw.uniform(-300, 300)
        epoch = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=self.offset)
        self.cloud = Cloud(self.settings, seed=seed, epoch=epoch)
        self.api = CloudAPI(self.cloud, faults=faults)
        self.other = self.cloud.place(
            asyncio.get_running_loop().time(),
            label="production",
            cores=4,
            ram=4096,
            zone={"id": ZONE, "label": "DC1/PUBLIC-1", "name": "x", "available": True},
            template=None,
        )
        self.seed = seed
        self.longest_name = None
        self.shrinks = True

    def client(self, **options):
        """Return a client of it."""
        return Client(
            "https://hidden.invalid",
            api_key=self.api.api_key,
            api_secret=self.api.api_secret,
            transport=_Without(self),
            seed=self.seed,
            **options,
        )

    @property
    def lag(self):
        """How old reads can be."""
        return self.settings.max_staleness

    def flags(self):
        """Return the yes-or-no facts and the forms, with their values; None if not knowable."""
        settings = self.settings
        on, off = ("poweron" not in self.missing), ("poweroff" not in self.missing)
        names = settings.names
        changed = {"lower": "case", "strip": "spaces", "nfc": "unicode", 64: "length"}
        ignored = settings.acpi == "ignore"
        restarts = settings.restart_after_resize
        return {
            "reads.get_shape": settings.get_shape,
            "reads.not_found": settings.not_found_form,
            "reads.ids": "string",
            "reads.new_fields": ("systemName",),
            "reads.go_back": self.lag > 0,
            "refusals.status": 400,
            "refusals.success_false": True,
            "refusals.field": "error",
            "names.change": names if isinstance(names, str) else "verbatim",
            "names.changes": (changed[names],) if names in changed else (),
            "names.cut_at": names if isinstance(names, int) else None,
            # A guest that ignores ACPI shows no reboot, wherever it would.
            "reboot.shows": None if ignored else settings.reboot_visible,
            "reset.shows": settings.reboot_visible,
            "resize.restarts": restarts,
            "resize.shows_early": settings.early_size is not None,
            "power.on": on,
            "power.off": off,
        }

    def durations(self, operation):
        """Return how long its operations really took, in seconds."""
        if operation in ("reboot", "reset") and not self.settings.reboot_visible:
            return []
        return [
            found.finished_at - found.accepted_at
            for found in self.cloud.operations
            if found.kind == operation and found.outcome == "done"
        ]

    @property
    def appearances(self):
        """When its VMs appeared after their creates."""
        created = {o.vm_id: o.accepted_at for o in self.cloud.operations if o.kind == "create"}
        return [self.cloud.gone[vm].visible_at - at for vm, at in created.items()]


class _Without(InMemoryTransport):
    """A transport to a cloud that has not all calls."""

    def __init__(self, hidden):
        super().__init__(hidden.api, latency=LATENCY)
        self._hidden = hidden

    async def send(self, method, target, headers, body):
        call, longest = target.rpartition("/")[2], self._hidden.longest_name
        if call in self._hidden.missing:
            return Response(404, {"Content-Type": "text/html"}, b"<h1>No such page</h1>")
        if call == "resize" and not self._hidden.shrinks and json.loads(body)["cores"] == 1:
            return Response(409, {}, b'{"success": false, "error": "too small"}')
        if call == "rename" and longest and len(body) > longest:
            return Response(422, {}, b'{"success": false, "message": "too long"}')
        return await super().send(method, target, headers, body)
