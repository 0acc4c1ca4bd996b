"""The web service, in this process: two workers are two applications that share nothing."""

import asyncio
import base64
import contextlib
import hmac
import json

import httpx
import pytest
from web_backend.app import create_app
from web_backend.fleet import Fleet
from web_backend.seal import Seal
from web_backend.stream import stream
from web_backend.tracker import Tracker

from async_vmapi import InvalidArgument, OutcomeUnknown

NEW = {"name": "web-01", "cpus": 1, "ram": 1024}
SEAL = Seal(b"a key of the tests")


@pytest.fixture(autouse=True)
def environment(monkeypatch, vm_cloud):
    """The service's environment, without a key of its own."""
    monkeypatch.delenv("WEB_BACKEND_KEY", raising=False)
    monkeypatch.delenv("WEB_BACKEND_HOSTS", raising=False)
    monkeypatch.setenv("VMAPI_API_SECRET", vm_cloud.api_secret)


@contextlib.asynccontextmanager
async def worker(make_client):
    """One application, set up, and a client of it."""
    app = create_app(make_client)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as asking,
    ):
        yield asking


@pytest.fixture
async def workers(vm_cloud):
    async with worker(vm_cloud.client) as first, worker(vm_cloud.client) as second:
        yield first, second


async def collect(changes):
    return [change async for change in changes]


class TestTasks:
    async def test_status_from_any_worker(self, workers, vm_cloud):
        """One accepts an operation, another reports it, and may change the VM in turn."""
        first, second = workers
        accepted = await first.post("/api/vms", json=NEW)
        assert accepted.status_code == 202
        about = accepted.json()
        assert (about["operation"], about["name"]) == ("create", "web-01")
        task_status = (await second.get(accepted.headers["Location"], params={"wait": 30})).json()
        assert (task_status["status"], task_status["operation"], task_status["name"]) == (
            "done",
            "create",
            "web-01",
        )
        assert task_status["history"][-1]["state"] == "online"
        resized = await second.post(
            f"/api/vms/{task_status['vm_id']}/resize", json={"cores": 2, "ram": 2048}
        )
        task_status = (await first.get(resized.headers["Location"], params={"wait": 30})).json()
        assert (task_status["status"], vm_cloud.vm("web-01").cores) == ("done", 2)
        deleted = await first.delete(f"/api/vms/{task_status['vm_id']}")
        task_status = (await second.get(deleted.headers["Location"], params={"wait": 30})).json()
        assert (task_status["status"], task_status["history"][-1]["state"]) == ("done", "gone")
        assert (await second.get("/api/vms")).json() == []

    async def test_a_pending_task(self, workers, vm_cloud):
        """A request is answered within its timeout; repeating it is cheap."""
        vm_cloud.adjust(create=1000)
        accepted = await workers[0].post("/api/vms", json=NEW)
        where = accepted.headers["Location"]
        for _ in range(2):
            task_status = (await workers[1].get(where, params={"wait": 0.1})).json()
            assert task_status["status"] == "running"
        assert vm_cloud.requests["create"] == 1

    @pytest.mark.looptime
    async def test_a_failed_create(self, workers, vm_cloud):
        """The failure is reported with its reason."""
        vm_cloud.adjust("web-*", fail_state="error")
        accepted = await workers[0].post("/api/vms", json=NEW)
        where = accepted.headers["Location"]
        while (task_status := (await workers[1].get(where)).json())["status"] == "running":
            pass
        assert (task_status["status"], "'error'" in task_status["error"]) == ("failed", True)

    @pytest.mark.looptime
    async def test_an_unknown_create(self, workers, vm_cloud):
        """The response is a token; any worker reconciles it, and never sends it again."""
        vm_cloud.fail_next("create")
        accepted = await workers[0].post("/api/vms", json=NEW)
        assert accepted.status_code == 202
        where = accepted.headers["Location"]
        looking = (await workers[1].get(where, params={"wait": 0.1})).json()
        assert looking == {"status": "reconciling"}
        while (task_status := (await workers[1].get(where)).json())["status"] == "reconciling":
            pass
        assert (task_status["status"], task_status["name"], task_status["candidates"]) == (
            "unknown",
            "web-01",
            [],
        )
        assert vm_cloud.requests["create"] == 0
        vm_cloud.add("web-01")  # it was only late
        task_status = (await workers[0].get(where, params={"wait": 30})).json()
        assert (task_status["status"], task_status["name"]) == ("done", "web-01")

    @pytest.mark.looptime
    async def test_a_tracker_that_gives_up(self, vm_cloud):
        """A request that waits for an unknown create gets that error, and is not cancelled."""
        vm_cloud.fail_next("create")
        with pytest.raises(OutcomeUnknown) as doubt:
            await vm_cloud.client(reconcile_timeout=0.0, max_retries=0).vms.create(
                vm_cloud.create_request("web-01")
            )
        tracker = Tracker(vm_cloud.client(reconcile_timeout=60.0), SEAL)
        token = SEAL.close(doubt.value.token)
        asking = asyncio.create_task(tracker.status(token, 30.0))
        following = asyncio.create_task(collect(tracker.changes(token)))
        await asyncio.sleep(1)
        tracker.close()
        assert await asking == {"status": "reconciling"}
        assert await following == [{"status": "reconciling"}]

    async def test_a_token_holds_no_secret(self, workers, vm_cloud):
        """It names the endpoint and the VM; the API secret is neither in it nor its signing key."""
        sealed = (await workers[0].post("/api/vms", json=NEW)).json()["token"]
        token, _, signature = sealed.partition(".")
        content = base64.urlsafe_b64decode(token + "===")
        assert vm_cloud.api_secret.encode() not in content
        assert vm_cloud.api_key.encode() not in content
        said = json.loads(content[content.index(b"{") :])
        assert set(said.values()) >= {
            "create",
            vm_cloud.vm("web-01").id,
            "https://in-memory.invalid",
        }
        assert len(said) == 5  # and its kind, and how much time has passed
        assert (
            signature != hmac.digest(vm_cloud.api_secret.encode(), token.encode(), "sha256").hex()
        )

    async def test_a_configured_key(self, vm_cloud, monkeypatch):
        """`WEB_BACKEND_KEY` takes precedence over the API secret; other keys refuse the tokens."""
        monkeypatch.setenv("WEB_BACKEND_KEY", "one")
        async with worker(vm_cloud.client) as first:
            where = (await first.post("/api/vms", json=NEW)).headers["Location"]
        monkeypatch.setenv("VMAPI_API_SECRET", "another")
        async with worker(vm_cloud.client) as restarted:
            assert (await restarted.get(where)).status_code == 200
        monkeypatch.setenv("WEB_BACKEND_KEY", "two")
        async with worker(vm_cloud.client) as stranger:
            assert (await stranger.get(where)).status_code == 400

    async def test_no_key(self, vm_cloud, monkeypatch):
        """A service that could not sign does not start."""
        monkeypatch.delenv("VMAPI_API_SECRET")
        with pytest.raises(InvalidArgument, match="WEB_BACKEND_KEY or VMAPI_API_SECRET"):
            async with worker(vm_cloud.client):
                pass


class TestRefusals:
    @pytest.mark.parametrize(
        "body",
        [{}, NEW | {"name": "<b>"}, NEW | {"name": ""}, NEW | {"cpus": 0}, NEW | {"ram": "much"}],
    )
    async def test_an_unknown_vm(self, workers, vm_cloud, body):
        """Nothing is sent for an invalid id."""
        assert (await workers[0].post("/api/vms", json=body)).status_code == 422
        assert vm_cloud.requests.total() == 0

    async def test_a_refusal_of_the_provider(self, workers, vm_cloud):
        """Its words are shown, with a fitting status."""
        size = {"cores": 2, "ram": 2048}
        refused = await workers[0].post("/api/vms/no-such-vm/resize", json=size)
        assert (refused.status_code, "not found" in refused.json()["error"]) == (404, True)
        vm = vm_cloud.add("web-01")
        vm_cloud.adjust(delete=1000)
        await workers[0].delete(f"/api/vms/{vm.id}")
        refused = await workers[1].post(f"/api/vms/{vm.id}/resize", json=size)
        assert refused.status_code == 409
        vm_cloud.adjust(quota=1)
        refused = await workers[0].post("/api/vms", json=NEW)
        assert (refused.status_code, "quota" in refused.json()["error"]) == (502, True)

    @pytest.mark.parametrize("token", ["x", "!", "e30", "x.", ".x", "é.é", SEAL.close("x")])
    async def test_a_damaged_token(self, workers, token):
        """It is a client error, for a status as for a stream."""
        for path, asked in [(f"/api/tasks/{token}", {}), ("/api/events", {"task": token})]:
            refused = await workers[0].get(path, params=asked)
            assert (refused.status_code, "token" in refused.json()["error"]) == (400, True)

    @pytest.mark.parametrize("forge", ["unsigned", "by another key", "with another's signature"])
    async def test_a_forged_token(self, workers, vm_cloud, forge):
        """It sends nothing and blocks no create, although the SDK would accept it."""
        client = vm_cloud.client()
        token = await client.vms.prepare(
            "create", vm_cloud.create_request("web-01"), unique_name=True
        )
        issued = (await workers[0].post("/api/vms", json=NEW | {"name": "other"})).json()["token"]
        forged = {
            "unsigned": token,
            "by another key": SEAL.close(token),
            "with another's signature": f"{token}.{issued.rpartition('.')[2]}",
        }[forge]
        sent = vm_cloud.requests.total()
        for path, asked in [(f"/api/tasks/{forged}", {}), ("/api/events", {"task": forged})]:
            refused = await workers[0].get(path, params=asked)
            assert (refused.status_code, "token" in refused.json()["error"]) == (400, True)
        assert vm_cloud.requests.total() == sent
        assert (await workers[0].post("/api/vms", json=NEW)).status_code == 202

    async def test_the_page(self, workers):
        """Everything that it loads is served, and nothing may come from elsewhere."""
        response = await workers[0].get("/")
        policy = "default-src 'self'; frame-ancestors 'none'"
        assert response.headers["Content-Security-Policy"] == policy
        assert "http" not in response.text
        for path in ("page.js", "style.css", "icon.svg"):
            assert f"/static/{path}" in response.text
            assert (await workers[0].get(f"/static/{path}")).status_code == 200


def parsed(message):
    """Return an event's kind and content."""
    kind, _, data = message.partition("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


class TestOtherSites:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8000", "localhost.evil.example"]
    )
    async def test_another_host(self, workers, vm_cloud, host):
        """A foreign name that resolves to this host (DNS rebinding) reaches nothing."""
        for path in ("/", "/api/vms", "/openapi.json", "/static/page.js"):
            response = await workers[0].get(path, headers={"Host": host})
            assert response.status_code == 400
        response = await workers[0].post("/api/vms", json=NEW, headers={"Host": host})
        assert response.status_code == 400
        assert vm_cloud.requests.total() == 0

    async def test_configured_hosts(self, monkeypatch, vm_cloud):
        """Only those are accepted."""
        monkeypatch.setenv("WEB_BACKEND_HOSTS", "vms.example")
        async with worker(vm_cloud.client) as asking:
            assert (await asking.get("/api/vms")).status_code == 400
            theirs = {"Host": "vms.example"}
            assert (await asking.get("/api/vms", headers=theirs)).status_code == 200

    @pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9", "null"])
    async def test_another_page(self, workers, vm_cloud, origin):
        """A page of another site can make a browser send requests; none is carried out."""
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        refused = await workers[0].post("/api/vms", content=json.dumps(NEW), headers=headers)
        assert refused.status_code == 403
        assert vm_cloud.requests.total() == 0
        headers = {"Origin": "http://localhost:8000"}
        assert (await workers[0].post("/api/vms", json=NEW, headers=headers)).status_code == 202

    async def test_no_page_for_the_api(self, workers):
        """FastAPI's own would load scripts from elsewhere."""
        for path in ("/docs", "/redoc"):
            assert (await workers[0].get(path)).status_code == 404


class TestStream:
    @pytest.mark.looptime
    async def test_the_fleet_and_a_task(self, vm_cloud, vm_client):
        """A stream has the current state, then each change, until the task completes."""
        vm_cloud.add("db-01")
        task = await vm_client.vms.create(vm_cloud.create_request("web-01"))
        token, seen, fleets = SEAL.close(task.token()), [], []
        events = stream(Fleet(vm_client), Tracker(vm_client, SEAL), [token])
        async with contextlib.aclosing(events):
            assert await anext(events) == "retry: 500\n\n"
            async with asyncio.timeout(600):
                async for message in events:
                    if message.startswith(":"):
                        continue
                    kind, content = parsed(message)
                    (fleets if kind == "fleet" else seen).append(content)
                    states = {vm["state"] for vm in fleets[-1]["vms"]} if fleets else set()
                    if states == {"online"} and seen and seen[-1]["status"] == "done":
                        break
        assert [vm["name"] for vm in fleets[-1]["vms"]] == ["db-01", "web-01"]
        assert {content["token"] for content in seen} == {token}
        assert [one["state"] for one in seen[-1]["history"]][-2:] == ["installing", "online"]

    @pytest.mark.looptime
    async def test_a_thousand_listeners_cost_one_list(self, vm_cloud, vm_client):
        """One poll serves all listeners, and polling stops when they are gone."""
        vm_cloud.add("web-01")
        fleet = Fleet(vm_client, 1.0)
        streams = [stream(fleet, Tracker(vm_client, SEAL), []) for _ in range(1000)]
        for events in streams:
            await anext(events)
        for events in streams:
            assert parsed(await anext(events))[0] == "fleet"
        assert vm_cloud.requests["list"] == 1
        await asyncio.sleep(9.5)
        assert vm_cloud.requests["list"] == 10
        for events in streams:
            await events.aclose()
        await asyncio.sleep(100)
        assert vm_cloud.requests["list"] == 10

    @pytest.mark.looptime
    async def test_errors_and_silence(self, vm_cloud):
        """A failed poll is reported without ending the stream; silence is filled."""
        vm_cloud.add("web-01")
        client = vm_cloud.client(max_retries=0)
        events = stream(Fleet(client), Tracker(client, SEAL), [])
        await anext(events)
        assert "problem" not in parsed(await anext(events))[1]
        vm_cloud.fail_next("list", "server_error")
        trouble = parsed(await anext(events))[1]
        assert "500" in trouble["problem"]
        assert len(trouble["vms"]) == 1
        assert "problem" not in parsed(await anext(events))[1]
        assert await anext(events) == ": still here\n\n"
        await events.aclose()
