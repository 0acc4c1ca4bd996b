"""The web service as it is deployed: two processes and one cloud, and a page in a browser."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from async_vmapi.emulator import Settings
from tests.forked import unmeasured

pytestmark = pytest.mark.programs

EXAMPLES = Path(__file__).parents[2] / "examples"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE = 60.0
"""Seconds for what takes one or two: the computer may be very busy."""


@pytest.fixture
def vm_settings():
    """A cloud in which nothing happens before the test lets time pass."""
    return Settings().changed(
        create=600, not_found=0, address=0, resize=600, delete=0.5, stale=0, shutdown=0
    )


class Worker:
    """One server process on a port of its own, which it keeps when it is restarted."""

    def __init__(self, environment):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = environment
        self._process = None

    def spawn(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "web_backend", "--port", str(self.port), "--grace", "1"],
            cwd=EXAMPLES,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return self

    def start(self):
        """Start it if need be, and wait until it listens."""
        if self._process is None:
            self.spawn()
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            assert self._process.poll() is None, self._process.stdout.read()
            assert time.monotonic() < end
            time.sleep(0.05)

    def stop(self, number=signal.SIGTERM):
        """End it, and return its output."""
        process, self._process = self._process, None
        if process is None:
            return b""
        process.send_signal(number)
        return process.communicate(timeout=PATIENCE)[0]


@pytest.fixture
def workers(vm_server):
    """Two processes that share nothing but the cloud."""
    kept = {n: v for n, v in unmeasured(os.environ).items() if not n.startswith("VMAPI_")}
    pair = [Worker(kept | vm_server.env).spawn() for _ in range(2)]
    try:
        yield [worker.start() for worker in pair]
    finally:
        printed = b"".join(worker.stop() for worker in pair)
        assert b"Traceback" not in printed, printed.decode()
        assert vm_server.api_secret.encode() not in printed


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def page(tmp_path):
    """A page in a new browser."""
    chromium = shutil.which("chromium")
    assert chromium, "this test needs Debian's chromium: apt-get install chromium"
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=chromium,
            headless=True,
            args=FLAGS,
            viewport={"width": 1120, "height": 640},
        ) as browser,
    ):
        page = browser.pages[0]
        page.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page


class TestProcesses:
    def test_a_killed_worker_loses_nothing(self, workers, vm_server):
        """A token of the one shows everything in the other, also when the one was killed."""
        first, second = workers
        with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
            new = {"name": "web-01", "cpus": 1, "ram": 1024}
            accepted = client.post(f"{first.url}/api/vms", json=new)
            assert accepted.status_code == 202
            where = accepted.headers["Location"]
            first.stop(signal.SIGKILL)
            vm_server.cloud.elapse(600)
            task_status = client.get(second.url + where, params={"wait": 30}).json()
            assert (task_status["status"], task_status["name"]) == ("done", "web-01")
            first.start()
            # It knows only the create's token, and sees its completion.
            assert client.get(first.url + where, params={"wait": 30}).json()["status"] == "done"
        assert vm_server.cloud.requests["create"] == 1
        assert len(vm_server.cloud.vms) == 1


class TestPage:
    def test_the_fleet_changes_while_a_server_is_restarted(self, workers, vm_server, page):
        """A create and a resize from the page, a restart in each; then the other server's page."""
        first, second = workers
        cloud = vm_server.cloud
        cloud.add("db-01", cores=4, ram=8192)
        cloud.add("cache-01", state="offline", cores=2, ram=2048)
        page.goto(first.url)
        rows = page.locator("#fleet tr")
        expect(rows).to_have_count(2)
        expect(page.locator("#summary")).to_have_text("1 online, 1 offline")

        page.get_by_label("Name").fill("web-01")
        page.get_by_role("button", name="Create").click()
        expect(rows).to_have_count(3)
        expect(rows.nth(2).locator(".state")).to_have_text("installing")
        first.stop()
        expect(page.locator("#link")).to_have_text("connecting")
        first.start()
        expect(page.locator("#link")).to_have_text("live")
        cloud.elapse(600)
        expect(rows.nth(2).locator(".state")).to_have_text("online")
        newest = page.locator("#tasks li").first
        expect(newest).to_contain_text("done")
        expect(newest).to_contain_text("web-01")

        rows.nth(2).get_by_role("combobox").select_option("2 2048")
        expect(newest).to_contain_text("resize")
        expect(newest.locator(".states")).to_contain_text("online")
        cloud.elapse(210)
        expect(rows.nth(2).locator(".state")).to_have_text("offline")
        expect(newest).to_contain_text("in progress")
        if shot := os.environ.get("PAGE_SCREENSHOT"):
            page.screenshot(path=shot)
        first.stop()
        asked = cloud.requests["get"]
        first.start()
        until(lambda: cloud.requests["get"] > asked)  # the new process polls the VM
        cloud.elapse(400)
        expect(rows.nth(2).locator(".size")).to_have_text("2 CPUs, 2 GB")
        expect(newest).to_contain_text("done")
        expect(newest.locator(".states")).to_have_text(
            re.compile(r"^online \S+ s → offline \S+ s → online \S+ s$")
        )
        page.reload()
        expect(page.locator("#tasks li")).to_have_count(2)  # from the browser's own storage
        assert cloud.requests["create"] == cloud.requests["resize"] == 1

        page.goto(second.url)
        expect(rows).to_have_count(3)
        expect(page.locator("#idle")).to_be_visible()  # another site's storage
        page.get_by_label("Name").fill("web-02")
        cloud.fail_next("create", "success_false")
        page.get_by_role("button", name="Create").click()
        expect(page.locator("#refusal")).to_contain_text("refused")
        page.on("dialog", lambda dialog: dialog.accept())
        rows.nth(2).get_by_role("button", name="Delete").click()
        expect(rows).to_have_count(2)
        assert page.errors == []
