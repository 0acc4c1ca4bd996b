"""A restored cloud goes on as if it had never been saved."""

import itertools
import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.emulator import (
    CloudOperation,
    CloudVM,
    Settings,
    restore,
    snapshot,
)
from async_vmapi.emulator.catalogue import ZONES
from async_vmapi.emulator.records import OperationRecord, VMRecord
from async_vmapi.errors import InvalidArgument
from tests.moves import (
    CREATE,
    FAULTS,
    KEY,
    MOVES,
    SECRET,
    SETTINGS,
    Player,
    cloud_of,
    moves_of,
    through_json,
)

LOSSES = {
    "random": lambda content: content["cloud"].update(random=other_random()),
    "reads_random": lambda content: content["cloud"].update(reads_random=other_random()),
    "replicas": lambda content: content["cloud"].update(turn=content["cloud"]["turn"] + 1),
    "adjusted": lambda content: content["cloud"].update(adjusted=[]),
    "settings": lambda content: content["cloud"].update(settings=len(content["settings"]) - 1),
    "epoch": lambda content: content["cloud"].update(epoch="2020-01-01T00:00:00+00:00"),
    "faults": lambda content: content["cloud"]["faults"].update(seen=[0, 0, 0]),
    "lists": lambda content: content.update(lists=[]),
    "the rate limit": lambda content: content["cloud"].update(allowance=[2.0, 2.0, None]),
    "groups": lambda content: of_each_vm(content, "groups"),
    "what is due": lambda content: of_each_vm(content, "due"),
    "queues": lambda content: of_each_vm(content, "queue"),
    "old views": lambda content: of_each_vm(content, "views"),
    "lists that lag": lambda content: of_each_vm(content, "listed"),
    "visibility": lambda content: of_each_vm(content, "visible_at"),
}


class TestFuture:
    @given(
        settings=st.sampled_from(SETTINGS),
        faults=st.sampled_from([None, FAULTS]),
        rate=st.sampled_from([None, 2.0]),
        before=MOVES,
        after=MOVES,
    )
    def test_it_is_the_same(self, settings, faults, rate, before, after):
        """Byte for byte, whatever happened before: as of a cloud of which none was taken."""
        untouched = Player(cloud_of(settings, faults=faults, rate=rate))
        untouched.play_all(before)
        expected = untouched.play_all(after)

        saved = Player(cloud_of(settings, faults=faults, rate=rate))
        saved.play_all(before)
        content = through_json(saved.api)
        restored = Player(cloud_of(Settings(), seed=99), saved.now, saved.ids)
        restore(restored.api, content)
        assert snapshot(restored.api) == content

        assert restored.play_all(after) == expected
        assert snapshot(restored.api) == snapshot(untouched.api)

    def test_it_is_the_same_in_long_runs(self, stride):
        """With everything that random short ones rarely reach."""
        for run, seed in enumerate(range(0, 200, stride)):
            moves = moves_of(seed)
            settings, faults = SETTINGS[run % 4], [None, FAULTS][run // 4 % 2]
            saved, contents, shown = Player(cloud_of(settings, faults=faults)), {}, []
            for number, move in enumerate(moves):
                if number % 30 == 0:
                    contents[number] = through_json(saved.api), saved.now, [*saved.ids]
                shown.append(saved.play(move))
            assert Player(cloud_of(settings, faults=faults)).play_all(moves) == shown
            for number, (content, now, ids) in contents.items():
                restored = Player(cloud_of(Settings(), seed=99), now, ids)
                restore(restored.api, content)
                assert restored.play_all(moves[number:]) == shown[number:]
                assert snapshot(restored.api) == snapshot(saved.api)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_it_would_differ_without(self, loss):
        """Control: nothing of this can be lost unnoticed."""
        rate = 2.0 if loss == "the rate limit" else None
        for seed, cut in itertools.product(range(40), range(10, 100, 15)):
            moves = moves_of(seed)
            saved = Player(cloud_of(SETTINGS[seed % len(SETTINGS)], faults=FAULTS, rate=rate))
            saved.play_all(moves[:cut])
            content = through_json(saved.api)
            LOSSES[loss](content)
            restored = Player(cloud_of(Settings(), seed=99), saved.now, saved.ids)
            restore(restored.api, content)
            if restored.play_all(moves[cut:]) != saved.play_all(moves[cut:]):
                return
        pytest.fail("it makes no difference")

    def test_operations_finish(self):
        """Those that were queued, too, at the time at which they would have."""
        settings = Settings(create=60, not_found=0, shutdown=20, resize=60, stale=0)
        player = Player(cloud_of(settings), now=0.0)
        player.play_all([("create", 1, 0), ("resize", 3, 0), ("poweroff", 0, 0)])
        player.now = 30.0
        player.play(("list", 0, 0))
        restored = cloud_of(Settings())
        restore(restored, through_json(player.api))
        for api in restored, player.api:
            api.cloud.advance(500)
        (vm,), (kept) = restored.cloud.vms.values(), list(player.api.cloud.vms.values())
        assert [vm.history] == [other.history for other in kept]
        assert [change.state for change in vm.history][:2] == ["installing", "online"]
        assert (vm.state, vm.cores) == ("offline", 4)
        assert [operation.outcome for operation in restored.cloud.operations] == ["done"] * 3


def other_random():
    return snapshot(cloud_of(Settings(), seed=7))["cloud"]["random"]


def of_each_vm(content, field):
    for vm in content["vms"]:
        vm.pop(field, None)


class TestContent:
    def test_each_attribute_is_saved(self):
        """A new one of a VM or operation needs a place in the format, or a reason here."""
        encoded = {"shown"}
        assert {field.name for field in attrs.fields(CloudVM)} - encoded == {
            *VMRecord.__struct_fields__
        }
        assert {field.name for field in attrs.fields(CloudOperation)} - {"number"} == {
            *OperationRecord.__struct_fields__
        }

    def test_it_has_no_secrets(self):
        """Neither credentials nor what creates gave to guests."""
        player = Player(cloud_of(Settings()))
        player.play_all([("create", 1, 0), ("step", 0, 45), ("console", 0, 0)])
        text = json.dumps(snapshot(player.api))
        assert "web-1" in text
        for secret in (KEY, SECRET, CREATE["password"], CREATE["user_data"]):
            assert f'"{secret}"' not in text

    def test_a_thousand_vms_share_their_settings(self):
        """So a snapshot is small."""
        api = cloud_of(Settings())
        for n in range(1000):
            api.cloud.place(
                0, label=f"w-{n}", cores=1, ram=1, zone=next(iter(ZONES.values())), template=None
            )
        content = snapshot(api)
        assert (len(content["vms"]), len(content["settings"])) == (1000, 1)
        restored = cloud_of(None)
        restore(restored, content)
        assert len({id(vm.settings) for vm in restored.cloud.vms.values()}) == 1
        assert len({id(vm.zone) for vm in restored.cloud.vms.values()}) == 1


CHANGES = {
    r"`\$\.cloud`.*random|random": lambda c: c["cloud"].pop("random"),
    "state of a random source": lambda c: c["cloud"].update(random="AAAA"),
    "unknown field `more`": lambda c: c.update(more=1),
    r"Expected `int`.*vms\[\.*0\]|vms": lambda c: c["vms"][0].update(cores="4"),
    "history": lambda c: c["vms"][0].update(history=[]),
    "gone_number": lambda c: c["vms"][-1].update(gone_number=9),
    "is due with": lambda c: c["vms"][0].update(due=[[1.0, 1, "step", None]]),
    "index out of range": lambda c: c["vms"][0].update(settings=99),
    "has the arguments": lambda c: c["operations"][0].update(steps=[[1.0, "state", []]]),
    "acpi is": lambda c: c["settings"][0].update(acpi="often"),
    "unexpected keyword": lambda c: c["settings"][0].update(apci="often"),
    "same length": lambda c: c["cloud"]["faults"].update(seen=[]),
    "probability": lambda c: c["cloud"]["faults"]["faults"][1].update(probability=2),
    "isoformat": lambda c: c["cloud"].update(epoch="yesterday"),
    "not enough values": lambda c: c["vms"][0].update(views=[[], []]),
}


class TestRefused:
    @pytest.fixture
    def content(self):
        player = Player(cloud_of(SETTINGS[3], faults=FAULTS))
        player.play_all(moves_of(5, 60))
        return through_json(player.api)

    @pytest.mark.parametrize(
        "content", [None, [], "{}", {}, {"version": 0}, {"version": "1"}, {"version": True}]
    )
    def test_what_is_no_snapshot(self, content):
        """It must say that it is one, of this version."""
        with pytest.raises(InvalidArgument, match="not a snapshot of version 1"):
            restore(cloud_of(None), content)

    @pytest.mark.parametrize("words", CHANGES)
    def test_what_was_changed(self, content, words):
        """The error names what is wrong, and the cloud stays as it was."""
        CHANGES[words](content)
        api = cloud_of(None, faults=FAULTS)
        before = api.cloud, api.faults, api.allowance
        with pytest.raises(InvalidArgument, match=words):
            restore(api, content)
        assert (api.cloud, api.faults, api.allowance) == before
