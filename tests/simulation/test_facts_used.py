"""A client with facts: sooner where the provider is known to be fast, and never wrong."""

import asyncio

import pytest

from async_vmapi import Client
from async_vmapi.emulator import CloudAPI, Settings
from async_vmapi.facts import Fact, Facts
from async_vmapi.facts.assumptions import assumptions_of
from async_vmapi.tasks.completion import Completion, Observation
from async_vmapi.tasks.rules import DEFAULT_RULES, Rules, Target

pytestmark = pytest.mark.looptime


def facts(**values):
    return Facts({name.replace("__", "."): Fact(v, "measured", 10) for name, v in values.items()})


FAST = facts(
    reads__max_staleness=0.0,
    reads__appears=(0.0, 1.0),
    resize__restart=10.0,
    resize__change=20.0,
    resize__back=10.0,
    durations__shutdown=(2.0, 4.0),
)


class TestDelay:
    async def delays(self, request_for, facts):
        """Return how long after the cloud's own completion each operation is seen complete."""
        durations = {"create": 10, "shutdown": 3, "power_on": 5, "resize": 8, "delete": 2}
        settings = Settings.from_facts(FAST, address=0, **durations)
        found = {}
        api = CloudAPI(settings=settings, seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1, facts=facts) as client:
            vm = await (await client.vms.create(request_for()))
            for name, arguments in (
                ("shutdown", {"wait_for": 1}),
                ("power_on", {}),
                ("resize", {"cores": 2, "ram": 2048, "wait_for": 1}),
                ("delete", {}),
            ):
                await asyncio.sleep(60)
                began = asyncio.get_running_loop().time()
                task = await getattr(client.vms, name)(vm, **arguments)
                await task
                found[name] = asyncio.get_running_loop().time() - began - durations[name]
        return found

    async def test_facts_of_a_fast_provider_shorten_the_delay(self, request_for):
        """Of each operation; a delete's absence is believed sooner."""
        slow, fast = await self.delays(request_for, None), await self.delays(request_for, FAST)
        assert all(fast[name] < slow[name] for name in slow)
        assert sum(fast.values()) < 0.6 * sum(slow.values())

    async def test_an_option_goes_before_facts(self, request_for):
        """A `max_staleness` that is given is the one that counts."""
        api = CloudAPI(settings=Settings(address=0), seed=1)
        times = {}
        for staleness in (None, 30.0):
            options = {} if staleness is None else {"max_staleness": staleness}
            async with Client.in_memory(api, seed=1, facts=FAST, **options) as client:
                vm = await (await client.vms.create(request_for(f"vm-{staleness}")))
                began = asyncio.get_running_loop().time()
                await (await client.vms.delete(vm))
                times[staleness] = asyncio.get_running_loop().time() - began
        assert times[30.0] > times[None] + 10


class TestProof:
    @pytest.mark.parametrize("seed", range(5))
    async def test_facts_of_a_stale_provider_give_no_false_verdict(self, request_for, seed):
        """Each verdict agrees with the cloud's own state, by the margin of the facts."""
        known = facts(reads__max_staleness=12.0, reads__appears=(0.0, 20.0))
        api = CloudAPI(settings=Settings.from_facts(known, address=0), seed=seed)
        async with Client.in_memory(api, latency=0.02, seed=seed, facts=known) as client:
            vm = await (await client.vms.create(request_for()))
            actual = api.cloud.vms[vm.id]
            for name, arguments, state in (
                ("shutdown", {"wait_for": 1}, "offline"),
                ("power_on", {}, "online"),
                ("resize", {"cores": 2, "ram": 2048, "wait_for": 1}, "online"),
                ("reboot", {}, "online"),
                ("power_off", {}, "offline"),
            ):
                await (await getattr(client.vms, name)(vm, **arguments))
                assert actual.state == state, name
                assert not actual.queue, name
            await (await client.vms.delete(vm))
            assert vm.id not in api.cloud.vms

    def test_a_word_that_was_seen_is_no_surprise(self):
        """It counts at once; an unknown word does only after three polls."""

        def evidence(rules):
            completion = Completion(Target("shutdown", wait_for=1), 10.0, rules=rules)
            completion.observe(Observation(11.0, 11.0, "stopping"))
            return completion.observe(Observation(22.0, 22.0, "offline")).evidence

        known = facts(states__known=("stopping",))
        assert evidence(Rules.of(assumptions_of(known))) == "observed"
        assert evidence(DEFAULT_RULES) == "inferred"


class TestFile:
    async def test_a_client_reads_the_file_once(self, tmp_path, request_for):
        path = tmp_path / "cloud.toml"
        path.write_text(FAST.to_toml(), "utf-8")
        async with Client.in_memory(CloudAPI(seed=1), seed=1, facts=path) as client:
            path.unlink()
            assert (await (await client.vms.create(request_for()))).state == "online"

    async def test_the_environment_names_it(self, tmp_path, monkeypatch):
        path = tmp_path / "cloud.toml"
        for name, value in (
            ("URL", "https://vm.invalid"),
            ("API_KEY", "key"),
            ("API_SECRET", "secret"),
            ("FACTS", str(path)),
        ):
            monkeypatch.setenv(f"VMAPI_{name}", value)
        with pytest.raises(ValueError, match="cannot be read"):
            Client.from_env()
        path.write_text(FAST.to_toml(), "utf-8")
        await Client.from_env().close()
