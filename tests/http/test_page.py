"""The emulator's page: how it is served, and what it does in a browser."""

import contextlib
import os
import re
import shutil
from html.parser import HTMLParser

import aiohttp
import pytest
from playwright.async_api import async_playwright, expect

from async_vmapi import Client, NotFound, OutcomeUnknown
from async_vmapi.emulator import Emulator, Settings
from async_vmapi.emulator.api import CALLS
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.emulator.faults import Fault
from async_vmapi.emulator.page import load

TOKEN = "a-control-token/for+tests=="
SETTINGS = Settings(create=40, not_found=10, address=0, stale=0, shutdown=5, resize=20, delete=5)
PATIENCE = 60_000
"""Milliseconds for what takes a moment: the computer may be very busy."""
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextlib.asynccontextmanager
async def paged(**options):
    """Serve a cloud with a page; nothing happens in it by itself."""
    options = {"settings": SETTINGS, "seed": 1, "control_token": TOKEN, "page": True} | options
    async with Emulator(**options) as emulator:
        await control(emulator, "POST", "/clock/pause")
        yield emulator


async def control(emulator, method, path, content=None):
    """Send a request to the control API."""
    token = emulator.page_url.partition("#token=")[2]
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {unquoted(token)}"}) as session,
        session.request(method, f"{emulator.url}/_emulator{path}", json=content) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


def unquoted(text):
    return text.replace("%2F", "/").replace("%2B", "+").replace("%3D", "=")


def client_of(emulator, **options):
    options = {"max_staleness": 0.0, "max_retries": 0, "reconcile_timeout": 0.0} | options
    return Client(emulator.url, api_key=emulator.api_key, api_secret=emulator.api_secret, **options)


def place(emulator, label, **fields):
    """Add a VM without a create."""
    fields = {"cores": 1, "ram": 1024, "template": TEMPLATES[0], "state": "online"} | fields
    cloud = emulator.cloud
    return cloud.place(cloud.now, label=label, zone=next(iter(ZONES.values())), **fields)


@pytest.fixture
async def emulator():
    async with paged() as emulator:
        yield emulator


async def fetch(emulator, path, method="GET", **headers):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{emulator.url}{path}", headers=headers) as response,
    ):
        return response, await response.text()


class Parts(HTMLParser):
    """The tags and attributes of a document."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def values(self, attribute):
        return {attrs[attribute] for _, attrs in self.tags if attribute in attrs}


class TestServing:
    async def test_it_is_off_by_default(self):
        """The root is a path of the cloud's API then, which needs a signature."""
        async with Emulator(control_token=TOKEN) as emulator:
            for path in ("/", "/_page/main.js"):
                response, _ = await fetch(emulator, path)
                assert response.status in {401, 404, 415}
            with pytest.raises(RuntimeError, match="page=True"):
                _ = emulator.page_url

    async def test_its_files(self, emulator):
        """All that the page loads is there, with the type that browsers require, and no secret."""
        _, html = await fetch(emulator, "/?any=query")
        parts = Parts(html)
        linked = parts.values("src") | parts.values("href")
        assert linked == {"/_page/icon.svg", "/_page/style.css", "/_page/main.js"}
        for path, file in load().items():
            response, text = await fetch(emulator, path)
            assert response.status == 200
            assert response.headers["Content-Type"] == file.content_type
            assert not any(secret in text for secret in (TOKEN, emulator.api_secret))
            for module in re.findall(r'from "\./(.+)"', text):
                assert f"/_page/{module}" in load()

    async def test_what_a_browser_may_do_with_it(self, emulator):
        """It loads nothing from elsewhere, is in no frame, and sends no referrer."""
        response, html = await fetch(emulator, "/")
        policy = response.headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        parts = Parts(html)
        attributes = {name for _, attrs in parts.tags for name in attrs}
        assert not any(name.startswith("on") or name == "style" for name in attributes)

    async def test_a_head_request(self, emulator):
        """The headers alone."""
        response, text = await fetch(emulator, "/", "HEAD")
        assert (response.status, text) == (200, "")
        assert int(response.headers["Content-Length"]) > 1000

    async def test_another_method(self, emulator):
        """It is a request to the cloud's API."""
        response, _ = await fetch(emulator, "/", "POST")
        assert response.status in {401, 404, 415}

    async def test_another_host(self, emulator):
        """A page that resolves its own name to this computer gets nothing."""
        response, text = await fetch(emulator, "/", Host="evil.example")
        assert response.status == 421
        assert "loopback" in text

    async def test_a_token_is_made(self):
        """A new one for each emulator; it is in the fragment only."""
        async with Emulator(page=True) as one, Emulator(page=True) as other:
            tokens = {each.page_url.partition("/#token=")[2] for each in (one, other)}
            assert len(tokens) == 2
            assert all(len(token) > 40 for token in tokens)
            assert await control(one, "GET", "")

    def test_it_needs_a_loopback_address(self):
        with pytest.raises(ValueError, match="not a loopback address"):
            Emulator(page=True, host="0.0.0.0", allow_remote=True)

    def test_all_calls_and_faults(self):
        """Every fault has a button, and every call can be chosen."""
        tags = Parts(load()["/"].body.decode()).tags
        kinds = {
            attrs["data-fault"]: attrs.get("data-only")
            for _, attrs in tags
            if "data-fault" in attrs
        }
        assert kinds.keys() == set(Fault.__annotations__["kind"].__args__)
        for kind, only in kinds.items():
            fits = {call for call in CALLS if Fault(kind=kind, probability=1).fits(call, "")}
            assert fits == (CALLS if only is None else set(only.split()))
        calls = set(re.findall(r"<option(?: selected)?>(\w+)<", load()["/"].body.decode()))
        calls |= {attrs["value"] for tag, attrs in tags if tag == "option" and "value" in attrs}
        assert {call for call in calls if not call[0].isdigit()} == CALLS


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture
async def browser():
    chromium = shutil.which("chromium")
    assert chromium, "this test needs Debian's chromium: apt-get install chromium"
    expect.set_options(timeout=PATIENCE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def open_page(browser):
    """Open the page of an emulator, and check that it does nothing but what it should."""
    pages = []

    async def open_page(emulator, *, url=None, **options):
        options = {"viewport": {"width": 1280, "height": 800}} | options
        page = await browser.new_page(**options)
        page.set_default_timeout(PATIENCE)
        page.problems, page.urls = [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("dialog", lambda dialog: page.problems.append(dialog.message))
        page.on("request", lambda request: page.urls.append(request.url))
        pages.append((page, emulator.url))
        await page.goto(url or emulator.page_url)
        return page

    yield open_page
    for page, base in pages:
        assert all(url.startswith(f"{base}/") for url in page.urls)
        assert not any("control-token" in url.partition("#")[0] for url in page.urls)
        assert page.problems == []


def reports_request(text):
    """Return whether the browser, not the page, reports a request that failed."""
    return "Failed to load resource" in text or "net::ERR_" in text


def rows(page):
    return page.locator("#vms tr:visible")


def link(page):
    return page.locator("#link")


def request_of(page, text):
    return page.locator("#requests li", has_text=text)


@pytest.mark.programs
class TestVMs:
    async def test_vms_appear_as_a_client_creates_them(self, emulator, open_page, request_for):
        """Each with its state, size, address and operation, until it is deleted."""
        page = await open_page(emulator)
        await expect(link(page)).to_have_text("connected")
        await expect(page.locator("#no-vms")).to_be_visible()
        async with client_of(emulator) as client:
            task = await client.vms.create(request_for("web-01", cpus=4, ram=8192))
            row = rows(page).filter(has_text="web-01")
            await expect(row.locator(".state")).to_have_text("installing")
            await expect(row.locator(".tag")).to_have_text("create")
            await expect(row.locator(".size")).to_have_text("4 cores, 8 GB")
            await expect(request_of(page, "PUT /v2/virtual-machines")).to_contain_text("200")
            await control(emulator, "POST", "/clock/step", {"seconds": 60})
            await expect(row.locator(".state")).to_have_text("online")
            await expect(row.locator(".address")).to_have_text(re.compile(r"10\.\d+\.\d+\.\d+"))
            await expect(row.locator(".tag")).to_be_hidden()
            await client.vms.delete(task.vm_id)
            await control(emulator, "POST", "/clock/step", {"seconds": 60})
        await expect(rows(page)).to_have_count(0)
        await page.get_by_role("button", name="deleted 1").click()
        await expect(rows(page)).to_have_text([re.compile(r"web-01\s+deleted")])
        await page.reload()
        await page.get_by_role("button", name="deleted 1").click()
        await expect(rows(page)).to_have_count(1)
        await page.get_by_role("button", name="deleted 1").click()
        await expect(page.locator("#no-vms")).to_be_visible()
        await page.get_by_role("button", name="Add three VMs").click()
        await expect(rows(page)).to_have_text([re.compile(f"web-0{n}") for n in (1, 2, 3)])

    async def test_filters(self, emulator, open_page):
        """By words and by state; also what appears or changes later."""
        for number in range(1, 4):
            place(emulator, f"web-{number}")
        place(emulator, "db-1", state="offline")
        page = await open_page(emulator)
        await expect(rows(page)).to_have_count(4)
        await page.get_by_label("Filter VMs").fill("WEB")
        await expect(rows(page)).to_have_count(3)
        place(emulator, "web-4", state="offline")
        place(emulator, "db-2")
        await expect(rows(page)).to_have_count(4)
        offline = page.get_by_role("button", name="offline 2")
        await offline.click()
        await expect(rows(page)).to_have_text([re.compile("web-4")])
        vm = next(vm for vm in emulator.cloud.vms.values() if vm.label == "web-2")
        await control(emulator, "PATCH", f"/vms/{vm.id}", {"state": "offline"})
        await expect(rows(page)).to_have_count(2)
        await control(emulator, "PATCH", f"/vms/{vm.id}", {"state": "frobnicating"})
        await expect(page.locator("#states button")).to_have_text(
            [re.compile(state) for state in ("online", "offline", "frobnicating")]
        )
        await control(emulator, "PATCH", f"/vms/{vm.id}", {"state": "offline"})
        await expect(page.locator("#states button")).to_have_count(2)
        await page.get_by_label("Filter VMs").fill("web nothing")
        await expect(page.locator("#no-match")).to_be_visible()
        await page.get_by_label("Filter VMs").fill(vm.address)
        await page.get_by_role("button", name="offline 3").click()
        await expect(rows(page)).to_have_count(1)

    async def test_a_thousand_vms(self, emulator, open_page):
        """They are all there; a change of one changes one row and no other."""
        await control(emulator, "POST", "/vms", {"name": "web", "count": 1000})
        page = await open_page(emulator)
        await expect(rows(page)).to_have_count(1000)
        await page.evaluate(
            "new MutationObserver((all) => { window.seen = (window.seen ?? []).concat("
            "all.map(({ target }) => target.closest?.('tr')?.dataset.id)) }).observe("
            "document.getElementById('vms'),"
            " { subtree: true, childList: true, attributes: true, characterData: true })"
        )
        vm = emulator.cloud.vms[list(emulator.cloud.vms)[700]]
        await control(emulator, "PATCH", f"/vms/{vm.id}", {"state": "error"})
        await expect(page.get_by_role("button", name="error 1")).to_be_visible()
        assert set(await page.evaluate("window.seen")) == {vm.id}

    async def test_a_reset(self, emulator, open_page):
        """All is read again."""
        vm = place(emulator, "web-1")
        page = await open_page(emulator)
        await page.get_by_role("button", name="web-1").click()
        await expect(page.locator("#detail")).to_be_visible()
        saved = await control(emulator, "POST", "/snapshot")
        await control(emulator, "POST", "/reset", {})
        await expect(page.locator("#no-vms")).to_be_visible()
        await expect(page.locator("#detail")).to_be_hidden()
        await control(emulator, "POST", "/restore", saved)
        await expect(rows(page)).to_have_text([re.compile(vm.label)])

    async def test_names_are_text(self, emulator, open_page, request_for):
        """A name that is markup is shown as it is, and nothing of it is executed."""
        name = "<img src=x onerror=alert(1)>"
        place(emulator, name)
        await control(emulator, "PUT", "/groups/%3Cb%3Eteam", {"vms": [name]})
        page = await open_page(emulator)
        button = rows(page).get_by_role("button")
        await expect(button).to_have_text(name)
        await button.click()
        await expect(page.locator("#detail-title")).to_have_text(name)
        await expect(page.locator("#spec")).to_contain_text("<b>team")
        agent = {"User-Agent": "<script>alert(1)</script>"}
        await fetch(emulator, "/v2/<b>bold</b>", **agent)
        await expect(request_of(page, "/v2/<b>bold</b>")).to_be_visible()
        assert await page.locator("#main :is(img, script, b.bold)").count() == 0


@pytest.mark.programs
class TestClock:
    async def test_pause_step_and_speed(self, emulator, open_page, request_for):
        """The buttons move the cloud's clock, and all that is due happens."""
        page = await open_page(emulator)
        async with client_of(emulator) as client:
            await client.vms.create(request_for("web-01"))
        state = rows(page).locator(".state")
        await expect(state).to_have_text("installing")
        await expect(page.locator("#clock-note")).to_contain_text("paused, next event in 10 s")
        before = (await control(emulator, "GET", "/clock"))["now"]
        await page.get_by_role("button", name="+10 s").click()
        await expect(page.locator("#clock-note")).to_contain_text("next event in 30 s")
        assert (await control(emulator, "GET", "/clock"))["now"] == pytest.approx(before + 10)
        await page.get_by_role("button", name="Next event").click()
        await expect(state).to_have_text("online")
        clock = await control(emulator, "GET", "/clock")
        assert clock["now"] == pytest.approx(before + 40)
        await expect(page.locator("#time")).to_have_attribute("datetime", clock["date"])
        await page.get_by_label("Speed").select_option("3600")
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator("#clock-note")).to_contain_text("3600\u00d7")
        await expect(page.locator("#time")).not_to_have_attribute("datetime", clock["date"])
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("button", name="Resume")).to_be_visible()
        clock = await control(emulator, "GET", "/clock")
        assert (clock["paused"], clock["speed"]) == (True, 3600)

    async def test_nothing_is_due(self, emulator, open_page):
        """There is nothing to jump to; a speed of another client is shown."""
        page = await open_page(emulator)
        await expect(page.locator("#clock-note")).to_contain_text("nothing is due")
        await expect(page.get_by_role("button", name="Next event")).to_be_disabled()
        await control(emulator, "POST", "/clock/speed", {"speed": 2.5})
        await expect(page.get_by_label("Speed")).to_have_value("2.5")


@pytest.mark.programs
class TestFaults:
    async def test_the_next_create_loses_its_response(self, emulator, open_page, request_for):
        """A button is pressed; the create is executed, and its client does not know that."""
        page = await open_page(emulator)
        await page.get_by_role("button", name="Lose response").click()
        await expect(page.locator("#pending")).to_have_text("create: lose response")
        await expect(page.locator("#notice")).to_contain_text("The next create gets")
        async with client_of(emulator) as client:
            with pytest.raises(OutcomeUnknown):
                await client.vms.create(request_for("web-01"))
            await expect(rows(page)).to_contain_text(["web-01"])
            lost = request_of(page, "fault: lose response")
            await expect(lost.locator(".status")).to_have_text("lost")
            await expect(lost.locator(".who")).to_have_text(
                re.compile(r"create · 127\.0\.0\.1:\d+ waited [\d.]+ m?s$")
            )
            await expect(page.locator("#injected")).to_have_text("1 fault injected")
            await expect(page.locator("#pending li")).to_have_count(0)
            await client.vms.list()
        await expect(page.locator("#requests li")).not_to_have_count(1)
        await page.get_by_label("Failed").check()
        await expect(page.locator("#requests li")).to_have_count(1)

    async def test_calls_and_removal(self, emulator, open_page):
        """Faults that only fit some calls cannot be pressed for others; all can be removed."""
        page = await open_page(emulator)
        old = page.get_by_role("button", name="Old list")
        await expect(old).to_be_disabled()
        await page.get_by_label("In the next").select_option("list")
        await old.click(click_count=2)
        await expect(page.locator("#pending")).to_have_text("list: old list \u00d72")
        plan = {"fault": [{"kind": "html", "probability": 0.25}]}
        await control(emulator, "PUT", "/faults", plan)
        await expect(page.locator("#pending")).to_have_text("any: proxy page, 25%")
        await page.get_by_role("button", name="Remove all").click()
        await expect(page.locator("#pending li")).to_have_count(0)
        assert emulator.api.faults.is_empty


@pytest.mark.programs
class TestTimeline:
    async def test_the_history_of_a_vm(self, emulator, open_page, request_for):
        """Its states and operations in order, also those that happen while it is shown."""
        page = await open_page(emulator)
        async with client_of(emulator) as client:
            task = await client.vms.create(request_for("web-01"))
            await control(emulator, "POST", "/clock/step", {"seconds": 60})
            await rows(page).get_by_role("button", name="web-01").click()
            history = page.locator("#history li")
            first = ["create accepted", "installing", "online", "create finished: done"]
            await expect(history).to_contain_text(first)
            await expect(page.locator("#detail-title")).to_be_focused()
            await expect(page.locator("#spec")).to_contain_text(task.vm_id)
            await client.vms.resize(task.vm_id, cores=2, ram=2048)
            await client.vms.reboot(task.vm_id)
            await expect(history).to_contain_text([*first, "resize accepted", "reboot accepted"])
            bars = page.locator("#graph .bar")
            await expect(bars).to_have_text(["installing", "online", "create"])
            await control(emulator, "POST", "/clock/step", {"seconds": 1})
            await expect(bars).to_have_text(["installing", "online", "create", "resize", "reboot"])
            await control(emulator, "POST", "/clock/step", {"seconds": 600})
            await expect(history.last).to_contain_text("finished: done")
            await expect(history).to_contain_text(["offline, 1 core", "online, 2 cores, 2 GB"])
            created, changed = request_of(page, "PUT"), request_of(page, "POST")
            await expect(created).to_have_count(1)
            await page.get_by_label("This VM").check()
            await expect(created).to_have_count(0)
            await expect(changed).to_contain_text(["/reboot", "/resize"])
        async with page.expect_response(lambda response: response.request.method == "PATCH"):
            await page.get_by_label("Guest ignores ACPI").check()
        path = f"/vms/{task.vm_id}/settings"
        settings = await control(emulator, "GET", path)
        assert (settings["acpi"], settings["fail_state"]) == ("ignore", None)
        await control(emulator, "PATCH", path, {"acpi": "honour", "fail_state": "error"})
        await expect(page.get_by_label("Guest ignores ACPI")).not_to_be_checked()
        await expect(page.get_by_label("Operations fail")).to_be_checked()

    async def test_the_keyboard(self, emulator, open_page):
        """Tab reaches one row, arrows the others, Enter opens one, Escape goes back to it."""
        for name in ("web-1", "db-1", "web-2"):
            place(emulator, name)
        page = await open_page(emulator)
        await page.get_by_label("Filter VMs").fill("web")
        await expect(rows(page)).to_have_count(2)
        await page.get_by_role("button", name="online").focus()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="web-1")).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await expect(page.get_by_role("button", name="web-2")).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await expect(page.locator("#detail-title")).to_be_focused()
        await expect(page.locator("#detail-title")).to_have_text("web-2")
        await page.keyboard.press("Escape")
        await expect(page.locator("#detail")).to_be_hidden()
        await expect(page.get_by_role("button", name="web-2")).to_be_focused()
        await page.keyboard.press("ArrowUp")
        await expect(page.get_by_role("button", name="web-1")).to_be_focused()


@pytest.mark.programs
class TestConnection:
    async def test_the_token(self, emulator, open_page):
        """It leaves the address bar at once; this tab keeps it, and another one asks for it."""
        page = await open_page(emulator)
        await expect(link(page)).to_have_text("connected")
        assert page.url == f"{emulator.url}/"
        await page.reload()
        await expect(link(page)).to_have_text("connected")
        other = await open_page(emulator, url=emulator.url)
        await expect(link(other)).to_have_text("no token")
        await expect(other.locator("#main")).to_be_hidden()
        await other.get_by_label("Control token").fill("a-wrong-control-token")
        await other.get_by_role("button", name="Connect").click()
        await expect(link(other)).to_have_text("wrong token")
        await expect(other.locator("#access-reason")).to_contain_text("refuses this token")
        other.problems = [text for text in other.problems if not reports_request(text)]
        await other.get_by_label("Control token").fill(TOKEN)
        await other.get_by_role("button", name="Connect").click()
        await expect(link(other)).to_have_text("connected")
        await expect(other.locator("#access")).to_be_hidden()

    async def test_the_emulator_restarts(self, browser, open_page):
        """The page shows that it is not connected, connects again, and has the new cloud."""
        async with paged() as first:
            place(first, "web-1")
            page = await open_page(first)
            await expect(rows(page)).to_have_count(1)
            port = int(first.url.rpartition(":")[2])
        await expect(link(page)).to_have_text("not connected")
        await expect(page.locator("#offline")).to_contain_text("The emulator is not running")
        await expect(rows(page)).to_have_count(1)
        await expect(page.get_by_role("button", name="+1 h")).to_be_disabled()
        async with paged(port=port) as second:
            place(second, "db-1")
            await expect(link(page)).to_have_text("connected")
            await expect(rows(page)).to_have_text([re.compile("db-1")])
            await expect(page.locator("#offline")).to_be_hidden()
            await expect(page.get_by_role("button", name="+1 h")).to_be_enabled()
        async with paged(port=port, control_token="another-control-token") as third:
            await expect(link(page)).to_have_text("wrong token")
            await page.goto(third.page_url)  # only the fragment differs
            await expect(link(page)).to_have_text("connected")
            assert page.url == f"{third.url}/"
        page.problems = [text for text in page.problems if not reports_request(text)]

    async def test_too_many_listeners(self, emulator, open_page):
        """The reason is shown, and the page connects when one of them has left."""
        async with contextlib.AsyncExitStack() as others:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            session = await others.enter_async_context(aiohttp.ClientSession(headers=headers))
            for _ in range(16):
                await others.enter_async_context(session.get(f"{emulator.url}/_emulator/events"))
            page = await open_page(emulator)
            await expect(page.locator("#offline")).to_contain_text("16 listeners already")
        await expect(link(page)).to_have_text("connected")
        page.problems = [text for text in page.problems if not reports_request(text)]

    async def test_a_refused_action(self, emulator, open_page):
        """Its reason is shown."""
        page = await open_page(emulator)
        await control(emulator, "POST", "/clock/jump", {"to": "9000-12-31T22:30:00Z"})
        await page.get_by_role("button", name="+1 h").click()
        await page.get_by_role("button", name="+1 h").click()
        await expect(page.locator("#notice")).to_have_text(
            "the clock cannot go beyond the year 9000"
        )
        page.problems = [text for text in page.problems if not reports_request(text)]


OVERFLOW = "document.documentElement.scrollWidth - innerWidth"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
# Text that is cut without an ellipsis, or that reaches over its panel.
CUT = """
[...document.querySelectorAll('button, label, h1, h2, p, dd, .chip')].filter((node) =>
  node.offsetParent && node.scrollWidth > node.clientWidth + 1
  && getComputedStyle(node).textOverflow !== 'ellipsis'
  && getComputedStyle(node).display !== 'inline'
).map((node) => node.outerHTML)
"""


@pytest.mark.programs
class TestLayout:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_a_phone_and_a_desktop(self, emulator, open_page, request_for, scheme):
        """Nothing reaches over the edge, is cut off, or moves; colours follow the system."""
        await control(emulator, "POST", "/vms", {"name": "web", "count": 24, "cores": 2})
        for number in range(1, 4):
            place(emulator, f"db-{number:02}", cores=8, ram=16384, state="offline")
        page = await open_page(emulator, color_scheme=scheme)
        async with client_of(emulator) as client:
            task = await client.vms.create(request_for("api-01", cpus=2, ram=4096))
            await control(emulator, "POST", "/clock/step", {"seconds": 95})
            await client.vms.resize(task.vm_id, cores=4, ram=8192)
            await client.vms.reboot(next(iter(emulator.cloud.vms)))
            await control(emulator, "POST", "/clock/step", {"seconds": 12})
            await page.get_by_role("button", name="Lose response").click()
            with pytest.raises(OutcomeUnknown):
                await client.vms.create(request_for("api-02", cpus=2, ram=4096))
            await client.vms.get(task.vm_id)
            with pytest.raises(NotFound):
                await client.vms.get("no-such-vm")
        await page.get_by_role("button", name="Error 500").click()
        await page.get_by_role("button", name="api-01").click()
        await expect(page.locator("#history li")).to_have_count(6)
        await expect(page.locator("#pending")).to_have_text("create: error 500")
        if folder := os.environ.get("PAGE_SCREENSHOTS"):
            await expect(page.locator("#notice")).to_be_empty()
            await page.screenshot(path=f"{folder}/emulator-page-{scheme}.png")
        await page.get_by_role("button", name="Close", exact=True).click()
        place(emulator, "a-very-long-name-of-a-vm-" * 3, cores=32, ram=131072)
        await page.get_by_role("button", name="a-very").click()
        await expect(page.locator("#history li")).to_have_count(1)
        for width in (1280, 800, 400, 320):
            await page.set_viewport_size({"width": width, "height": 860})
            assert await page.evaluate(OVERFLOW) <= 0
            assert await page.evaluate(CUT) == []
        colour = [int(part) for part in re.findall(r"\d+", await page.evaluate(BACKGROUND))]
        assert (sum(colour) < 3 * 128) is (scheme == "dark")
        assert await page.evaluate("document.getAnimations().length") == 0
