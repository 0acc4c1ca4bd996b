"""The emulator's page: how soon it shows a change, and whether it stays fluid with a large fleet.

Run it with ``python benchmarks/page.py``; it requires Playwright and Debian's chromium. The page of
a fleet is open in a headless browser while clients send so many requests a second, a tenth of them
reboots. It measures the time from a change of a VM to its cell in the page, that of the requests of
the page, that of a filter, and the frames: under this load, and when all VMs change at once.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import time

import aiohttp
from playwright.async_api import async_playwright
from results import machine

from async_vmapi import Client, VMAPIError

TOKEN = "a-control-token-for-benchmarks"
PROBE = """
window.frames_ms = [];
window.shown = {};
window.running = () => [...document.querySelectorAll('#vms .tag')].some((tag) => tag.textContent);
let before = performance.now();
(function frame(now) {
  frames_ms.push(now - before);
  before = now;
  requestAnimationFrame(frame);
})(before);
new MutationObserver((changes) => {
  for (const { target } of changes) {
    const text = target.textContent;
    // After the frame that draws it.
    if (text.startsWith('probe-')) requestAnimationFrame(() => { shown[text] ??= Date.now(); });
  }
}).observe(document.getElementById('vms'), { subtree: true, childList: true });
"""
FILTER = """
async (text) => {
  const filter = document.getElementById('filter');
  const began = performance.now();
  filter.value = text;
  filter.dispatchEvent(new Event('input'));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - began;
}
"""
RESPONSE = """
async (path) => {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem('control-token')}` };
  const began = performance.now();
  await (await fetch(`/_emulator${path}`, { headers })).text();
  return performance.now() - began;
}
"""


@contextlib.asynccontextmanager
async def served():
    """Run the emulator as a program, and return the variables that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "async_vmapi", "emulator", "--port", "0", "--page"),
        env=os.environ | {"VMAPI_CONTROL_TOKEN": TOKEN},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        lines = [(await process.stdout.readline()).decode() for _ in range(5)]
        yield dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
    finally:
        process.terminate()
        await process.wait()


class Control:
    """Sends requests to the control API."""

    def __init__(self, url, session):
        self._url = url
        self._session = session

    async def __call__(self, method, path, content=None):
        url = f"{self._url}/_emulator{path}"
        async with self._session.request(method, url, json=content) as response:
            assert response.status == 200, await response.text()
            return await response.json()


async def load(client, ids, rate):
    """Send so many requests a second until cancelled."""
    began = time.perf_counter()

    async def send(number):
        vm = ids[number * 7 % len(ids)]
        with contextlib.suppress(VMAPIError):
            await (client.vms.reboot(vm) if number % 10 == 0 else client.vms.get(vm))

    async with asyncio.TaskGroup() as tasks:
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.create_task(send(number))


async def until(page, condition):
    # Playwright's own way is forbidden by the policy of the page.
    while not await page.evaluate(condition):  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)


async def change_to_page(page, control, ids, count):
    """Return the milliseconds from changes of VMs to the frames that show them."""
    sent = {}
    for number, vm in zip(range(count), itertools.cycle(ids[1::10])):
        state = f"probe-{number}"
        sent[state] = time.time() * 1000
        await control("PATCH", f"/vms/{vm}", {"state": state})
        await asyncio.sleep(0.1)
    await until(page, f"Object.keys(shown).length >= {count}")
    shown = await page.evaluate("shown")
    return [shown[state] - at for state, at in sent.items()]


async def frames(page):
    """Return the frames since the last call."""
    taken = await page.evaluate("frames_ms.splice(0)")
    return {
        "frames": len(taken),
        "median_ms": round(statistics.median(taken), 1),
        "longest_ms": round(max(taken), 1),
        "above_50_ms": sum(frame > 50 for frame in taken),
    }


def spread(times):
    times = sorted(times)
    return {
        "count": len(times),
        "median_ms": round(statistics.median(times), 1),
        "p99_ms": round(times[len(times) * 99 // 100], 1),
        "longest_ms": round(times[-1], 1),
    }


async def measure(fleet, rate):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        served() as variables,
        aiohttp.ClientSession(headers=headers) as session,
        async_playwright() as playwright,
        Client(
            variables["VMAPI_URL"],
            api_key=variables["VMAPI_API_KEY"],
            api_secret=variables["VMAPI_API_SECRET"],
        ) as client,
    ):
        url = variables["VMAPI_URL"]
        control = Control(url, session)
        ids = (await control("POST", "/vms", {"name": "web", "count": fleet}))["ids"]
        chromium = shutil.which("chromium")
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        began = time.perf_counter()
        await page.goto(f"{url}/#token={TOKEN}")
        await until(page, f"document.querySelectorAll('#vms tr').length === {fleet}")
        found = {"until_shown_ms": round((time.perf_counter() - began) * 1000)}
        await page.evaluate(PROBE)
        loading = asyncio.create_task(load(client, ids, rate))
        await asyncio.sleep(2.0)
        await frames(page)
        found["change_to_page"] = spread(await change_to_page(page, control, ids, 100))
        found["frames_under_load"] = await frames(page)
        paths = ["", "/vms", "/clock", "/requests?limit=250", f"/vms/{ids[0]}/history"]
        found["responses_to_page"] = spread(
            [await page.evaluate(RESPONSE, path) for path in paths * 10]
        )
        words = ["web-1", "web-10", "web", "online", ""]
        found["filter"] = spread([await page.evaluate(FILTER, word) for word in words * 4])
        loading.cancel()
        await asyncio.wait([loading])
        await control("POST", "/clock/pause")
        for start in range(0, fleet, 50):
            await asyncio.gather(*map(client.vms.reboot, ids[start : start + 50]))
        await asyncio.sleep(1.0)
        await frames(page)
        await control("POST", "/clock/step", {"seconds": 3600})
        await until(page, "!running()")
        found["frames_all_vms_change"] = await frames(page)
        await browser.close()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0)
    options = parser.parse_args()
    figures = asyncio.run(measure(options.fleet, options.rate))
    print(json.dumps({"machine": machine(), "fleet": options.fleet, **figures}, indent=2))


if __name__ == "__main__":
    main()
