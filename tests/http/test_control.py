"""The control API of a served cloud; each response is checked against the OpenAPI document."""

import asyncio
import contextlib
import io
import json
import re
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from async_vmapi import Client, ImageBoot, OutcomeUnknown, TransportError, VMAPIError
from async_vmapi.emulator import Emulator, Fault, FaultPlan, Settings
from async_vmapi.emulator.control import EVENTS, ROUTES, document
from async_vmapi.emulator.control.events import Events, Listener
from async_vmapi.emulator.control.models import Changed
from async_vmapi.testing import VMCloud

from .test_emulator import PlainClient

TOKEN = "a-control-token-for-tests"
DOCUMENT = document(ROUTES)
SECRETS = ("root-Passw0rd", "#cloud-config secret", "api-s3cret", TOKEN)


def described(method, path, status):
    """Return the schema of a response, from the document."""
    path = path.partition("?")[0]
    for template, methods in DOCUMENT["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in methods:
            response = methods[method.lower()]["responses"][str(status)]
            return response["content"]["application/json"]["schema"]
    raise LookupError(f"{method} {path} is not in the document")


def check(content, schema):
    """Check a content against a schema of the document."""
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(content)


class Caller:
    """Calls the control API, and checks that each response is as described."""

    def __init__(self, emulator, session):
        self.emulator = emulator
        self.session = session

    async def raw(self, method, path, content=None, **options):
        url = f"{self.emulator.url}/_emulator{path}"
        body = json.dumps(content) if isinstance(content, dict | list) else content
        async with self.session.request(method, url, data=body, **options) as response:
            text = await response.text()
            assert not any(secret in text for secret in (*SECRETS, self.emulator.api_secret))
            return response, json.loads(text)

    async def __call__(self, method, path, content=None, *, status=200, **options):
        response, content = await self.raw(method, path, content, **options)
        assert response.status == status, content
        # Of paths and methods that are not there, nothing is described.
        if status != 405 and "there is no path" not in content.get("error", ""):
            check(content, described(method, f"/_emulator{path}", status))
        return content

    @contextlib.asynccontextmanager
    async def events(self, query="", last_id=None):
        """Listen to events; each is checked, and returned with its id and kind."""
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        url = f"{self.emulator.url}/_emulator/events{query}"
        async with self.session.get(url, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            assert await response.content.readline() == b"retry: 1000\n"
            yield self._events(response.content)

    async def _events(self, lines):
        found = {}
        async for line in lines:
            if name := line.decode().rstrip("\n"):
                key, _, value = name.partition(": ")
                found[key] = value
            elif "data" in found:
                content = json.loads(found["data"])
                check(content, {"$ref": f"#/components/schemas/{EVENTS[found['event']].__name__}"})
                yield found["id"], found["event"], content
                found = {}

    def client(self, **options):
        """Return a client of the cloud."""
        emulator = self.emulator
        return Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            **({"seed": 1, "max_staleness": 0.0, "max_retries": 0} | options),
        )


@contextlib.asynccontextmanager
async def controlled(**options):
    """Return the caller of an emulator with a control API."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    options = {"control_token": TOKEN, "seed": 1} | options
    async with (
        Emulator(**options) as emulator,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        yield Caller(emulator, session)


@pytest.fixture
async def call():
    """Call the control API of a cloud whose clock is paused."""
    async with controlled() as caller:
        await caller("POST", "/clock/pause")
        yield caller


STATE = ("/vms", "/settings", "/adjustments", "/quota", "/faults", "/groups", "/clock")
FIXED = {"create": 40, "not_found": 10, "address": 5, "stale": 0, "reboot": 20, "shutdown": 8}


class TestAccess:
    async def test_it_is_off_by_default(self, emulator):
        """Its paths are unknown then, like any other."""
        async with aiohttp.ClientSession() as session:
            for path in ("", "/faults", "/openapi.json", "/events"):
                async with session.get(f"{emulator.url}/_emulator{path}") as response:
                    assert response.status in {401, 404, 415}

    @pytest.mark.parametrize(
        "authorization",
        [None, "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer x", f"Bearer {TOKEN}x", "Bearer é"],
    )
    @pytest.mark.parametrize("path", ["", "/events", "/openapi.json", "/nothing"])
    async def test_a_wrong_token(self, authorization, path):
        """Nothing is shown without the token, not even which paths exist."""
        async with controlled() as call, aiohttp.ClientSession() as session:
            headers = {} if authorization is None else {"Authorization": authorization}
            url = f"{call.emulator.url}/_emulator{path}"
            async with session.get(url, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert "control token" in (await response.json())["error"]

    async def test_the_word_bearer_in_any_case(self, call):
        """RFC 9110 §11.1."""
        assert await call("GET", "", headers={"Authorization": f"bearer {TOKEN}"})

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://localhost:1"}, 403),
            ({"Origin": "{here}"}, 200),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
            ({"Host": "evil.example"}, 421),
        ],
    )
    async def test_pages_of_other_sites(self, call, headers, status):
        """A browser says where a request comes from; a page cannot change that."""
        here = call.emulator.url
        headers = {name: value.format(here=here) for name, value in headers.items()}
        await call("GET", "/clock", headers=headers, status=status)
        await call("POST", "/clock/step", {"seconds": 1}, headers=headers, status=status)

    async def test_no_permission_for_other_origins(self, call):
        """A browser's question whether a page may send a request gets no header that allows it."""
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        response, _ = await call.raw("OPTIONS", "/clock/step", headers=headers)
        assert response.status == 403
        assert not any(name.startswith("Access-Control") for name in response.headers)

    async def test_remote_addresses_never(self):
        """Others are let to the cloud at most, and never to its control."""
        for host in ("0.0.0.0", "::", "192.168.0.1", "emulator.lan"):
            for allowed in (True, False):
                with pytest.raises(ValueError, match="is not a loopback address"):
                    Emulator(host=host, allow_remote=allowed, control_token=TOKEN)
        async with controlled(allow_remote=True) as call:
            await call("GET", "", headers={"Host": "emulator.lan:8024"}, status=421)

    @pytest.mark.parametrize("token", ["", "short", "a" * 15, "with a space in the text", "é" * 20])
    def test_bad_tokens(self, token):
        """They are refused at the start, and not shown."""
        with pytest.raises(ValueError, match="control_token") as caught:
            Emulator(control_token=token)
        assert not token or token not in str(caught.value)

    async def test_a_body_that_is_too_large(self, call):
        """It is refused, as by the cloud's API."""
        response, content = await call.raw("POST", "/vms", io.BytesIO(b" " * (2 << 20)))
        assert (response.status, content["error"]) == (413, "body is too large")


class TestDocument:
    async def test_it_is_served(self, call):
        """As it is made from the routes."""
        assert await call("GET", "/openapi.json") == json.loads(json.dumps(DOCUMENT))
        assert DOCUMENT["openapi"] == "3.1.0"

    def test_every_route_is_in_it(self):
        """With its own id, a summary, and schemas of all that it takes and returns."""
        operations = {
            (method.upper(), path): operation
            for path, methods in DOCUMENT["paths"].items()
            for method, operation in methods.items()
        }
        served = {(route.method, f"/_emulator{route.path}") for route in ROUTES}
        others = {("GET", "/_emulator/events"), ("GET", "/_emulator/openapi.json")}
        assert operations.keys() == served | others
        ids = [operation["operationId"] for operation in operations.values()]
        assert len(set(ids)) == len(ids)
        assert all(operation["summary"] for operation in operations.values())

    def test_the_documentation_lists_every_route(self):
        """And no other."""
        page = Path(__file__).parents[2] / "docs" / "emulator-control.md"
        rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
        listed = set(re.findall(r"`([A-Z]+) /_emulator([^`]*)`", "".join(rows)))
        routes = {(route.method, route.path) for route in ROUTES}
        assert listed == routes | {("GET", "/events"), ("GET", "/openapi.json")}

    def test_every_schema_is_valid(self):
        """And every reference leads to one."""
        schemas = DOCUMENT["components"]["schemas"]
        for schema in schemas.values():
            Draft202012Validator.check_schema(schema)
        references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT)))
        assert references == {f"#/components/schemas/{name}" for name in schemas}

    @pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
    async def test_every_route_is_served(self, call, route):
        """A request with an unknown field gets a response as described."""
        path = re.sub(r"{\w+}", "some", route.path)
        if route.by_query:
            await call(route.method, f"{path}?frobnicate=1", status=400)
        else:
            await call(route.method, path, {"frobnicate": 1}, status=400)

    async def test_unknown_paths_and_methods(self, call):
        """The error says what there is."""
        content = await call("GET", "/nothing", status=404)
        assert content["error"].endswith("/_emulator/openapi.json has all")
        content = await call("DELETE", "/clock", status=405)
        assert content["error"] == "the method must be GET, not DELETE"
        content = await call("PUT", "/vms/x/settings", status=405)
        assert content["error"] == "the method must be GET or PATCH or DELETE, not PUT"

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"\xff",
            b"[" * 100_000,
            b'{"seconds": ' + b"[" * 20_000,
            b'{"seconds": 1e999}',
            b'{"seconds": NaN}',
            b"[]",
        ],
    )
    async def test_bodies_that_are_no_json_object(self, call, body):
        """They are bad requests, and the clock stays."""
        assert await call("POST", "/clock/step", body, status=400)
        assert (await call("GET", "/clock"))["now"] < 60

    async def test_no_secrets(self, call, request_for):
        """Neither of the account, nor of a create; `Caller` looks for them in each response."""
        call.emulator.api.api_secret = "api-s3cret"
        boot = ImageBoot(os="2268", password=SECRETS[0], user_data=SECRETS[1])
        async with call.client() as client:
            await client.vms.create(request_for(boot=boot))
            await client.account.ssh_keys()
        for route in ROUTES:
            if route.method == "GET":
                await call("GET", route.path.replace("{vm}", "web-01"))
        async with call.events("?kinds=request") as events:
            async with call.client() as client:
                await client.regions.list()
            event = json.dumps(await anext(events))
        assert not any(secret in event for secret in SECRETS)


class TestSettings:
    async def test_those_of_the_cloud(self, call):
        """They apply to VMs that exist and to later ones, except adjusted ones."""
        await call("POST", "/vms", {"name": "web", "count": 2})
        await call("PATCH", "/vms/web-01/settings", {"reboot": 3})
        changed = await call("PATCH", "/settings", {"reboot": [4, 5.5], "acpi": 30})
        assert (changed["reboot"], changed["acpi"]) == ([4, 5.5], 30)
        assert await call("GET", "/settings") == changed
        await call("POST", "/vms", {"name": "db"})
        found = [await call("GET", f"/vms/{name}/settings") for name in ("web-01", "web-02", "db")]
        assert [settings["reboot"] for settings in found] == [[3, 3], [4, 5.5], [4, 5.5]]
        assert [settings["acpi"] for settings in found] == [30, 30, 30]

    async def test_those_of_one_vm(self, call):
        """By id or name, until they are removed."""
        (vm_id,) = (await call("POST", "/vms", {"name": "web 1/é"}))["ids"]
        name = quote("web 1/é", safe="")
        assert (await call("PATCH", f"/vms/{name}/settings", {"acpi": "ignore"}))[
            "acpi"
        ] == "ignore"
        await call("PATCH", f"/vms/{vm_id}/settings", {"acpi": 5, "quota": None})
        adjusted = {"pattern": vm_id, "settings": {"acpi": 5, "quota": None}}
        assert (await call("GET", "/adjustments"))["adjustments"] == [adjusted]
        assert (await call("DELETE", f"/vms/{name}/settings"))["acpi"] == "honour"
        assert (await call("GET", "/adjustments"))["adjustments"] == []

    async def test_those_of_a_pattern(self, call):
        """The last one wins, and each can be removed."""
        await call("POST", "/vms", {"name": "web", "count": 2})
        await call("POST", "/adjustments", {"pattern": "web-*", "settings": {"reboot": 1}})
        await call("POST", "/adjustments", {"pattern": "*-02", "settings": {"reboot": 2}})
        content = await call("GET", "/adjustments?pattern=web-*")
        assert content["adjustments"] == [{"pattern": "web-*", "settings": {"reboot": 1}}]
        found = [(await call("GET", f"/vms/web-0{n}/settings"))["reboot"][0] for n in (1, 2)]
        assert found == [1, 2]
        await call("DELETE", "/adjustments?pattern=*-02")
        assert (await call("GET", "/vms/web-02/settings"))["reboot"] == [1, 1]
        assert await call("DELETE", "/adjustments") == {"adjustments": []}
        assert (await call("GET", "/vms/web-02/settings"))["reboot"] == [10, 30]

    @pytest.mark.parametrize("path", ["/settings", "/vms/web/settings", "/adjustments"])
    @pytest.mark.parametrize(
        ("name", "value", "allowed"),
        [
            ("create", -1, "a number of seconds, 0 or more, or a pair"),
            ("create", [2, 1], "a pair of them in ascending order"),
            ("create", [1, 2, 3], "a pair"),
            ("create", "soon", "a number of seconds"),
            ("early_size", [], "null, a number of seconds"),
            ("acpi", "no", '"honour", "ignore" or a number of seconds'),
            ("sparse", 1, "true or false"),
            ("fail_state", "", "null or a text that is not empty"),
            ("extra_states", "building", "an array of texts"),
            ("quota", -1, "null or an integer, 0 or more"),
            ("absence", 1.5, "a probability from 0 to 1"),
            ("replicas", [-1], "an array of numbers of seconds"),
            ("replica_choice", "x", '"random", "in_turn" or "sticky"'),
            ("not_found_form", "x" * 1000, '"json", "bare", "html", "gone" or "success_false"'),
            ("names", 0, '"verbatim", "lower", "strip", "nfc" or an integer, 1 or more'),
            ("network", "10.0.0.1/8", 'an IPv4 network such as "10.0.0.0/8"'),
        ],
    )
    async def test_a_bad_value(self, call, path, name, value, allowed):
        """The error names the setting, the value, and what is allowed; nothing changes."""
        await call("POST", "/vms", {"name": "web"})
        before = await call("GET", "/vms/web/settings")
        content = {"reset": 9, name: value}
        if path == "/adjustments":
            content = {"pattern": "*", "settings": content}
        error = (
            await call("POST" if path == "/adjustments" else "PATCH", path, content, status=400)
        )["error"]
        given = json.dumps(value, separators=(",", ":"))
        assert error.startswith(f"{name}={given}"[:100])
        assert allowed in error
        assert len(error) < 400
        assert await call("GET", "/vms/web/settings") == before

    async def test_an_unknown_setting(self, call):
        """The error lists all."""
        error = (await call("PATCH", "/settings", {"creat": 1}, status=400))["error"]
        assert error.startswith("'creat' is not a setting; the settings are create, not_found, ")

    async def test_the_quota(self, call, request_for):
        """Creates above it are refused, until it is raised."""
        assert await call("GET", "/quota") == {
            "vms": None,
            "used": 0,
            "max_requests_per_second": None,
        }
        await call("POST", "/vms", {"name": "web"})
        await call("PATCH", "/quota", {"vms": 1})
        async with call.client() as client:
            with pytest.raises(VMAPIError, match="quota of 1"):
                await client.vms.create(request_for("one-more"))
            assert (await call("PATCH", "/quota", {"vms": None}))["vms"] is None
            await client.vms.create(request_for("one-more"))
        assert (await call("GET", "/quota"))["used"] == 2

    async def test_the_rate_limit(self, call):
        """On a paused clock no second passes; a step brings the next requests."""
        await call("PATCH", "/quota", {"max_requests_per_second": 2})
        async with call.client() as client:
            for _ in range(2):
                await client.regions.list()
            with pytest.raises(VMAPIError, match="too many requests"):
                await client.regions.list()
            await call("POST", "/clock/step", {"seconds": 1})
            await client.regions.list()
            await call("PATCH", "/quota", {"max_requests_per_second": None})
            for _ in range(5):
                await client.regions.list()
        error = await call("PATCH", "/quota", {"max_requests_per_second": 0}, status=400)
        assert error["error"] == "max_requests_per_second=0: Expected `float` > 0.0"


class TestVMs:
    async def test_they_are_added_as_if_they_had_existed(self, call):
        """With numbered names, or one with just its name."""
        zone = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
        first = await call("POST", "/vms", {"name": "web", "count": 2, "ram": 512, "cores": 3})
        odd = {"name": "odd", "state": "error", "zone_id": zone, "template_id": "2599"}
        second = await call("POST", "/vms", odd)
        vms = (await call("GET", "/vms"))["vms"]
        assert [vm["id"] for vm in vms] == first["ids"] + second["ids"]
        assert [vm["label"] for vm in vms] == ["web-01", "web-02", "odd"]
        assert (vms[0]["ram"], vms[0]["cores"], vms[0]["state"]) == (512, 3, "online")
        assert (vms[2]["state"], vms[2]["template"]) == ("error", "Debian 12")
        async with call.client() as client:
            assert [vm.label for vm in await client.vms.list()] == ["web-01", "web-02", "odd"]

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            ({"name": "a", "zone_id": "x"}, "zone_id='x' is not one of 24e12e20-"),
            ({"name": "a", "template_id": "x"}, "template_id='x' is not one of 2268, 2599, "),
            ({"name": "a", "count": 0}, "count=0: Expected `int` >= 1"),
            ({"name": "a", "count": 10**6}, "count=1000000: Expected `int` <= 10000"),
            ({"name": ""}, 'name="": Expected `str` of length >= 1'),
            ({"name": ["x" * 200]}, f'name=["{"x" * 98}...: Expected `str`, got `array`'),
            ({"count": 1}, "Object missing required field `name`"),
        ],
    )
    async def test_bad_ones(self, call, content, error):
        """The error names the field and its value."""
        assert (await call("POST", "/vms", content, status=400))["error"].startswith(error)

    async def test_a_state_is_set_immediately(self, call):
        """Any word; reads of the cloud's API show it, and the history has it."""
        await call("POST", "/vms", {"name": "web"})
        await call("POST", "/clock/step", {"seconds": 5})
        assert (await call("PATCH", "/vms/web", {"state": "on fire"}))["state"] == "on fire"
        async with call.client() as client:
            assert [vm.state for vm in await client.vms.list()] == ["on fire"]
        history = (await call("GET", "/vms/web/history"))["history"]
        assert [entry["state"] for entry in history] == ["online", "on fire"]
        error = await call("PATCH", "/vms/web", {"state": ""}, status=400)
        assert error["error"] == 'state="": Expected `str` of length >= 1'

    async def test_names(self, call):
        """A name that several VMs have is no name of one; ids always are."""
        ids = [(await call("POST", "/vms", {"name": "web"}))["ids"][0] for _ in range(2)]
        error = (await call("GET", "/vms/web", status=409))["error"]
        assert error == f"2 VMs are named 'web'; use an id: {ids[0]}, {ids[1]}"
        assert (await call("GET", f"/vms/{ids[1]}"))["id"] == ids[1]
        for method, path in (("GET", ""), ("GET", "/history"), ("GET", "/settings")):
            error = await call(method, f"/vms/db{path}", status=404)
            assert error["error"] == "there is no VM with the id or name 'db'"

    async def test_the_history_of_a_vm(self, call, request_for):
        """Each step of each operation, also after it is deleted."""
        await call("PATCH", "/settings", FIXED | {"delete": 6})
        async with call.client() as client:
            vm_id = (await client.vms.create(request_for())).vm_id
            await client.vms.create(request_for("another-one"))
            created = await call("GET", f"/vms/{vm_id}")
            assert (created["visible"], created["address"]) == (False, None)
            operation = created["operations"][0]
            assert (operation["kind"], operation["started_at"]) == (
                "create",
                operation["accepted_at"],
            )
            began = operation["accepted_at"]
            await call("POST", "/clock/step", {"seconds": 45})
            assert (await call("GET", f"/vms/{vm_id}"))["operations"] == []
            await client.vms.reboot(vm_id)
            await client.vms.shutdown(vm_id, wait_for=1)
            queued = (await call("GET", f"/vms/{vm_id}"))["operations"]
            assert [each["started_at"] is None for each in queued] == [False, True]
            await call("POST", "/clock/step", {"seconds": 30})
            await client.vms.delete(vm_id)
            await call("POST", "/clock/step", {"seconds": 10})
        content = await call("GET", f"/vms/{vm_id}/history")
        assert content["vm"]["state"] is None
        found = [
            (
                round(entry["at"] - began, 3),
                entry["event"],
                entry.get("operation", entry.get("state", "")),
                entry.get("outcome"),
            )
            for entry in content["history"]
        ]
        assert found == [
            (0, "accepted", "create", None),
            (0, "state", "installing", None),
            (40, "state", "online", None),
            (40, "finished", "create", "done"),
            (45, "accepted", "reboot", None),
            (45, "accepted", "shutdown", None),
            (55, "state", "offline", None),
            (65, "state", "online", None),
            (65, "finished", "reboot", "done"),
            (65, "started", "shutdown", None),
            (73, "state", "offline", None),
            (73, "finished", "shutdown", "done"),
            (75, "accepted", "delete", None),
            (75, "state", "deleting", None),
            (81, "state", None, None),
            (81, "finished", "delete", "done"),
        ]
        assert [vm["label"] for vm in (await call("GET", "/vms"))["vms"]] == ["another-one"]
        assert (await call("GET", "/vms?deleted=true"))["vms"][1]["id"] == vm_id
        # What is deleted can be seen, but not changed.
        await call("GET", f"/vms/{vm_id}/settings")
        for path, content in (("", {"state": "online"}), ("/settings", {"acpi": "ignore"})):
            await call("PATCH", f"/vms/{vm_id}{path}", content, status=404)


class TestGroups:
    async def test_they_are_made_filled_and_removed(self, call):
        """The cloud's API shows them, in the account and in its VMs."""
        ids = (await call("POST", "/vms", {"name": "web", "count": 3}))["ids"]
        await call("PUT", "/groups/db%201", {"vms": ["web-01", ids[1]]})
        groups = (await call("PUT", "/groups/web", {"vms": ["web-01"]}))["groups"]
        assert groups == [
            {"id": "1", "name": "web", "vms": ids[:1]},
            {"id": "2", "name": "db 1", "vms": ids[:2]},
        ]
        assert (await call("GET", "/vms/web-01"))["groups"] == ["db 1", "web"]
        async with call.client() as client:
            shown = {
                vm.label: [group.name for group in vm.groups] for vm in await client.vms.list()
            }
        assert shown == {"web-01": ["db 1", "web"], "web-02": ["db 1"], "web-03": []}
        await call("PUT", "/groups/db%201", {"vms": ["web-03"]})
        groups = (await call("DELETE", "/groups/web"))["groups"]
        assert groups == [{"id": "2", "name": "db 1", "vms": ids[2:]}]
        assert (await call("GET", "/vms/web-01"))["groups"] == []
        assert (await call("PUT", "/groups/new"))["groups"][1] == {
            "id": "3",
            "name": "new",
            "vms": [],
        }

    async def test_the_account_shows_them(self, call):
        """As a client of the cloud's API reads them."""
        await call("PUT", "/groups/db")
        status, content = await PlainClient(call.emulator).acall("GET", "/v2/account")
        assert status == 200
        assert content["account"]["groups"] == [
            {"id": "1", "name": "web"},
            {"id": "2", "name": "db"},
        ]

    async def test_unknown_ones(self, call):
        """Nothing changes."""
        error = await call("PUT", "/groups/db", {"vms": ["web-01"]}, status=404)
        assert error["error"] == "there is no VM with the id or name 'web-01'"
        assert (await call("DELETE", "/groups/db", status=404))["error"] == "there is no group 'db'"
        assert [group["name"] for group in (await call("GET", "/groups"))["groups"]] == ["web"]


class TestFaults:
    async def test_the_next_request_of_a_call(self, call, request_for):
        """Its response is lost, once; the VM exists."""
        content = await call("POST", "/faults/next", {"call": "create"})
        assert content["next"] == [{"kind": "drop_after", "call": "create", "probability": 1.0}]
        async with call.client(reconcile_timeout=0.01) as client:
            with pytest.raises(OutcomeUnknown):
                await client.vms.create(request_for())
        content = await call("GET", "/faults")
        assert (content["next"], content["injected"]) == ([], {"drop_after": 1})
        assert [vm["label"] for vm in (await call("GET", "/vms"))["vms"]] == ["web-01"]

    async def test_a_plan_is_set_extended_shown_and_cleared(self, call):
        """It has the form of the TOML file."""
        plan = {"seed": 1, "fault": [{"kind": "html", "probability": 0.5, "call": "get"}]}
        assert (await call("PUT", "/faults", plan))["plan"] == plan
        more = {"kind": "server_error", "nth": [1, 2], "status": 503, "retry_after": 7}
        assert (await call("POST", "/faults", more))["plan"] == {
            "seed": 1,
            "fault": [*plan["fault"], more],
        }
        assert (await call("GET", ""))["faults"] == 2
        async with call.client() as client:
            for _ in range(2):
                with pytest.raises(VMAPIError, match="internal trouble"):
                    await client.regions.list()
            await client.regions.list()
        content = await call("DELETE", "/faults")
        assert content == {"plan": {"seed": 1}, "next": [], "injected": {"server_error": 2}}

    @pytest.mark.parametrize(
        ("method", "path", "content", "words"),
        [
            ("PUT", "", {"fault": [{"kind": "x", "probability": 1}]}, 'fault[0].kind="x": '),
            ("PUT", "", {"fault": [{"kind": "x", "probability": 1}]}, "; allowed: close_idle, "),
            ("PUT", "", {"fault": [{"kind": "html", "nth": [1], "call": "x"}]}, "call='x' is not"),
            ("PUT", "", {"fault": [{"kind": "html"}]}, "either probability or nth"),
            ("PUT", "", {"faults": []}, "unknown field `faults`; the fields are: fault, seed"),
            ("PUT", "", [], "Expected `object`, got `array`"),
            ("POST", "", {"kind": "html", "probability": 2}, "probability=2.0 is not above 0"),
            ("POST", "", {"kind": "html", "nth": [1], "status": 501}, "status=501: "),
            (
                "POST",
                "",
                {"kind": "html", "nth": [1], "call": "lists"},
                "call='lists' is not one of",
            ),
            ("POST", "/next", {"call": "get", "kind": "flood"}, 'kind="flood": '),
            ("POST", "/next", {"call": "get", "when": 1}, "unknown field `when`"),
            (
                "POST",
                "/next",
                {"call": "creat"},
                "call='creat' is not one of account, console, create, ",
            ),
            ("POST", "/next", {"call": "get", "kind": "stale_list"}, "is not for the call 'get'"),
            ("POST", "/next", {"call": "get", "seconds": -1}, "seconds=-1.0 is not 0 or more"),
            ("POST", "/next", {}, "missing required field `call`"),
        ],
    )
    async def test_bad_faults(self, call, method, path, content, words):
        """The error names the field, its value, and what is allowed."""
        assert words in (await call(method, f"/faults{path}", content, status=400))["error"]
        assert (await call("GET", "/faults"))["plan"] == {}


class TestClock:
    async def test_a_paused_clock(self, call, request_for):
        """Operations make no progress, and continue when it does."""
        await call("PATCH", "/settings", FIXED)
        async with call.client() as client:
            vm_id = (await client.vms.create(request_for())).vm_id
            first = await call("GET", "/clock")
            assert first["paused"]
            assert first["next"] == pytest.approx(first["now"] + 10)
            await asyncio.sleep(0.05)
            assert await call("GET", "/clock") == first
            await call("POST", "/clock/step", {"seconds": 39.9})
            assert (await call("GET", f"/vms/{vm_id}"))["state"] == "installing"
            await call("POST", "/clock/step", {"seconds": 0.1})
            assert (await call("GET", f"/vms/{vm_id}"))["state"] == "online"
            await call("POST", "/clock/speed", {"speed": 1000})
            resumed = await call("POST", "/clock/resume")
            assert (resumed["paused"], resumed["speed"]) == (False, 1000)
            while (await call("GET", f"/vms/{vm_id}"))["address"] is None:
                pass

    async def test_a_step_of_an_hour(self, call, request_for):
        """All that happens in it happens in order, each at its time."""
        await call("PATCH", "/settings", FIXED)
        ids = (await call("POST", "/vms", {"name": "web", "count": 3}))["ids"]
        async with call.client() as client:
            began = (await call("GET", "/clock"))["now"]
            for seconds, vm_id in zip((900, 20, 1000), ids, strict=True):
                await call("PATCH", f"/vms/{vm_id}/settings", {"reboot": seconds})
                await client.vms.reboot(vm_id)
                await client.vms.reboot(vm_id)
            async with call.events("?kinds=vm") as events:
                stepped = await call("POST", "/clock/step", {"seconds": 3600})
                found = [(await anext(events))[2] for _ in range(18)]
        times = [round(event["at"] - began, 3) for event in found]
        assert times == sorted(times)
        states = [
            (round(event["at"] - began, 3), ids.index(event["id"]) + 1, event["state"])
            for event in found
            if len(event["operations"]) > 0
        ]
        assert states[:4] == [
            (10, 2, "offline"),
            (20, 2, "online"),
            (20, 2, "online"),
            (30, 2, "offline"),
        ]
        assert stepped["now"] == pytest.approx(began + 3600)
        assert stepped["next"] is None
        assert {vm["state"] for vm in (await call("GET", "/vms"))["vms"]} == {"online"}

    async def test_jumps(self, call, request_for):
        """To a time, to a date, or to the next thing that happens."""
        await call("PATCH", "/settings", FIXED)
        error = await call("POST", "/clock/jump", {"to": "next"}, status=409)
        assert "nothing is due" in error["error"]
        async with call.client() as client:
            vm_id = (await client.vms.create(request_for())).vm_id
        began = (await call("GET", "/clock"))["now"]
        found = []
        while (clock := await call("GET", "/clock"))["next"] is not None:
            assert (await call("POST", "/clock/jump", {"to": "next"}))["now"] == clock["next"]
            vm = await call("GET", f"/vms/{vm_id}")
            found.append((vm["visible"], vm["state"], vm["address"] is not None))
        assert found == [
            (True, "installing", False),
            (True, "online", False),
            (True, "online", True),
        ]
        assert (await call("POST", "/clock/jump", {"to": began + 100}))["now"] == began + 100
        date = (await call("GET", "/clock"))["date"]
        year = int(date[:4]) + 1
        for to in (f"{year}{date[4:]}", f"{year + 1}{date[4:-1]}", f"{year + 2}{date[4:-1]}+01:00"):
            moved = (await call("POST", "/clock/jump", {"to": to}))["date"]
            assert moved == f"{to[:4]}{date[4:]}" or to.endswith("+01:00")

    @pytest.mark.parametrize(
        ("path", "content", "words"),
        [
            ("step", {"seconds": -1}, "seconds=-1: Expected `float` >= 0.0"),
            ("step", {"seconds": "1"}, 'seconds="1": Expected `float`, got `str`'),
            ("step", {"seconds": 1e300}, "the clock cannot go beyond the year 9000"),
            ("step", {"seconds": 3e11}, "the clock cannot go beyond the year 9000"),
            ("step", {"seconds": 2.4e11}, "the clock cannot go beyond the year 9000"),
            ("step", {}, "Object missing required field `seconds`"),
            ("jump", {"to": -1}, "to=-1.0 is before now; the clock cannot go back"),
            ("jump", {"to": "2001-01-01"}, "to='2001-01-01' is before now"),
            ("jump", {"to": "later"}, "to='later' is not a number of seconds, a date such as"),
            ("jump", {"to": "9999-01-01"}, "the clock cannot go beyond the year 9000"),
            ("speed", {"speed": 0}, "speed=0: Expected `float` > 0.0"),
            ("speed", {"speed": 1e7}, "speed=10000000.0: Expected `float` <= 1000000.0"),
            ("pause", {"seconds": 1}, "unknown field `seconds`; the fields are: none"),
        ],
    )
    async def test_bad_changes(self, call, path, content, words):
        """The error names the field and the value; the clock stays."""
        before = await call("GET", "/clock")
        assert words in (await call("POST", f"/clock/{path}", content, status=400))["error"]
        assert await call("GET", "/clock") == before

    async def test_a_running_clock(self):
        """It can be moved, too, and never goes back."""
        async with controlled(speed=100) as call:
            times = [(await call("GET", "/clock"))["now"]]
            for path, content in (
                ("step", {"seconds": 0}),
                ("step", {"seconds": 50}),
                ("speed", {"speed": 2}),
                ("jump", {"to": 10_000}),
                ("pause", None),
                ("resume", None),
                ("speed", {"speed": 0.5}),
            ):
                times.append((await call("POST", f"/clock/{path}", content))["now"])
            assert times == sorted(times)
            assert times[2] >= times[0] + 50

    async def test_a_cloud_with_a_clock_of_its_own(self):
        """`VMCloud` may be ahead of the emulator."""
        cloud = VMCloud(Settings(**FIXED))
        cloud.elapse(500)
        async with controlled(api=cloud, seed=None) as call:
            cloud.elapse(300)
            assert (await call("POST", "/clock/pause"))["now"] >= 800
            before = await call("GET", "/clock")
            (vm_id,) = (await call("POST", "/vms", {"name": "web"}))["ids"]
            cloud.cloud.operate("reboot", vm_id, before["now"])
            after = await call("POST", "/clock/step", {"seconds": 10})
            assert after["now"] == pytest.approx(before["now"] + 10)
            assert (await call("GET", "/vms/web"))["state"] == "offline"


class TestReset:
    async def test_the_cloud_of_the_start(self, request_for):
        """Without VMs, with the first settings, faults and limits; the date continues."""
        faults = FaultPlan([Fault(kind="html", nth=(9,))], seed=3)
        async with controlled(settings=Settings(reboot=7), faults=faults, speed=5) as call:
            await call("POST", "/clock/pause")
            await call("POST", "/vms", {"name": "web"})
            await call("PATCH", "/vms/web/settings", {"acpi": "ignore"})
            await call("PATCH", "/settings", {"reboot": 3})
            await call("PATCH", "/quota", {"max_requests_per_second": 3})
            await call("PUT", "/groups/db", {"vms": ["web"]})
            await call("PUT", "/faults", {"fault": []})
            await call("POST", "/clock/speed", {"speed": 2})
            before = await call("POST", "/clock/step", {"seconds": 100})
            async with call.client() as client:
                await client.regions.list()
            status = await call("POST", "/reset", {"seed": 4})
            assert status | {"clock": None} == {
                "clock": None,
                "vms": {},
                "deleted": 0,
                "requests": {},
                "faults": 1,
            }
            assert (status["clock"]["paused"], status["clock"]["speed"]) == (False, 5)
            assert status["clock"]["date"][:18] >= before["date"][:18]
            assert (await call("GET", "/settings"))["reboot"] == [7, 7]
            assert (await call("GET", "/adjustments"))["adjustments"] == []
            assert (await call("GET", "/quota"))["max_requests_per_second"] is None
            assert [g["name"] for g in (await call("GET", "/groups"))["groups"]] == ["web"]
            plan = {"seed": 3, "fault": [{"kind": "html", "nth": [9]}]}
            assert (await call("GET", "/faults"))["plan"] == plan
            assert (await call("GET", "/requests"))["requests"] == []
            async with call.client() as client:
                await client.vms.create(request_for())
            # The new cloud is the one that is served and watched.
            assert [vm["label"] for vm in (await call("GET", "/vms"))["vms"]] == ["web-01"]

    @pytest.mark.parametrize("path", ["/reset", "/seed"])
    async def test_a_seed(self, call, path):
        """The same ids again; without a seed, others."""
        found = []
        for seed in (5, 5, 6, None):
            await call("POST", path, {} if seed is None else {"seed": seed})
            found.append((await call("POST", "/vms", {"name": "web"}))["ids"][0])
        assert found[0] == found[1]
        assert len(set(found)) == 3


class TestSnapshot:
    async def test_a_cloud_is_restored(self, call, request_for):
        """With all that was not finished, where it was; also in another emulator."""
        await call("PATCH", "/settings", FIXED)
        await call("POST", "/vms", {"name": "web", "count": 2000})
        async with call.client() as client:
            vm_id = (await client.vms.create(request_for())).vm_id
        await call("PUT", "/groups/db", {"vms": [vm_id]})
        await call("PATCH", f"/vms/{vm_id}/settings", {"acpi": "ignore"})
        await call("POST", "/faults/next", {"call": "list"})
        await call("PATCH", "/quota", {"max_requests_per_second": 100})
        await call("POST", "/clock/step", {"seconds": 39})
        taken = await call("POST", "/snapshot")
        before = [await call("GET", path) for path in STATE]
        await call("POST", "/clock/step", {"seconds": 500})
        await call("POST", "/reset")
        async with controlled(seed=2) as other:
            await other("POST", "/clock/pause")
            for each in (call, other):
                await each("POST", "/clock/pause")
                async with each.events() as events:
                    status = await each("POST", "/restore", io.BytesIO(json.dumps(taken).encode()))
                    assert (await anext(events))[1:] == ("changed", {"what": "reset"})
                    assert (await anext(events))[2] == status["clock"]
                    assert [await each("GET", path) for path in STATE] == before
                    assert (await each("GET", f"/vms/{vm_id}"))["state"] == "installing"
                    await each("POST", "/clock/step", {"seconds": 1})
                    assert (await anext(events))[2]["state"] == "online"

    async def test_a_cloud_with_a_clock_of_its_own(self):
        """`VMCloud` continues where it was, too."""
        cloud = VMCloud(Settings(**FIXED))
        async with controlled(api=cloud, seed=None) as call:
            await call("POST", "/clock/pause")
            before = await call("GET", "/clock")
            taken = await call("POST", "/snapshot")
            cloud.elapse(300)
            assert (await call("POST", "/restore", taken))["clock"] == before

    async def test_a_cloud_from_a_file(self, tmp_path):
        """It is seen like any other."""
        options = {"state": tmp_path / "cloud.db", "seed": None}
        async with controlled(**options) as call:
            await call("POST", "/vms", {"name": "web"})
            await call("PUT", "/groups/db", {"vms": ["web"]})
        async with controlled(**options) as call, call.events("?kinds=vm") as events:
            await call("PATCH", "/vms/web", {"state": "offline"})
            vm = (await anext(events))[2]
        assert (vm["state"], vm["groups"]) == ("offline", ["db"])

    @pytest.mark.parametrize("content", [{}, {"version": 0}, {"version": 1}])
    async def test_what_is_no_snapshot(self, call, content):
        """It is refused, and the cloud stays."""
        await call("POST", "/vms", {"name": "web"})
        error = (await call("POST", "/restore", content, status=400))["error"]
        assert "content is not a snapshot" in error
        async with call.events("?kinds=vm") as events:
            await call("PATCH", "/vms/web", {"state": "offline"})
            assert (await anext(events))[2]["state"] == "offline"


class TestRequests:
    async def test_the_log(self, call, request_for):
        """Who sent what, and what came of it; control requests are not in it."""
        call.emulator.api.faults.fail_next("get", "slow_body", seconds=0.05)
        call.emulator.api.faults.fail_next("regions", "drop_before")
        async with call.client() as client:
            await call("PATCH", "/settings", {"not_found": 0})
            vm_id = (await client.vms.create(request_for())).vm_id
            await client.vms.get(vm_id)
            with pytest.raises(TransportError):
                await client.regions.list()
        url = f"{call.emulator.url}/v2/x?password=y"
        async with call.session.get(url, headers={"User-Agent": "a" * 500}) as response:
            unsigned = response.status
        found = (await call("GET", "/requests"))["requests"]
        found = [entry for entry in found if entry["call"] != "list"]
        assert [(e["method"], e["call"], e["status"], e["fault"], e["delay"]) for e in found] == [
            ("PUT", "create", 200, None, 0),
            ("GET", "get", 200, "slow_body", 0.05),
            ("GET", "regions", None, "drop_before", 0),
            ("GET", "refused", unsigned, None, 0),
        ]
        assert found[1]["vm"] == vm_id
        assert found[1]["path"] == f"/v2/virtual-machines/{vm_id}"
        assert found[1]["duration"] >= 0.05
        assert found[1]["client"].startswith("127.0.0.1:")
        assert (found[3]["path"], len(found[3]["agent"])) == ("/v2/x", 200)
        assert len((await call("GET", "/requests?limit=2"))["requests"]) == 2
        (one,) = (await call("GET", f"/requests?vm={vm_id}"))["requests"]
        assert one["number"] == found[1]["number"]
        error = await call("GET", "/requests?limit=0", status=400)
        assert error["error"] == 'limit="0": Expected `int` >= 1'

    async def test_requests_that_do_not_reach_the_cloud(self, call):
        """They are in it, too."""
        url = f"{call.emulator.url}/v2/regions"
        async with call.session.get(url, headers={"Host": "evil.example"}) as response:
            assert response.status == 421
        (entry,) = (await call("GET", "/requests"))["requests"]
        assert (entry["status"], entry["fault"], entry["delay"]) == (421, None, 0)


class TestEvents:
    async def test_what_happens_is_streamed(self, call, request_for):
        """VMs, requests, the clock, and what else has changed."""
        async with call.events() as events:
            await call("PATCH", "/settings", FIXED)
            async with call.client() as client:
                vm_id = (await client.vms.create(request_for())).vm_id
            await call("POST", "/faults/next", {"call": "list"})
            await call("PUT", "/groups/db", {"vms": [vm_id]})
            await call("POST", "/clock/step", {"seconds": 10})
            found = [await anext(events) for _ in range(8)]
        found = [event for event in found if event[2].get("call") != "list"]
        kinds = [kind for _, kind, _ in found]
        assert kinds[:3] == ["changed", "vm", "request"]
        assert found[1][2]["operations"][0]["kind"] == "create"
        assert {"what": "faults"} in [content for _, _, content in found]

    async def test_a_running_cloud_is_watched(self):
        """Changes come by themselves, without any request."""
        async with controlled(settings=Settings(**FIXED), speed=1000) as call:
            ids = (await call("POST", "/vms", {"name": "web"}))["ids"]
            async with call.events("?kinds=vm") as events:
                call.emulator.cloud.operate("reboot", ids[0], call.emulator.now)
                found = [(await anext(events))[2] for _ in range(4)]
        assert [vm["state"] for vm in found] == ["online", "offline", "online", "online"]

    async def test_only_some_kinds(self, call):
        """Unknown ones are refused."""
        async with call.events("?kinds=clock,changed") as events:
            await call("POST", "/vms", {"name": "web", "count": 300})
            await call("POST", "/clock/step", {"seconds": 1})
            await call("PUT", "/groups/db", {"vms": ["web-001"]})
            assert [(await anext(events))[1] for _ in range(2)] == ["clock", "changed"]
        error = (await call("GET", "/events?kinds=vm,x", status=400))["error"]
        assert error == "kinds=x is not of vm, request, clock, changed, lost"

    async def test_a_listener_that_returns(self, call):
        """It gets what it has missed, after its last id."""
        async with call.events() as events:
            await call("POST", "/clock/step", {"seconds": 1})
            last, _, _ = await anext(events)
        await call("POST", "/clock/step", {"seconds": 2})
        await call("POST", "/clock/step", {"seconds": 3})
        async with call.events(last_id=last) as events:
            found = [await anext(events) for _ in range(2)]
        assert [kind for _, kind, _ in found] == ["clock", "clock"]
        assert found[1][2]["now"] - found[0][2]["now"] == pytest.approx(3)

    @pytest.mark.parametrize("last_id", ["", "x", "0-0", "{run}-", "{run}-x", "{run}-²"])
    async def test_an_id_of_another_emulator(self, call, last_id):
        """How much was missed is unknown."""
        async with call.events() as events:
            await call("POST", "/clock/step", {"seconds": 1})
            run = (await anext(events))[0].partition("-")[0]
        async with call.events(last_id=last_id.format(run=run)) as events:
            found = [(await anext(events))[1:] for _ in range(3)]
        assert found[0] == ("lost", {"missed": None})
        # Then those that are kept: of the pause, and of the step.
        assert [kind for kind, _ in found[1:]] == ["clock", "clock"]

    async def test_a_listener_that_is_too_slow(self):
        """It gets the number of events that it has missed, and then the latest ones."""
        events = Events(lambda content: content, kept=3)
        slow, fast = (Listener(events, None, frozenset()) for _ in range(2))
        contents = []
        for _ in range(8):
            events.publish("changed", Changed(what="faults"))
            contents.append(fast.take())
        lost, *others = slow.take().decode().split("\n\n")[:-1]
        assert lost == f'id: {events.run}-5\nevent: lost\ndata: {{"missed":5}}'
        assert "".join(f"{each}\n\n" for each in others).encode() == b"".join(contents[5:])
        assert slow.take() == b""
        # It can return after the event that reported it.
        again = Listener(events, f"{events.run}-5", frozenset())
        assert again.take() == b"".join(contents[5:])
        late = Listener(events, f"{events.run}-999", frozenset())
        assert late.take() == b""

    async def test_a_listener_that_does_not_read(self, call):
        """Others are served meanwhile, and the emulator ends."""
        async with call.events():
            for _ in range(3):
                await call("POST", "/reset")
                await call("POST", "/vms", {"name": "x" * 100, "count": 9000})
            assert (await call("GET", ""))["vms"] == {"online": 9000}
            await call.emulator.__aexit__()
            # For the end of `call`.
            await call.emulator.__aenter__()

    async def test_a_log_of_many_paths(self, call):
        """Each request has its own."""
        async with call.client() as client:
            for number in range(2100):
                with contextlib.suppress(VMAPIError):
                    await client.vms.get(f"vm-{number}")
        found = (await call("GET", "/requests?limit=1000"))["requests"]
        assert [entry["vm"] for entry in found] == [f"vm-{n}" for n in range(1100, 2100)]

    async def test_a_silent_stream(self, call, monkeypatch):
        """Comments show that the connection is not broken."""
        monkeypatch.setattr("async_vmapi.emulator.control.server._PING", 0.02)
        url = f"{call.emulator.url}/_emulator/events"
        async with call.session.get(url) as response:
            lines = [await response.content.readline() for _ in range(6)]
        assert lines == [b"retry: 1000\n", b"\n", b": ping\n", b"\n", b": ping\n", b"\n"]

    async def test_an_emulator_that_ends(self):
        """Its streams end with it, also those that are not read, and it can be started again."""
        async with controlled() as call:
            emulator = call.emulator
            async with call.events() as events, call.events():
                await emulator.__aexit__()
                with contextlib.suppress(aiohttp.ClientError):
                    assert [event async for event in events] == []
            async with emulator, call.events() as events:
                await call("POST", "/clock/pause")
                assert (await anext(events))[1] == "clock"
            # For the end of `controlled`.
            await emulator.__aenter__()

    async def test_too_many_listeners(self, call):
        """A place is free again after one disconnects."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(16):
                await stack.enter_async_context(call.events())
            error = (await call("GET", "/events", status=503))["error"]
            assert error == "there are 16 listeners already; disconnect one"
        while True:
            url = f"{call.emulator.url}/_emulator/events"
            async with call.session.get(url) as response:
                if response.status == 200:
                    break
