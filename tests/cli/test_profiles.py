"""Where the command connects and with which credentials."""

import os
import sys

import pytest

from async_vmapi.cli import profiles
from async_vmapi.errors import InvalidArgument

SECRET = "planted-secret"
GOOD = f"""
[default]
url = "http://127.0.0.1:1"
api_key = "k"
api_secret = "{SECRET}"
max_requests_per_second = 10
[warsaw]
region = "eu-poland-1warszawa"
api_key = "k"
api_secret = "{SECRET}"
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty configuration folder, and an environment without credentials."""
    for name in list(os.environ):
        if name.startswith("VMAPI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def write(home):
    """Write the file of profiles."""

    def write(text, mode=0o600):
        path = profiles.profiles_path()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return write


class TestWhich:
    def test_the_profile_that_is_named(self, write):
        """By its name, or the default one."""
        write(GOOD)
        assert "warszawa" in repr(profiles.client_for("warsaw"))
        assert "127.0.0.1:1" in repr(profiles.client_for(None))

    def test_the_environment_comes_before_the_default_one(self, write, monkeypatch):
        """But not before one that is named; half of it is an error, and no reason to go on."""
        write(GOOD)
        for name, value in [("REGION", "nowhere"), ("API_KEY", "k"), ("API_SECRET", SECRET)]:
            monkeypatch.setenv(f"VMAPI_{name}", value)
        assert "nowhere" in repr(profiles.client_for(None))
        assert "warszawa" in repr(profiles.client_for("warsaw"))
        monkeypatch.delenv("VMAPI_API_KEY")
        with pytest.raises(InvalidArgument, match="VMAPI_API_KEY"):
            profiles.client_for(None)

    def test_none_at_all(self):
        """It says both ways to give them."""
        with pytest.raises(InvalidArgument, match=r"VMAPI_API_KEY.*profiles\.toml"):
            profiles.client_for(None)
        with pytest.raises(InvalidArgument, match=r"profiles\.toml cannot be read"):
            profiles.client_for("warsaw")


class TestWrongFiles:
    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes")
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
    def test_others_may_not_read_it(self, write, mode):
        """Nor change it: that would send the key elsewhere."""
        write(GOOD, mode)
        with pytest.raises(InvalidArgument, match="chmod 600"):
            profiles.client_for(None)

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such owners")
    def test_it_is_the_users_own(self, write, monkeypatch):
        """Or the administrator's."""
        write(GOOD)
        owner = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: owner)
        monkeypatch.setattr(profiles, "_ADMINISTRATOR", owner + 1)
        with pytest.raises(InvalidArgument, match="another user"):
            profiles.client_for(None)

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            (f'[default]\napi_secret = "{SECRET}', "not valid TOML"),
            (b"\xff", "not valid TOML"),
            ('[other]\napi_key = "k"', "no such profile"),
            ('default = "k"', "no such profile"),
            ('[default]\nregion = "a"\napi_key = "k"', "api_secret"),
            (f'[default]\napi_key = "k"\napi_secret = "{SECRET}"', "url or region"),
            (
                GOOD.replace("max_requests_per_second", "max_requests"),
                "unknown settings: max_requests",
            ),
            (GOOD.replace("= 10", "= 0"), "max_requests_per_second"),
            (GOOD.replace('"http', f'"{SECRET}@http'), "base_url"),
            (GOOD.replace(f'"{SECRET}"', "5"), "api_secret"),
        ],
    )
    def test_what_is_wrong_is_told(self, write, text, word):
        """With the file's and the profile's name, and without what stands there."""
        path = write(text)
        with pytest.raises(InvalidArgument) as info:
            profiles.client_for(None)
        assert word in str(info.value)
        assert str(path) in str(info.value)
        assert SECRET not in str(info.value)
