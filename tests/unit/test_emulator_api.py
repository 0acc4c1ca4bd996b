"""The emulator's responses, without sockets: no request may break it."""

import json
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.emulator import Cloud, CloudAPI, Handled, Request, Settings
from async_vmapi.signing import Credentials, sign, signature, string_to_sign

VMS = "/v2/virtual-machines"
ZONE = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
TODAY = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
AT_ONCE = Settings(create=0, not_found=0, address=0, stale=0, delete=50)


class Caller:
    """Sends requests to an API of its own, at a time that a test sets."""

    def __init__(self, **arguments):
        self.api = CloudAPI(**({"settings": AT_ONCE, "seed": 1} | arguments))
        self.now = 0.0

    def headers(self, method, target, body=b""):
        credentials = Credentials(self.api.api_key, self.api.api_secret)
        return sign(credentials, method, "cloud.test", target, body, TODAY)

    def ask(self, method, target, body=b"", headers=None):
        headers = self.headers(method, target, body) if headers is None else headers
        return self.api.handle(Request(method, target, headers, body), now=self.now, today=TODAY)

    def send(self, method, target, body=b"", headers=None):
        response = self.ask(method, target, body, headers)
        return response.status, json.loads(response.body)

    def create(self, **changes):
        fields = {
            "cpus": 1,
            "ram": 512,
            "compute_zone_id": ZONE,
            "name": "web-01",
            "boot_type": "image",
            "os": "2268",
        }
        return self.send("PUT", VMS, json.dumps({"create_vm": fields | changes}).encode())

    def created(self, **changes):
        return f"{VMS}/{self.create(**changes)[1]['virtual_machine']['id']}"


@pytest.fixture
def caller():
    """A caller of a cloud in which everything happens at once."""
    return Caller()


class TestHeaders:
    @pytest.mark.parametrize("name", ["Content-Type", "Host", "X-Date", "Authorization"])
    def test_a_repeated_header_is_refused(self, caller, name):
        """Even where both agree."""
        headers = caller.headers("GET", VMS)
        headers[name.lower()] = headers[name]
        status, response = caller.send("GET", VMS, headers=headers)
        assert (status, response["success"]) == (400, False)
        assert name.lower() in response["error"]

    @pytest.mark.parametrize(
        "date",
        [
            "Mon, 23 Nov 2026 18:00:00 +99999999999999999999",
            "Mon, 23 Nov 2026 18:00:00 +9999",
            "Mon, 99 Nov 2026 18:00:00 GMT",
            "Mon, 23 Nov 99999 18:00:00 GMT",
            "\udcff",
        ],
    )
    def test_impossible_dates_are_refused(self, caller, date):
        """Like any other."""
        headers = caller.headers("GET", VMS) | {"X-Date": date}
        assert caller.send("GET", VMS, headers=headers)[0] == 401

    @pytest.mark.parametrize(
        ("time", "status"),
        [
            ("18:00:00 GMT", 200),
            ("18:00:00 +0000", 200),
            ("18:00:00 -0000", 200),
            ("19:00:00 +0100", 200),
            ("18:00:00 +0100", 401),
        ],
    )
    def test_time_zones_of_a_date(self, caller, time, status):
        """RFC 1123 knows offsets in place of GMT; the moment counts."""
        date = f"Mon, 23 Nov 2026 {time}"
        message = string_to_sign("GET", "cloud.test", date, VMS, b"")
        headers = caller.headers("GET", VMS) | {
            "X-Date": date,
            "Authorization": f"{caller.api.api_key}:{signature(caller.api.api_secret, message)}",
        }
        assert caller.send("GET", VMS, headers=headers)[0] == status

    def test_a_path_that_is_no_text(self, caller):
        """Bytes that are not UTF-8 cannot have been signed."""
        headers = caller.headers("GET", VMS)
        assert caller.send("GET", f"{VMS}/\udcff", headers=headers)[0] == 400


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b'{"name":"\xff"}',
            b'{"name":"\\ud800"}',
            b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"name":"x"} {}',
            b"null",
        ],
    )
    def test_invalid_json(self, caller, body):
        """Bad UTF-8, half characters and endless depth are a 400."""
        status, response = caller.send("POST", f"{caller.created()}/rename", body)
        assert (status, response["success"]) == (400, False)

    def test_a_body_that_is_too_large(self, caller):
        """More than a mebibyte is refused, without a socket too."""
        assert caller.send("PUT", VMS, b" " * (1024 * 1024 + 1))[0] == 413

    @pytest.mark.parametrize("wait_for", [10_081, 10**400])
    def test_a_huge_wait_for(self, caller, wait_for):
        """wait_for is a week at most; a number that no clock holds does no harm."""
        path = caller.created()
        body = json.dumps({"wait_for": wait_for}).encode()
        assert caller.send("POST", f"{path}/shutdown", body)[0] == 400
        caller.now = 1000
        assert caller.send("GET", path)[1]["virtual_machine"]["state"] == "online"

    @pytest.mark.parametrize(("body", "status"), [(b'{"deleteResources":1.0}', 400), (b"", 200)])
    def test_deletes(self, caller, body, status):
        """deleteResources is an integer, or absent."""
        assert caller.send("DELETE", caller.created(), body)[0] == status

    def test_no_response_repeats_a_secret(self, caller):
        """No password or user data comes back, whichever condition it breaks."""
        secrets = {"password": "planted-secret", "user_data": "planted-secret"}
        for changes in (
            secrets,
            {**secrets, "os": "2599"},
            {**secrets, "boot_type": "cdrom", "cdrom": "a.iso"},
            {**secrets, "boot_type": "planted-secret"},
            {**secrets, "compute_zone_id": "planted-secret"},
            {"password": ["planted-secret"]},
            {"key_id": "planted-secret"},
        ):
            assert "planted-secret" not in json.dumps(caller.create(**changes))
        assert "planted-secret" not in repr(caller.api.cloud.operations)
        assert "planted-secret" not in repr(list(caller.api.cloud.vms.values()))


class TestAdjusted:
    def test_creates_of_some_names(self, caller):
        """A quota and the older field names can be set for some names alone."""
        caller.api.cloud.adjust("db-*", quota=0, strict=True)
        assert caller.create(name="db-1")[0] == 403
        caller.api.cloud.adjust("db-*", quota=None)
        assert caller.create(name="db-1", key_id=11)[0] == 400
        assert caller.create(name="web-1", key_id=11)[0] == 200

    def test_both_shapes_of_a_get(self, caller):
        """The VM itself, or a list of it."""
        path = caller.created()
        shown = caller.send("GET", path)[1]["virtual_machine"]
        assert shown["label"] == "web-01"
        caller.api.cloud.adjust("web-*", get_shape="list")
        assert caller.send("GET", path)[1]["virtual_machine"] == [shown]

    def test_sparse_responses(self, caller):
        """They lack what WIRE §3 says can be lacking, from the next read on."""
        path = caller.created()
        full = caller.send("GET", path)[1]["virtual_machine"]
        assert {"adm", "networks", "groups"} <= full.keys()
        caller.api.cloud.adjust("*", sparse=True)
        lean = caller.send("GET", path)[1]["virtual_machine"]
        assert not {"adm", "networks", "groups", "systemName"} & lean.keys()
        assert lean["label"] is None
        assert caller.send("GET", VMS)[1]["virtual_machines"] == [lean]

    def test_sparse_responses_before_the_address(self):
        """The address is absent until there is one."""
        caller = Caller(settings=Settings(create=0, not_found=0, address=5, sparse=True))
        path = caller.created()
        interface = caller.send("GET", path)[1]["virtual_machine"]["public_interface"]
        assert interface == {"ipv4_addresses": []}
        caller.now = 5
        interface = caller.send("GET", path)[1]["virtual_machine"]["public_interface"]
        assert interface["primary_ip_ipv4address"]


FORMS = {
    "json": (404, "application/json", b'{"success":false,"error":"virtual machine not found"}'),
    "bare": (404, None, b""),
    "html": (404, "text/html", b"<html>"),
    "gone": (410, None, b""),
    "success_false": (
        *(200, "application/json"),
        b'{"success":false,"error":"virtual machine not found"}',
    ),
}


class TestNotFound:
    def calls(self, caller, path):
        """Every call on a VM, with its response."""
        for method, end, body in (
            ("GET", "", b""),
            ("DELETE", "", b""),
            ("POST", "/resize", b'{"cores":2,"ram":1024,"wait_for":4}'),
            ("POST", "/shutdown", b""),
            ("POST", "/rename", b'{"name":"new"}'),
            *(
                ("POST", f"/{verb}", b"")
                for verb in ["poweron", "poweroff", "reboot", "reset", "console"]
            ),
        ):
            response = caller.ask(method, path + end, body)
            yield response.status, response.headers.get("Content-Type"), response.body[:60]

    @pytest.mark.parametrize("form", FORMS)
    def test_each_form(self, form):
        """Of an id that never existed, of a VM that is gone, and of one that is not visible yet."""
        settings = AT_ONCE.changed(not_found_form=form, delete=0)
        caller = Caller(settings=settings)
        path = caller.created()
        assert caller.send("DELETE", path)[0] == 200
        caller.now = 1
        caller.api.cloud.adjust("late", not_found=50)
        for missing in f"{VMS}/none", path, caller.created(name="late"):
            for status, content_type, body in self.calls(caller, missing):
                assert (status, content_type) == FORMS[form][:2]
                assert body.startswith(FORMS[form][2])
                assert body or form in ("bare", "gone")

    def test_it_can_be_set_for_some_vms(self, caller):
        """By name and by id, and also when they are gone."""
        paths = [caller.created(name=name) for name in ("web-1", "db-1")]
        for path in paths:
            caller.send("DELETE", path)
        caller.now = 100
        caller.api.cloud.adjust("db-*", not_found_form="gone")
        statuses = [caller.ask("GET", path).status for path in (*paths, f"{VMS}/none")]
        assert statuses == [404, 410, 404]
        caller.api.cloud.adjust("none", not_found_form="html")
        assert caller.ask("GET", f"{VMS}/none").body.startswith(b"<html>")
        caller.api.cloud.adjust("*", not_found_form="bare")
        assert {caller.ask("GET", path).body for path in (*paths, f"{VMS}/none")} == {b""}

    @pytest.mark.parametrize("form", FORMS)
    def test_other_errors_keep_their_form(self, form):
        """An unknown path, a VM that is being deleted, a bad body."""
        caller = Caller(settings=AT_ONCE.changed(not_found_form=form))
        path = caller.created()
        caller.send("DELETE", path)
        responses = [
            caller.send("GET", "/v2/none"),
            caller.send("DELETE", path),
            caller.send("POST", f"{VMS}/none/rename", b"{}"),
        ]
        assert [status for status, _ in responses] == [404, 409, 400]
        assert all(response["success"] is False for _, response in responses)

    def test_a_stale_read_of_a_gone_vm(self, caller):
        """It has the shape that the VM's GETs have."""
        path = caller.created()
        caller.api.cloud.adjust("*", staleness=5, get_shape="list", delete=0)
        caller.now = 1
        caller.send("DELETE", path)
        caller.now = 5
        assert caller.send("GET", path)[1]["virtual_machine"][0]["label"] == "web-01"
        caller.now = 6
        assert caller.send("GET", path)[0] == 404


class TestDate:
    def date(self, caller, method="GET", target=VMS, **arguments):
        return parsedate_to_datetime(caller.ask(method, target, **arguments).headers["Date"])

    def test_it_agrees_with_the_vms_dates(self):
        """Whatever second it is, and whatever the wall clock shows."""
        epoch = datetime(2020, 2, 28, 23, 59, 30, 900_000, tzinfo=UTC)
        caller = Caller(cloud=Cloud(AT_ONCE, epoch=epoch), settings=None, seed=None)
        for now in (1000.3, 1000.9, 1029.8, 1031.2, 1031.3, 5000, 90_000.5):
            caller.now = now
            path = caller.created()
            vm = caller.send("GET", path)[1]["virtual_machine"]
            attached = vm["storage_volumes"][0]["attach_time"]
            assert f"{self.date(caller):%Y-%m-%d %H:%M:%S}" == attached
            expected = epoch.replace(microsecond=0) + timedelta(seconds=int(now - 1000.3))
            assert self.date(caller) == expected
        assert caller.ask("GET", VMS).headers["Date"] == "Sun, 01 Mar 2020 00:42:50 GMT"

    @pytest.mark.parametrize(
        ("method", "target", "headers", "status"),
        [
            ("GET", VMS, None, 200),
            ("GET", "/v2/regions", None, 200),
            ("GET", f"{VMS}/none", None, 404),
            ("PATCH", VMS, None, 405),
            ("GET", VMS, {}, 415),
        ],
    )
    def test_every_response_has_one(self, method, target, headers, status):
        """Also the very first one, and a refusal."""
        caller = Caller()
        caller.now = 500.0
        first = caller.ask(method, target, headers=headers)
        caller.now = 507.5
        second = caller.ask(method, target, headers=headers)
        assert first.status == second.status == status
        one, two = (parsedate_to_datetime(r.headers["Date"]) for r in (first, second))
        assert two - one == timedelta(seconds=7)

    @pytest.mark.parametrize("form", FORMS)
    def test_not_found_has_one(self, form):
        """In every form."""
        caller = Caller(settings=AT_ONCE.changed(not_found_form=form))
        assert self.date(caller, target=f"{VMS}/none") == self.date(caller)

    def test_a_rate_limited_response_has_one(self):
        """Beside Retry-After."""
        caller = Caller(max_requests_per_second=1)
        date = self.date(caller)
        limited = caller.ask("GET", VMS)
        assert limited.status == 429
        assert parsedate_to_datetime(limited.headers["Date"]) == date
        assert limited.headers["Retry-After"] == "1"

    def test_an_epoch_in_another_zone(self):
        """The header is in GMT; the VMs' dates are in the epoch's zone, as some providers' are."""
        warsaw = timezone(timedelta(hours=1))
        epoch = datetime(2026, 1, 1, 12, tzinfo=warsaw)
        caller = Caller(cloud=Cloud(AT_ONCE, epoch=epoch), settings=None, seed=None)
        path = caller.created()
        vm = caller.send("GET", path)[1]["virtual_machine"]
        assert vm["storage_volumes"][0]["attach_time"] == "2026-01-01 12:00:00"
        assert caller.ask("GET", VMS).headers["Date"] == "Thu, 01 Jan 2026 11:00:00 GMT"

    def test_an_epoch_without_a_zone(self):
        """It is UTC."""
        cloud = Cloud(AT_ONCE, epoch=datetime(2026, 1, 1, 12))  # noqa: DTZ001 - that is the case
        caller = Caller(cloud=cloud, settings=None, seed=None)
        assert caller.ask("GET", VMS).headers["Date"] == "Thu, 01 Jan 2026 12:00:00 GMT"

    def test_the_default_epoch(self, caller):
        """A new cloud begins now."""
        assert abs(self.date(caller) - datetime.now(UTC)) < timedelta(minutes=1)

    def test_a_requests_date_is_checked_by_the_real_clock(self, caller):
        """However far the cloud's clock has gone."""
        caller.send("GET", VMS)
        caller.now = 1_000_000
        assert caller.send("GET", VMS)[0] == 200


class TestCalls:
    def test_every_call(self, caller):
        """Each call of WIRE §2 has a response, and is counted by its name."""
        path = caller.created()
        size = b'{"cores":2,"ram":1024,"wait_for":4}'
        for method, target, body in (
            ("GET", VMS, b""),
            ("GET", path, b""),
            ("POST", f"{path}/resize", size),
            ("POST", f"{path}/shutdown", b""),
            ("POST", f"{path}/poweron", b""),
            ("POST", f"{path}/reboot", b""),
            ("POST", f"{path}/reset", b""),
            ("POST", f"{path}/poweroff", b""),
            ("POST", f"{path}/rename", b'{"name":"new"}'),
            ("DELETE", path, b'{"deleteResources":0}'),
            ("GET", "/v2/regions", b""),
            ("GET", "/v2/templates", b""),
            ("GET", "/v2/account", b""),
        ):
            status, response = caller.send(method, target, body)
            assert (status, response["success"]) == (200, True), target
        names = "create list get resize shutdown power_on reboot reset power_off rename delete"
        expected = dict.fromkeys([*names.split(), "regions", "templates", "account"], 1)
        assert caller.api.requests == expected

    def test_a_create_from_a_cd(self, caller):
        """A VM that boots from a CD has no template."""
        status, response = caller.create(boot_type="cdrom", cdrom="a.iso", os=None)
        assert status == 200
        shown = caller.send("GET", f"{VMS}/{response['virtual_machine']['id']}")[1]
        assert shown["virtual_machine"]["system"] == {"id": "0", "name": "none"}

    def test_a_console(self, caller):
        """A console's response has no `success` (WIRE §2)."""
        status, response = caller.send("POST", f"{caller.created()}/console")
        assert (status, response.keys()) == (200, {"console"})
        assert response["console"].keys() == {"host", "port", "password"}

    def test_an_account_has_secrets(self, caller):
        """So that a test finds a client that keeps them."""
        account = caller.send("GET", "/v2/account")[1]["account"]
        assert account["api"][0]["secret_key"]
        assert account["e24files"]["s3"]["secret_key"]

    def test_a_log(self):
        """The latest requests are kept if configured, without secrets."""
        caller = Caller(log=3)
        path = caller.created()
        vm_id = path.rpartition("/")[2]
        caller.now = 7
        caller.send("GET", f"{path}?a=b")
        caller.send("POST", f"{path}/reboot")
        caller.send("GET", VMS, headers={})
        assert list(caller.api.log) == [
            Handled(7, "get", vm_id, 200),
            Handled(7, "reboot", vm_id, 200),
            Handled(7, "refused", None, 415),
        ]

    def test_no_log(self, caller):
        """Nothing is kept by default."""
        caller.create()
        assert not caller.api.log


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    ["create_vm", "cpus", "ram", "cores", "wait_for", "name", "os", "boot_type", "deleteResources"]
)
bodies = st.one_of(
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(words, json_values).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(words, json_values).map(
        lambda value: json.dumps({"create_vm": value}).encode()
    ),
)
ends = ["", "/resize", "/shutdown", "/rename", "/reboot", "/console", "/poweron", "/x", "?a=/b"]


class TestArbitrary:
    @given(
        st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH"]),
        st.sampled_from([VMS, "{path}", f"{VMS}/none", "/v2/regions", "/", ""]),
        st.sampled_from(ends),
        bodies,
    )
    def test_signed_requests(self, method, start, end, body):
        """Whatever is sent, the response is JSON with a fitting status, and the cloud continues."""
        caller = Caller()
        target = start.format(path=caller.created()) + end
        status, response = caller.send(method, target, body)
        assert status in {200, 400, 403, 404, 405, 409}
        if "console" not in response:
            assert response["success"] is (status == 200)
        assert status == 200 or (isinstance(response["error"], str) and response["error"])
        caller.now = 10_000_000
        assert caller.send("GET", VMS)[0] == 200

    @given(
        st.text(st.characters(codec=None), max_size=20),
        st.text(st.characters(codec=None), max_size=20),
        st.dictionaries(
            st.sampled_from(["Host", "X-Date", "Authorization", "Content-Type", "host"]),
            st.text(st.characters(codec=None), max_size=40)
            | st.sampled_from(["application/json", "Mon, 23 Nov 2026 18:00:00 GMT"]),
        ),
        st.binary(max_size=20),
    )
    def test_unsigned_requests(self, method, target, headers, body):
        """They are refused, and nothing is raised."""
        caller = Caller()
        response = caller.api.handle(Request(method, target, headers, body), now=0.0, today=TODAY)
        assert response.status in {400, 401, 415}
        assert msgspec.json.decode(response.body)["success"] is False
        assert caller.api.requests == {"refused": 1}
