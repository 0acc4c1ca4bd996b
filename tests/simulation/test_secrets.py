"""No secret shows anywhere, in a full run with faults."""

import asyncio
import json
import logging
import traceback

import pytest

from async_vmapi import Client, CreateRequest, ImageBoot, OutcomeUnknown, TaskError, VMAPIError
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings, catalogue

pytestmark = pytest.mark.looptime

SECRET = "planted-api-secret-0123456789"
PASSWORD = 'planted "password" \\ ü'
USER_DATA = "#cloud-config planted-user-data\nrunwhat: 'é'"
CONSOLE_PASSWORD = "planted-console-password"
ACCOUNT_SECRETS = ["planted-account-secret", "planted-s3-secret"]
ZONE = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
KINDS = [
    *("drop_before", "drop_after", "truncated", "html", "success_false", "wrong_content_type"),
    *("stale_list", "not_found", "unknown_state", "rate_limited", "slow_body", "stall", "refuse"),
]


def everything_of(error):
    """Return all that can be read from an error and what is attached to it."""
    seen, todo = [], [error]
    while todo:
        current = todo.pop()
        if current is not None and current not in seen:
            seen.append(current)
            todo += [current.__cause__, current.__context__]
            todo += getattr(current, "exceptions", ())
    shown = "".join(traceback.format_exception(error))
    notes = [note for one in seen for note in getattr(one, "__notes__", [])]
    return shown + "".join(f"{e} {e!r} {e.args!r} {vars(e)!r}" for e in seen) + "".join(notes)


class Listener:
    """Collects all that the program shows, and the signatures that it must not show."""

    def __init__(self):
        self.shown = []
        self.signatures = set()

    def show(self, *things):
        for thing in things:
            self.shown += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self.shown.append(everything_of(thing))


@pytest.fixture
def cloud(monkeypatch):
    """A cloud that repeats every secret that it receives, and has its own."""
    listener = Listener()
    account = json.loads(json.dumps(catalogue.ACCOUNT)) | {
        "api": [{"secret_key": ACCOUNT_SECRETS[0]}],
        "e24files": {"s3": {"secret_key": ACCOUNT_SECRETS[1]}},
    }
    plan = FaultPlan(
        [
            *(Fault(kind=kind, probability=0.015) for kind in KINDS),
            *(
                Fault(kind="server_error", status=status, after=after, probability=0.01)
                for status in (500, 502, 503, 504)
                for after in (True, False)
            ),
        ],
        seed=4,
    )
    api = CloudAPI(
        settings=Settings(create=(5, 20), stale=(0, 2)), seed=4, api_secret=SECRET, faults=plan
    )
    handle = api.handle
    refusals = iter(range(10**6))

    def repeat(request, **when):
        signature = request.headers["Authorization"]
        listener.signatures |= {signature, signature.partition(":")[2]}
        response = handle(request, **when)
        if request.target == "/v2/account":
            content = {"success": True, "account": account}
        elif next(refusals) % 12 == 5:
            # A refusal that quotes the whole request, in the server's own words.
            sent = request.body.decode()
            words = {"got": sent, "headers": dict(request.headers), "secret": SECRET}
            content = {"success": False, "errors": [words, json.loads(sent) if sent else None]}
        else:
            return response
        return type(response)(200, {}, json.dumps(content).encode())

    monkeypatch.setattr(api, "handle", repeat)
    monkeypatch.setattr(
        api.cloud,
        "console",
        lambda *_: {"host": "192.0.2.1", "port": 5900, "password": CONSOLE_PASSWORD},
    )
    return api, listener


async def live(client, number, listener):
    """Take a VM through every operation, showing each object."""
    request = CreateRequest(
        name=f"web-{number}",
        cpus=1,
        ram=1024,
        zone_id=ZONE,
        boot=ImageBoot(os="2268", password=PASSWORD, user_data=USER_DATA),
    )
    listener.show(request, request.boot, client)
    try:
        task = await client.vms.create(request, unique_name=bool(number % 2))
        async for event in task.events():
            listener.show(event, event.vm)
        vm = await task
        listener.show(task, vm, task.token(), task.history, task.last_seen)
        for operation in ("reboot", "shutdown", "power_on", "resize", "reset", "delete"):
            options = {"cores": 2, "ram": 2048, "wait_for": 0} if operation == "resize" else {}
            task = await getattr(client.vms, operation)(vm, **options)
            listener.show(task, task.token())
            await task
            listener.show(task, await client.account.ssh_keys())
            if operation == "shutdown":
                listener.show(await client.vms.console(vm))
                await client.vms.rename(vm, f"db-{number}")
    except VMAPIError as error:
        listener.show(error)
        if isinstance(error, OutcomeUnknown | TaskError):
            listener.show(error.token)


async def test_no_secret_shows_in_a_full_run_with_faults(cloud, caplog, capfd):
    """Nothing shown, logged or raised holds one."""
    caplog.set_level(logging.DEBUG)
    api, listener = cloud
    client = Client.in_memory(api, latency=0.05, seed=4, reconcile_timeout=10)
    lives = [asyncio.create_task(live(client, n, listener)) for n in range(60)]
    await asyncio.sleep(0.08)
    for victim in lives[:10]:
        victim.cancel()
    await asyncio.gather(*(asyncio.wait({one}) for one in lives))
    for one in lives:
        if one.cancelled():
            continue
        assert one.exception() is None
    listener.show(client, client.vms, client.unresolved, client.requests, *client.unresolved)
    listener.show(*vars(client).values(), api, api.faults, api.cloud)
    unresolved = len(client.unresolved)
    await client.close()
    out, err = capfd.readouterr()
    records = "".join(f"{record.getMessage()} {vars(record)!r}" for record in caplog.records)
    text = "".join(listener.shown) + caplog.text + records + out + err
    assert api.faults.injected.total() > 50
    assert "db-" in text
    assert unresolved > 0
    assert "OutcomeUnknown" in text
    assert "unresolved" in caplog.text
    forms = {
        form
        for secret in (SECRET, PASSWORD, USER_DATA, CONSOLE_PASSWORD, *ACCOUNT_SECRETS)
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    }
    assert len(listener.signatures) > 100
    # In parts too: a text that is cut off must not show the rest.
    for hidden in {*forms, *listener.signatures, "planted"}:
        assert hidden not in text, hidden
