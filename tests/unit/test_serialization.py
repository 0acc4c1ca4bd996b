"""Models, plans and reports as plain data, and back."""

import json
import traceback

import attrs
import cattrs
import msgspec
import pydantic
import pytest
from cattrs.strategies import use_class_methods

from async_vmapi import (
    Autoscaler,
    BulkEvent,
    BulkPlan,
    BulkReport,
    CdromBoot,
    Console,
    CreateRequest,
    ImageBoot,
    InvalidArgument,
    IPv4Address,
    Network,
    Outcome,
    PublicInterface,
    Ready,
    Reference,
    Region,
    SecretRef,
    SSHKey,
    StorageVolume,
    Template,
    VirtualMachine,
    Zone,
)
from async_vmapi.bulk.outcomes import Ended
from async_vmapi.durable import JobStatus, UntrustedData, WorkerItem, WorkerStatus
from async_vmapi.durable.spec import Order, Spec, decode, encode

SECRET = "planted-secret"
THING = Reference("1", "thing")
MACHINE = VirtualMachine(
    id="1729",
    label=None,
    cores=2,
    ram=2048,
    state="online",
    system=THING,
    cost_per_hour=0.08,
    transfer_used=0.0,
    owner=THING,
    public_interface=PublicInterface("192.0.2.1", (IPv4Address("7", "192.0.2.1", dhcp=True),)),
    storage_volumes=(StorageVolume("1", 40.0, True),),
    zone=THING,
    networks=(Network("7", None, "02:00", "private"),),
    groups=(THING,),
    autoscaler=Autoscaler(False),
)
OUTCOME = Outcome(
    index=0, item="1729", status="unknown", domain="DC1", token="a-token", accepted=True
)
REPORT = BulkReport(operation="reboot", outcomes=(OUTCOME,), requests={"list": 3}, stopped="why")
REQUEST = CreateRequest(
    name="web-01",
    cpus=2,
    ram=2048,
    zone_id="zone-1",
    boot=ImageBoot(os="2268", password=SecretRef("env:VMAPI_SECRET_ROOT")),
)
PLAN = BulkPlan(
    waves=[1, "10%"],
    max_failures="5%",
    check=Ready.ssh(),
    check_timeout=60,
    soak=30,
    promote="each",
    spread_by="zone",
    on_failure="pause",
    on_event=None,
)
VALUES = [
    MACHINE,
    Region("Poznan", (Zone("1", "DC1", "Poznan 1", True),)),
    Template("2268", "Ubuntu", ("password",), THING),
    SSHKey("11", "laptop", "6e:1b"),
    REQUEST,
    attrs.evolve(REQUEST, boot=CdromBoot(iso="rescue.iso")),
    PLAN,
    OUTCOME,
    REPORT,
    BulkEvent(kind="finished", outcome=OUTCOME, done={"unknown": 1}),
    JobStatus(
        name="nightly",
        operation="shutdown",
        state="running",
        total=3,
        done={"succeeded": 1},
        in_flight=1,
        wave=1,
        stopped=None,
        submitted=1.5,
        changed=2.5,
    ),
    WorkerStatus(
        in_flight=(
            WorkerItem(
                job="nightly",
                operation="shutdown",
                item="1729",
                vm_id="1729",
                seconds=1.5,
                accepted=True,
                state=None,
            ),
        ),
        done={"nightly": {"failed": 1}},
    ),
]
each_value = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)


def plain(value):
    """Return whether a value consists of what JSON has."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return type(value) in (str, int, float, bool, type(None))


class TestRoundTrips:
    @each_value
    def test_by_its_own_methods_and_any_json(self, value):
        """Nothing needs an encoder of its own."""
        content = value.to_dict()
        assert plain(content)
        again = type(value).from_dict(json.loads(json.dumps(content)))
        assert again == value
        assert type(again) is type(value)

    @each_value
    def test_by_a_plain_cattrs_converter(self, value):
        """Its one line of set-up is in docs/serialization.md."""
        converter = cattrs.Converter()
        use_class_methods(converter, "from_dict", "to_dict")
        assert converter.structure(converter.unstructure([value]), list[type(value)]) == [value]

    @each_value
    def test_by_pydantic(self, value):
        """As a field of a model, from Python and from JSON, with a schema."""
        model = pydantic.create_model("Page", items=(list[type(value)], ...))
        page = model(items=[value])
        assert model.model_validate_json(page.model_dump_json()) == page
        assert model.model_validate(page.model_dump()) == page
        for mode in ("validation", "serialization"):
            assert model.model_json_schema(mode=mode)["properties"]["items"]["type"] == "array"

    def test_msgspec_reads_and_writes_vms_itself(self):
        """They are what responses are decoded into."""
        assert msgspec.json.decode(msgspec.json.encode(MACHINE), type=VirtualMachine) == MACHINE
        assert VirtualMachine.from_dict(msgspec.to_builtins(MACHINE)) == MACHINE

    def test_a_vm_has_all_its_fields_and_only_them(self):
        """A page can rely on each; a field that a newer release adds is ignored."""
        content = MACHINE.to_dict()
        assert content.keys() == attrs.fields_dict(VirtualMachine).keys()
        assert content["storage_volumes"][0]["size"] == 40.0
        assert VirtualMachine.from_dict(content | {"new": 1, "id": 1729}) == MACHINE


class TestSecrets:
    def test_a_plain_secret_is_not_returned(self):
        """Only its reference would be."""
        for secret in ({"password": SECRET}, {"user_data": SECRET}):
            request = attrs.evolve(REQUEST, boot=ImageBoot(os="2268", **secret))
            with pytest.raises(InvalidArgument, match=r"plain secret.*SecretRef") as info:
                request.to_dict()
            assert info.value.argument in secret
            assert SECRET not in str(info.value)

    def test_a_console_is_not_converted(self):
        """Its password is its purpose."""
        assert not hasattr(Console, "to_dict")

    def test_values_errors_and_items_are_not_in_a_report(self):
        """They may hold what a caller's function returned."""
        outcome = attrs.evolve(OUTCOME, value=SECRET, source=SECRET, exception=ValueError(SECRET))
        assert SECRET not in json.dumps(attrs.evolve(REPORT, outcomes=(outcome,)).to_dict())


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "content", "words"),
        [
            (CreateRequest, None, "$ of CreateRequest is not valid"),
            (CreateRequest, [], "$ of CreateRequest is not valid"),
            (CreateRequest, {}, "$.name of CreateRequest is missing"),
            (CreateRequest, {"cpu": 1}, "unknown fields: 'cpu'"),
            (CreateRequest, {"cpus": "2"}, "$.cpus of CreateRequest is not int"),
            (CreateRequest, {"cpus": True}, "$.cpus of CreateRequest is not int"),
            (CreateRequest, {"cpus": 0}, "cpus=0 is not an integer from 1"),
            (CreateRequest, {"boot": {"os": "1"}}, "$.boot of CreateRequest is missing"),
            (CreateRequest, {"boot": {"type": "image", "os": 1}}, "$.boot.os of CreateRequest is"),
            (
                CreateRequest,
                {"boot": {"type": "image", "os": "1", "password": SECRET}},
                (
                    "$.boot of CreateRequest is with unknown fields: 'password' (did you mean "
                    "'password_ref'?)"
                ),
            ),
            (CreateRequest, {"boot": "image"}, "$.boot of CreateRequest is not valid"),
            (BulkPlan, {"limit": 0}, "limit=0"),
            (BulkPlan, {"waves": []}, "waves"),
            (BulkPlan, {"on_event": "print"}, "unknown fields: 'on_event'"),
            (Outcome, {"status": "excellent"}, "$.status of Outcome is not one of succeeded, "),
            (Outcome, {"seconds": "1"}, "$.seconds of Outcome is not"),
            (VirtualMachine, {"cores": "many"}, "$ of VirtualMachine is not valid"),
            (VirtualMachine, {"zone": {"id": "1"}}, "$.zone.name of VirtualMachine is missing"),
        ],
    )
    def test_the_place_and_what_is_allowed(self, kind, content, words):
        """A value from elsewhere is not shown: it may be anything."""
        good = next(value for value in VALUES if type(value) is kind).to_dict()
        damaged = {**good, **content} if content else content
        with pytest.raises(InvalidArgument) as info:
            kind.from_dict(damaged)
        assert words in str(info.value)
        assert info.value.argument == "content"
        inside = list(traceback.walk_tb(info.tb))[1:]
        assert inside
        assert not any(SECRET in repr(frame.f_locals) for frame, _ in inside)


class TestStoredFormats:
    """Texts of the first release: another one must read and write the same."""

    REPORT = (
        '{"format":"async_vmapi bulk report 1","operation":"reboot","arguments":{"a":[1,null]},'
        '"origin":"https://x","dry_run":false,"complete":false,"stopped":"why","seconds":1.25,'
        '"requests":{"list":3},"counts":{"succeeded":1,"failed":1,"unknown":1,"not_started":1},'
        '"outcomes":[{"index":0,"item":"a","status":"succeeded","vm_id":"a","seconds":1.5,'
        '"evidence":"observed"},{"index":1,"item":"b","status":"failed","reason":"no ü",'
        '"error":"NotFound"},{"index":2,"item":"c","status":"unknown","wave":2,"adopted":true,'
        '"token":"tok","accepted":true},{"index":3,"item":"d","status":"not_started"}]}'
    )

    def test_a_report(self):
        """Byte for byte."""
        assert BulkReport.from_json(self.REPORT).to_json() == self.REPORT

    @pytest.mark.parametrize("field", [*json.loads(REPORT), "more"])
    def test_a_report_has_exactly_its_fields(self, field):
        """One that lacks any was cut or changed."""
        content = json.loads(self.REPORT)
        if field in content:
            del content[field]
        else:
            content[field] = 1
        with pytest.raises(InvalidArgument, match="report is damaged"):
            BulkReport.from_dict(content)

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            (
                Spec,
                (
                    '{"arguments":{"on_unknown":"retry","unique_name":true},'
                    '"format":"async_vmapi durable job 1","items":[{"boot":{"key_id":"11","os":"1",'
                    '"password_ref":"env:VMAPI_SECRET_A","type":"image","user_data_ref":"x"},"cpus":2,'
                    '"name":"w-1","ram":1024,"zone_id":"z"},{"boot":{"iso":"a.iso","type":"cdrom"},'
                    '"cpus":3,"name":"w-2","ram":1024,"zone_id":"z"}],"operation":"create",'
                    '"plan":{"limit":50,"max_failures":"5%","waves":[1,"10%"]}}'
                ),
            ),
            (
                Order,
                (
                    '{"arguments":{"name":"x"},"index":0,"item":"b","job":"job-1",'
                    '"operation":"rename"}'
                ),
            ),
            (
                Ended,
                (
                    '{"online":true,"outcome":{"evidence":"observed","index":0,"item":"a",'
                    '"seconds":1.5,"status":"succeeded","vm_id":"a"}}'
                ),
            ),
        ],
    )
    def test_the_rows_of_a_durable_job(self, kind, text):
        """Workers of two releases may share a database."""
        assert encode(decode(text, kind)) == text
        for damaged in (text[:-1], text.replace("{", '{"more":1,', 1), "[" * 10_000, "3", None):
            with pytest.raises(UntrustedData, match=kind.__name__):
                decode(damaged, kind)

    def test_a_request_and_a_plan(self):
        """As jobs store them."""
        assert REQUEST.to_dict() == {
            "name": "web-01",
            "cpus": 2,
            "ram": 2048,
            "zone_id": "zone-1",
            "boot": {"type": "image", "os": "2268", "password_ref": "env:VMAPI_SECRET_ROOT"},
        }
        assert BulkPlan().to_dict() == {"limit": 50}
        assert PLAN.to_dict() == {
            "limit": 50,
            "max_failures": "5%",
            "waves": [1, "10%"],
            "check": "address,ssh:22",
            "check_timeout": 60,
            "soak": 30,
            "promote": "each",
            "spread_by": "zone",
            "on_failure": "pause",
        }
