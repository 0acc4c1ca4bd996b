"""The library writes nothing to standard output; the command writes its results there."""

import pytest

from async_vmapi import Client
from async_vmapi.emulator import Emulator, Settings


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "server_error", "truncated"])
async def test_nothing_is_printed(request_for, capfd, monkeypatch, fault):
    """Retries, unknown outcomes, refusals and unresolved writes, with no logging set up."""
    monkeypatch.setattr("async_vmapi.transport.retries._FIRST_WAIT", 0.001)
    settings = Settings(create=0.01, not_found=0, stale=0, power_off=0.01)
    async with Emulator(settings=settings, seed=1) as emulator:
        client = Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            min_poll_interval=0.002,
            max_staleness=0.0,
            reconcile_timeout=0.1,
        )
        async with client:
            vm = await (await client.vms.create(request_for()))
            emulator.api.faults.fail_next("power_off", fault)
            await (await client.vms.power_off(vm))
            assert client.requests["power_off"] == 2
            emulator.api.faults.fail_next("create", fault)
            report = await client.bulk().create([request_for("other")])
            assert len(report.outcomes) == 1
            assert not report.not_started
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
