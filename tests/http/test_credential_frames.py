"""No frame shows a secret where it is read: from a profile, a file, a variable, a function."""

import asyncio

import pytest
import typer

from async_vmapi import Client, CreateRequest, ImageBoot, InvalidArgument, SecretRef, VMAPIError
from async_vmapi.cli import profiles, requests
from async_vmapi.cli.options import New
from async_vmapi.durable.secrets import SecretStore
from async_vmapi.emulator import CloudAPI

from .frames import leaks

SECRET = 'planted-"secret"/ż'
TOML = "'" + SECRET + "'"
ZONE = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
HIDDEN = (SECRET, "planted")
"""Its beginning too: a file's lines are cut and quoted in many ways."""


def found_in(error):
    return leaks(error, HIDDEN, besides=(__file__,))


class TestProfiles:
    GOOD = f"url = 'https://x.y'\napi_key = 'k'\napi_secret = {TOML}\n"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            f"[other]\n{GOOD}",
            f"default = {TOML}",
            f"[default]\n{GOOD}region = 'r'",
            f"[default]\n{GOOD.replace('https', 'ftp')}",
            f"[default]\n{GOOD.replace('api_key', 'max_connections')}",
            f"[default]\n{GOOD}max_retries = -1",
            f"[default]\n{GOOD}timeout = {{ x = 1 }}",
            f"[default]\n{GOOD}api_secert = {TOML}",
            f"[default]\napi_secert = {TOML}",
            f"[default]\nurl = 'https://x.y'\napi_key = 'k'\napi_secret = [{TOML}]",
            f"[default]\n{GOOD}api_secret = {TOML}",
            f"[default]\n{GOOD}= {TOML}",
            f"[default]\n{GOOD}\udcff",
        ],
    )
    @pytest.mark.parametrize("mode", [0o600, 0o644])
    def test_a_wrong_file(self, tmp_path, monkeypatch, text, mode):
        """Whatever is wrong with it."""
        path = tmp_path / "profiles.toml"
        path.write_text(text, errors="surrogateescape")
        path.chmod(mode)
        monkeypatch.setattr(profiles, "profiles_path", lambda: path)
        with pytest.raises(InvalidArgument) as caught:
            profiles.client_for("default")
        assert found_in(caught.value) == []


class TestNewVMs:
    @pytest.mark.parametrize(
        "changes",
        [
            {"zone": "no zone"},
            {"template": "no template"},
            {"template": None},
            {"iso": "x", "template": None},
            {"template": "2291"},
            {"password_env": "PLAIN_MISSING"},
            {"user_data_env": "SECRET"},
            {"user_data": None, "user_data_env": "PLAIN_MISSING"},
            {"password_env": "SURROGATES"},
            {"user_data": "not UTF-8"},
            {"key": "no key"},
            {},
        ],
    )
    def test_a_wrong_create(self, tmp_path, monkeypatch, changes):
        """By its own fields, by its lookups, or by the cloud's refusal."""
        monkeypatch.setenv("SECRET", SECRET)
        monkeypatch.setenv("SURROGATES", f"{SECRET}\udcff")
        text, bytes_ = tmp_path / "user-data", tmp_path / "not UTF-8"
        text.write_text(SECRET, encoding="utf-8")
        bytes_.write_bytes(SECRET.encode() + b"\xff")
        given = {"template": "2268", "password_env": "SECRET", "user_data": text} | changes
        if given["user_data"] == "not UTF-8":
            given["user_data"] = bytes_
        cloud = CloudAPI(seed=1)
        client = Client.in_memory(cloud)
        if not changes:
            cloud.faults.fail_next("templates", "success_false")
        new = New(**({"cpus": 1, "ram": 1024, "zone": ZONE} | given))
        with pytest.raises((VMAPIError, typer.Exit)) as caught:
            requests.looked_up(client, ["web-01"], new)
        assert found_in(caught.value) == []

    def test_the_request_has_the_secrets(self, tmp_path, monkeypatch):
        """They are only hidden on the way."""
        monkeypatch.setenv("SECRET", SECRET)
        new = New(
            cpus=1, ram=1, zone=ZONE, template="2268", password_env="SECRET", user_data_env="SECRET"
        )
        (request,) = requests.looked_up(Client.in_memory(CloudAPI(seed=1)), ["web-01"], new)
        assert (request.boot.password, request.boot.user_data) == (SECRET, SECRET)


async def raising(_):
    await asyncio.sleep(0)
    found = SECRET
    raise KeyError(found)


def raising_at_once(_):
    found = SECRET
    raise KeyError(found)


class TestReferences:
    @pytest.mark.parametrize(
        "function",
        [
            raising,
            raising_at_once,
            lambda _: SECRET.encode(),
            lambda _: [SECRET],
            lambda _: f"{SECRET}\ud800",
            lambda name: SECRET if name == "one" else "",
            lambda name: SECRET if name == "one" else None,
        ],
    )
    async def test_a_wrong_function(self, function):
        """It raises, or returns something else; and one secret may be read before."""
        boot = ImageBoot(os="2268", password=SecretRef("one"), user_data=SecretRef("two"))
        request = CreateRequest(name="web-01", cpus=1, ram=1024, zone_id=ZONE, boot=boot)
        with pytest.raises(InvalidArgument) as caught:
            await SecretStore(function).resolved(request)
        assert leaks(caught.value, HIDDEN, besides=()) == []

    async def test_a_variable_that_is_not_set(self, monkeypatch):
        """While the other one is."""
        monkeypatch.setenv("VMAPI_SECRET_ONE", SECRET)
        first, second = SecretRef("env:VMAPI_SECRET_ONE"), SecretRef("env:VMAPI_SECRET_TWO")
        boot = ImageBoot(os="2268", password=first, user_data=second)
        request = CreateRequest(name="web-01", cpus=1, ram=1024, zone_id=ZONE, boot=boot)
        with pytest.raises(InvalidArgument) as caught:
            await SecretStore().resolved(request)
        assert found_in(caught.value) == []
        monkeypatch.setenv("VMAPI_SECRET_TWO", SECRET)
        resolved = await SecretStore().resolved(request)
        assert resolved.boot.password == resolved.boot.user_data == SECRET
