"""Which request a fault hits, and what is sent then."""

from collections import Counter
from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from async_vmapi.emulator import CloudAPI, Fault, FaultKind, FaultPlan, Request, Settings, deliver
from async_vmapi.signing import Credentials, sign

VMS = "/v2/virtual-machines"
KINDS = get_args(FaultKind)


def request_of(api, method="GET", path=VMS, body=b""):
    credentials = Credentials(api.api_key, api.api_secret)
    headers = sign(credentials, method, "cloud", path, body, datetime.now(UTC))
    return Request(method, path, headers | {"Host": "cloud"}, body)


@pytest.fixture
def api():
    """A cloud with one VM that is online."""
    api = CloudAPI(seed=1, settings=Settings(create=1, not_found=0, stale=0))
    body = {
        "create_vm": {
            "name": "web",
            "cpus": 1,
            "ram": 512,
            "boot_type": "image",
            "os": "2268",
            "compute_zone_id": "24e12e20-0851-5354-e2c3-04b16c4c9c45",
        }
    }
    made = api.handle(
        request_of(api, "PUT", body=msgspec.json.encode(body)), now=0.0, today=datetime.now(UTC)
    )
    assert made.status == 200
    api.requests.clear()
    return api


def ask(api, kind=None, *, now=10.0, method="GET", path=VMS, call="list", **fields):
    """Hit a request with a fault, and return what is delivered."""
    if kind is not None:
        api.faults.fail_next(call, kind, **fields)
    return deliver(api, request_of(api, method, path), now=now, today=datetime.now(UTC))


class TestPlan:
    def test_the_nth_requests(self):
        """They are counted from 1, among those that match."""
        plan = FaultPlan([Fault(kind="html", nth=(2, 4), call="get")])
        hits = [plan.pick(call, VMS) is not None for call in ("get", "list", "get", "get", "get")]
        assert hits == [False, False, True, False, True]
        assert plan.injected == {"html": 2}

    def test_a_probability_is_repeatable(self):
        """The same seed draws the same; about as many are hit as configured."""

        def hits(seed):
            plan = FaultPlan([Fault(kind="html", probability=0.2)], seed=seed)
            return [plan.pick("get", VMS) is not None for _ in range(1000)]

        assert hits(1) == hits(1) != hits(2)
        assert 150 < sum(hits(1)) < 250

    def test_faults_draw_independently(self):
        """Each fault draws for each request, whether needed or not."""
        second = Fault(kind="html", probability=0.3)
        always = Fault(kind="stall", probability=1, times=3)
        plans = [FaultPlan([first, second], seed=5) for first in (always,)]
        drawn = [plans[0].pick("get", VMS) for _ in range(50)]
        assert [fault.kind for fault in drawn[:3]] == ["stall"] * 3
        assert {fault.kind for fault in drawn[3:] if fault} == {"html"}

    def test_a_fault_can_be_limited(self):
        """After that many hits it is over."""
        plan = FaultPlan([Fault(kind="html", probability=1, times=2)])
        assert [plan.pick("get", VMS) is not None for _ in range(4)] == [True, True, False, False]

    def test_a_path(self):
        """A pattern selects requests by their path alone."""
        plan = FaultPlan([Fault(kind="html", probability=1, path="/v2/virtual-machines/*")])
        assert plan.pick("get", f"{VMS}/17") is not None
        assert plan.pick("list", VMS) is None

    def test_the_next_request_of_a_call(self):
        """Each fault waits for its own call and hits once, in the order of adding."""
        plan = FaultPlan()
        assert plan.is_empty
        plan.fail_next("create")
        plan.fail_next("create", "html")
        plan.fail_next("get", "server_error", status=502)
        assert not plan.is_empty
        picked = [plan.pick(call, VMS) for call in ("list", "get", "create", "create", "create")]
        assert [fault and fault.kind for fault in picked] == [
            *(None, "server_error", "drop_after", "html", None)
        ]

    def test_clearing(self):
        """Nothing is hit any more; the counts stay."""
        plan = FaultPlan([Fault(kind="html", probability=1)])
        plan.pick("get", VMS)
        plan.fail_next("get")
        plan.clear()
        assert plan.is_empty
        assert plan.pick("get", VMS) is None
        assert plan.injected == {"html": 1}

    @pytest.mark.parametrize("kind", ["stale_list", "not_found"])
    def test_a_fault_must_fit_its_call(self, kind):
        """A create is no list."""
        plan = FaultPlan([Fault(kind=kind, probability=1)])
        assert plan.pick("create", VMS) is None
        with pytest.raises(ValueError, match="not for the call 'create'"):
            plan.fail_next("create", kind)

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({}, "either probability or nth"),
            ({"probability": 0.5, "nth": (1,)}, "either probability or nth"),
            ({"probability": 0}, "probability=0 is not above 0 and up to 1"),
            ({"probability": 1.5}, "probability=1.5"),
            ({"nth": (0,)}, "nth=0 is not at least 1"),
            ({"probability": 1, "times": 0}, "times=0"),
            ({"probability": 1, "seconds": -1}, "seconds=-1"),
            ({"probability": 1, "retry_after": -1}, "retry_after=-1"),
            ({"probability": 1, "status": 404}, "status=404 is not 500, 502, 503 or 504"),
            ({"probability": 1, "size": 0}, "size=0"),
            ({"probability": 1, "kind": "flood"}, "kind='flood' is not one of close_idle"),
        ],
    )
    def test_wrong_faults_are_refused(self, fields, words):
        """The text names the field, the value and what is allowed."""
        with pytest.raises(ValueError, match=words):
            Fault(**({"kind": "html"} | fields))


class TestFiles:
    def test_a_toml_file(self, tmp_path):
        """It holds a seed and a table for each fault."""
        file = tmp_path / "faults.toml"
        file.write_text(
            'seed = 3\n[[fault]]\nkind = "drop_after"\nprobability = 0.1\ncall = "create"\n'
            '[[fault]]\nkind = "server_error"\nnth = [1, 3]\nstatus = 503\nretry_after = 2\n'
        )
        plan = FaultPlan.load(file)
        assert plan.faults == (
            Fault(kind="drop_after", probability=0.1, call="create"),
            Fault(kind="server_error", nth=(1, 3), status=503, retry_after=2),
        )
        assert FaultPlan.from_dict(plan.to_dict()).to_dict() == plan.to_dict()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[[fault", "faults.toml: .*declaration"),
            ("[[fault]]\nprobability = 1\n", "missing required field `kind`"),
            ('[[fault]]\nkind = "x"\nprobability = 1\n', "faults.toml: Invalid enum value 'x'"),
            ('[[fault]]\nkind = "html"\nprobability = 2\n', "probability=2.0 is not above 0"),
            ('[[fault]]\nkind = "html"\nprobability = 1\nwhen = 1\n', "unknown field `when`"),
            ("faults = 1\n", "unknown field `faults`"),
        ],
    )
    def test_wrong_files_are_refused(self, tmp_path, text, words):
        """The text names the file and what is wrong in it."""
        file = tmp_path / "faults.toml"
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            FaultPlan.load(file)

    def test_a_missing_file_is_refused(self, tmp_path):
        """It is a plan that cannot be read."""
        with pytest.raises(ValueError, match=r"nowhere\.toml"):
            FaultPlan.load(tmp_path / "nowhere.toml")


class TestDelivery:
    def test_without_a_fault_nothing_changes(self, api):
        """The response is the cloud's."""
        delivery = ask(api)
        assert delivery.response.status == 200
        assert delivery == type(delivery)(delivery.response)
        assert api.requests == {"list": 1}

    @pytest.mark.parametrize("kind", KINDS)
    def test_before_and_after_processing(self, api, kind):
        """A fault comes before the request is carried out, or after."""
        before = {"refuse", "drop_before", "rate_limited", "success_false", "server_error"}
        (vm_id,) = api.cloud.vms
        if kind == "not_found":
            ask(api, kind, call="get", path=f"{VMS}/{vm_id}")
        else:
            ask(api, kind)
        assert api.requests.total() == (kind not in before)
        assert api.faults.injected == {kind: 1}

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    @pytest.mark.parametrize("after", [False, True])
    def test_server_errors(self, api, status, after):
        """A proxy sends a page, the API its envelope; 503 may have Retry-After."""
        response = ask(api, "server_error", status=status, after=after, retry_after=7).response
        assert response.status == status
        assert response.body.startswith(b"<html>" if status in (502, 504) else b'{"success":false')
        assert response.headers.get("Retry-After") == ("7" if status == 503 else None)
        assert api.requests == ({"list": 1} if after else {})

    def test_too_many_requests(self, api):
        """With and without Retry-After."""
        assert ask(api, "rate_limited").response.headers.get("Retry-After") is None
        assert ask(api, "rate_limited", retry_after=3).response.headers["Retry-After"] == "3"

    @pytest.mark.parametrize(
        ("kind", "fields", "expected"),
        [
            ("refuse", {}, {"refuse": 0.5}),
            ("refuse", {"seconds": 2}, {"refuse": 2}),
            ("drop_before", {}, {}),
            ("drop_after", {}, {}),
            ("stall", {}, {"delay": 60}),
            ("stall", {"seconds": 0}, {"delay": 0}),
        ],
    )
    def test_no_response(self, api, kind, fields, expected):
        """The connection is dropped, perhaps after a while."""
        delivery = ask(api, kind, **fields)
        assert delivery == type(delivery)(None, **expected)

    @pytest.mark.parametrize(
        ("kind", "fields", "expected"),
        [
            ("truncated", {}, {"cut": True}),
            ("slow_body", {}, {"spread": 2}),
            ("slow_body", {"seconds": 9}, {"spread": 9}),
            ("close_idle", {}, {"close_after": True}),
        ],
    )
    def test_a_valid_response_sent_in_an_odd_way(self, api, kind, fields, expected):
        """The content is the cloud's."""
        right = ask(api)
        delivery = ask(api, kind, **fields)
        assert delivery == type(delivery)(right.response, **expected)

    def test_a_huge_body_is_padded_lazily(self, api):
        """It is as large as configured, and begins with the cloud's response."""
        delivery = ask(api, "huge_body", size=10**12)
        assert len(delivery.response.body) + delivery.padding == 10**12

    def test_wrong_responses(self, api):
        """A page, a wrong type, a refusal on 200."""
        assert ask(api, "html").response.body.startswith(b"<html>")
        wrong = ask(api, "wrong_content_type").response
        assert wrong.headers["Content-Type"] == "text/html"
        assert msgspec.json.decode(wrong.body)["success"]
        refused = ask(api, "success_false").response
        assert (refused.status, msgspec.json.decode(refused.body)["success"]) == (200, False)

    @pytest.mark.parametrize("shape", ["list", "object"])
    def test_unknown_states(self, api, shape):
        """In a get of either shape, and in a list."""
        (vm_id,) = api.cloud.vms
        api.cloud.adjust("*", get_shape=shape)
        got = ask(api, "unknown_state", call="get", path=f"{VMS}/{vm_id}").response.body
        listed = ask(api, "unknown_state").response.body
        for body in got, listed:
            assert body.count(b'"frobnicating"') == 1
            assert b'"web"' in body

    def test_a_vm_reported_as_absent(self, api):
        """It is a 404 as of a VM that is gone."""
        (vm_id,) = api.cloud.vms
        said = ask(api, "not_found", call="get", path=f"{VMS}/{vm_id}").response
        real = ask(api, path=f"{VMS}/none").response
        assert (said.status, said.body) == (real.status, real.body)

    @pytest.mark.parametrize("form", ["json", "bare", "html", "gone", "success_false"])
    def test_absence_has_the_configured_form(self, api, form):
        """The form of the API for a VM that does not exist."""
        (vm_id,) = api.cloud.vms
        api.cloud.adjust("*", not_found_form=form)
        said = ask(api, "not_found", call="get", path=f"{VMS}/{vm_id}").response
        assert said == ask(api, path=f"{VMS}/none").response

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_response_has_the_clouds_date(self, api, kind):
        """Also one that does not come from the API."""
        (vm_id,) = api.cloud.vms
        right = ask(api, now=5000.0).response.headers["Date"]
        call, path = ("get", f"{VMS}/{vm_id}") if kind == "not_found" else ("list", VMS)
        response = ask(api, kind, now=5000.0, call=call, path=path).response
        if kind in {"refuse", "drop_before", "drop_after", "stall"}:
            assert response is None
        else:
            assert response.headers["Date"] == right

    def test_a_stale_list_is_old_but_not_too_old(self, api):
        """It is the oldest list of the last seconds."""
        api.faults = FaultPlan([Fault(kind="html", nth=(999,))])
        bodies = []
        for at in range(20, 30):
            api.cloud.rename(next(iter(api.cloud.vms)), f"name-{at}", float(at))
            bodies.append(ask(api, now=float(at)).response.body)
        stale = ask(api, "stale_list", now=30.0).response.body
        assert stale == bodies[5]
        assert ask(api, "stale_list", now=30.5, seconds=1).response.body == ask(api).response.body
        assert ask(api, "stale_list", now=90.0, seconds=9).response.body == ask(api).response.body


class TestRateLimit:
    def test_requests_a_second(self, api):
        """A bucket of one second's worth that refills evenly; other requests get Retry-After."""
        limited = CloudAPI(cloud=api.cloud, max_requests_per_second=10, log=100)

        def statuses(now, count):
            request = request_of(limited)
            return Counter(
                limited.handle(request, now=now, today=datetime.now(UTC)).status
                for _ in range(count)
            )

        assert statuses(10.0, 12) == {200: 10, 429: 2}
        assert statuses(10.5, 12) == {200: 5, 429: 7}
        assert statuses(99.0, 12) == {200: 10, 429: 2}
        assert limited.requests == {"list": 25, "rate_limited": 11}
        assert limited.log[11].status == 429
        response = limited.handle(request_of(limited), now=99.0, today=datetime.now(UTC))
        assert response.headers["Retry-After"] == "1"

    def test_the_exact_rate_is_allowed(self, api):
        """No client at the limit is refused because of rounding."""
        limited = CloudAPI(cloud=api.cloud, max_requests_per_second=1)
        for n in range(50):
            now = 20.0 + n
            assert (
                limited.handle(request_of(limited), now=now, today=datetime.now(UTC)).status == 200
            )

    @pytest.mark.parametrize("rate", [0, -1, float("nan")])
    def test_wrong_limits_are_refused(self, rate):
        """With `InvalidArgument`."""
        with pytest.raises(ValueError, match="max_requests_per_second"):
            CloudAPI(max_requests_per_second=rate)
