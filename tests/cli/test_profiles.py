"""Where the command connects, and with which credentials."""

import os
import sys

import pytest

from async_vmapi.cli import profile_file, profiles
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
        path = profile_file.profiles_path()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return write


class TestWhich:
    def test_a_named_profile(self, write):
        """By its name, or the default one."""
        write(GOOD)
        assert "warszawa" in repr(profiles.client_for("warsaw"))
        assert "127.0.0.1:1" in repr(profiles.client_for(None))

    def test_the_environment_precedes_the_default_profile(self, write, monkeypatch):
        """But not a named one; half of the variables are an error."""
        write(GOOD)
        for name, value in [("REGION", "nowhere"), ("API_KEY", "k"), ("API_SECRET", SECRET)]:
            monkeypatch.setenv(f"VMAPI_{name}", value)
        assert "nowhere" in repr(profiles.client_for(None))
        assert "warszawa" in repr(profiles.client_for("warsaw"))
        monkeypatch.delenv("VMAPI_API_KEY")
        with pytest.raises(InvalidArgument, match="VMAPI_API_KEY"):
            profiles.client_for(None)

    def test_no_credentials(self):
        """The error says both ways to give them."""
        with pytest.raises(InvalidArgument, match=r"VMAPI_API_KEY.*profiles\.toml"):
            profiles.client_for(None)
        with pytest.raises(InvalidArgument, match=r"profiles\.toml cannot be read"):
            profiles.client_for("warsaw")


class TestWrongFiles:
    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes")
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
    def test_other_users_may_not_access_the_file(self, write, mode):
        """Neither read it nor write it: that would send the key elsewhere."""
        write(GOOD, mode)
        with pytest.raises(InvalidArgument, match="chmod 600"):
            profiles.client_for(None)

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such owners")
    def test_the_file_belongs_to_the_user(self, write, monkeypatch):
        """Or to the administrator."""
        write(GOOD)
        owner = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: owner)
        monkeypatch.setattr(profile_file, "_ADMINISTRATOR", owner + 1)
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
    def test_errors_name_file_and_profile(self, write, text, word):
        """And show none of the values."""
        path = write(text)
        with pytest.raises(InvalidArgument) as info:
            profiles.client_for(None)
        assert word in str(info.value)
        assert str(path) in str(info.value)
        assert SECRET not in str(info.value)
