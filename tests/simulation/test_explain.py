"""`Task.explain`: what polls have shown, and which rule decided."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from async_vmapi import Client, Ready, TaskFailed, TaskTimeout, VMVanished
from async_vmapi.emulator import CloudAPI, Settings
from async_vmapi.tasks.explain import RULE_SENTENCES, Explanation

pytestmark = pytest.mark.looptime

PAGE = Path(__file__).parents[2] / "docs" / "completion.md"


@pytest.fixture
def api():
    """A cloud in which each state is there for some time."""
    times = {"create": 30, "address": 5, "reboot": 40, "shutdown": 20, "delete": 15, "resize": 60}
    return CloudAPI(settings=Settings(not_found=3, stale=0, **times), seed=1)


async def nothing(task):
    """Wait for a task in any case."""
    with contextlib.suppress(TaskFailed, VMVanished, TaskTimeout):
        await task


class TestRules:
    async def test_every_operation_names_its_rule(self, client, request_for):
        """A timeline of what was seen, and the sentence about it."""
        create = await client.vms.create(request_for(), ready=Ready.address())
        vm = await create
        explained = create.explain()
        assert (explained.status, explained.evidence, explained.rule) == (
            *("complete", "observed"),
            "ready",
        )
        assert [(seen.by, seen.state, seen.condition) for seen in explained.seen] == [
            ("get", "installing", None),
            ("get", "online", "online"),
            ("get", "online", "address"),
        ]
        assert explained.absent_polls >= 1
        for operation, arguments, rule in (
            ("shutdown", {"wait_for": 1}, "target"),
            ("power_on", {}, "target"),
            ("resize", {"cores": 2, "ram": 2048, "wait_for": 1}, "resized"),
            ("reboot", {}, "cycle"),
            ("delete", {}, "absent"),
        ):
            await asyncio.sleep(30)
            task = await getattr(client.vms, operation)(vm, **arguments)
            await task
            explained = task.explain()
            assert explained.rule == rule
            assert explained.sentence == RULE_SENTENCES[rule]
            assert explained.evidence == task.evidence
            if operation == "resize":
                sizes = [(seen.cores, seen.ram) for seen in explained.seen]
                assert sizes[0] == (1, 1024)
                assert sizes[-1] == (2, 2048)
        assert explained.seen[-1].state is None

    async def test_a_plain_create(self, client, request_for):
        task = await client.vms.create(request_for())
        assert task.explain() == Explanation(
            operation="create", vm_id=task.vm_id, status="pending", max_staleness=10.0
        )
        await task
        assert task.explain().rule == "new"

    @pytest.mark.parametrize(
        ("settings", "operation", "arguments", "rule"),
        [
            ({"reboot_visible": False}, "reboot", {}, "grace"),
            (
                {"restart_after_resize": False},
                "resize",
                {"cores": 2, "ram": 2048},
                "resized-offline",
            ),
            (
                {"restart_after_resize": False},
                "resize",
                {"cores": 2, "ram": 2048, "ready": Ready.address()},
                "offline",
            ),
            ({}, "resize", {"cores": 1, "ram": 1024}, "resized"),
        ],
    )
    async def test_rare_rules(self, request_for, settings, operation, arguments, rule):
        async with Client.in_memory(
            CloudAPI(settings=Settings(address=0, **settings), seed=1), seed=1
        ) as client:
            vm = await (await client.vms.create(request_for()))
            await asyncio.sleep(30)
            task = await getattr(client.vms, operation)(vm, **arguments)
            await nothing(task)
            assert task.explain().rule == rule

    async def test_failures(self, request_for):
        async with Client.in_memory(
            CloudAPI(settings=Settings(fail_state="error"), seed=1), seed=1
        ) as client:
            task = await client.vms.create(request_for())
            await nothing(task)
            explained = task.explain()
            assert (explained.status, explained.evidence) == ("failed", None)
            assert explained.rule == "failing"

    async def test_a_vm_that_is_gone(self, api, client, request_for):
        """By many lists, since other tasks are awaited too."""
        vms = [await (await client.vms.create(request_for(f"web-{n}"))) for n in range(40)]
        tasks = [await client.vms.shutdown(vm, wait_for=4) for vm in vms]
        async with Client.in_memory(api, seed=2) as other:
            await other.vms.delete(vms[0])
            await asyncio.gather(*map(nothing, tasks))
        explained = tasks[0].explain()
        assert (explained.status, explained.rule) == ("failed", "absent")
        assert "list" in {seen.by for seen in explained.seen}
        assert explained.absent_polls >= 8


class TestText:
    async def test_it_is_a_timeline(self, api, client, request_for):
        """Readable as it is."""
        api.faults.fail_next("get", "html")

        async def closed(_):
            return False

        task = await client.vms.create(request_for(), ready=Ready.address() & Ready.check(closed))
        with pytest.raises(TaskTimeout):
            await task.wait(timeout=60)
        lines = str(task.explain()).splitlines()
        assert lines[0] == f"create of {task.vm_id}: pending, observed"
        assert [line.split()[2:] for line in lines[1:4]] == [
            ["GET", "installing"],
            ["GET", "online"],
            ["GET", "online,", "address", "met"],
        ]
        assert any(line.startswith("1 poll failed; the last: ") for line in lines)
        assert lines[-1].startswith("missing: check:")

    async def test_it_survives_json(self, client, request_for):
        task = await client.vms.create(request_for(), ready=Ready.address())
        await task
        explained = task.explain()
        assert Explanation.from_dict(explained.to_dict()) == explained

    def test_each_sentence_is_in_the_documentation(self):
        """Word by word, with the name of the rule."""
        text = PAGE.read_text("utf-8")
        for name, sentence in RULE_SENTENCES.items():
            assert f"| `{name}` | {sentence} |" in text
