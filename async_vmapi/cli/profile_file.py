"""The profiles file: endpoints and credentials by name.

A profile is a table of ``profiles.toml`` in the user's configuration folder::

    default_profile = "warsaw"         # without it, the profile named "default" is the default

    [warsaw]
    region = "eu-poland-1warszawa"     # or url = "https://..."
    api_key = "..."
    api_secret = "..."
    max_requests_per_second = 10       # and other numeric arguments of Client
    facts = "cloud.toml"               # a file in the same folder

The file is rejected if users other than its owner can read or change it. Shell completion reads it,
too, so this module imports little.
"""

import os
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from platformdirs import user_config_path

from async_vmapi.errors import InvalidArgument
from async_vmapi.redaction import Secret

__all__ = ["DEFAULT", "DEFAULT_KEY", "ProfileFile", "configured", "exists", "profiles_path", "read"]

DEFAULT: Final = "default"
"""The name of the default profile if the file names no other."""

DEFAULT_KEY: Final = "default_profile"
"""The key that names the default profile."""

_VARIABLES: Final = ("VMAPI_URL", "VMAPI_REGION", "VMAPI_API_KEY", "VMAPI_API_SECRET")
_ADMINISTRATOR: Final = 0


class ProfileFile(NamedTuple):
    """The content of the file.

    Attributes:
        path: The file.
        default: The name of the default profile, which may not exist.
        profiles: The settings of each profile; each value is hidden.
    """

    path: Path
    default: str
    profiles: Mapping[str, Mapping[str, Secret]]

    def settings(self, name: str) -> dict[str, Secret]:
        """Return the settings of a profile.

        Raises:
            InvalidArgument: If there is no such profile.
        """
        if name in self.profiles:
            return dict(self.profiles[name])
        known = ", ".join(sorted(self.profiles)) or "none"
        raise InvalidArgument(
            f"profile {name!r} of {self.path}: no such profile; there are: {known}. To store it, "
            "run: async-vmapi profile create NAME",
            argument="profile",
        )


def profiles_path() -> Path:
    """Return the path of the profiles file."""
    return user_config_path("async-vmapi", appauthor=False) / "profiles.toml"


def exists(path: Path) -> bool:
    """Return whether there is such a file, or something wrong with it that `read` reports."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # like a loop of symbolic links, which Path.exists() takes for no file
    return True


def configured() -> list[str]:
    """Return the set environment variables that precede the default profile."""
    return list(filter(os.environ.get, _VARIABLES))


def read(path: Path) -> ProfileFile:
    """Read the profiles file.

    Raises:
        InvalidArgument: If it cannot be read, is invalid, or is accessible to other users.
    """
    problem, content = "", dict[str, Any]()
    try:
        # Check the open file, which is the one that is read.
        with path.open("rb") as file:
            problem = _access_problem(file.fileno())
            if not problem:
                content = tomllib.load(file)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        problem = "is not valid TOML"
    default = content.get(DEFAULT_KEY, DEFAULT)
    if not isinstance(default, str):
        problem = f"has a {DEFAULT_KEY} that is not a name"
    if problem:
        # Not inside an except block: the error's message and frames may hold a secret.
        raise InvalidArgument(f"{path} {problem}", argument="profile")
    tables = {
        name: {key: Secret(value) for key, value in cast("dict[str, Any]", table).items()}
        for name, table in content.items()
        if isinstance(table, dict)
    }
    return ProfileFile(path, default, tables)


def _access_problem(descriptor: int) -> str:
    if sys.platform == "win32":
        return ""
    status = os.fstat(descriptor)
    if status.st_uid not in (os.geteuid(), _ADMINISTRATOR):
        return "belongs to another user"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return "is accessible to other users: run chmod 600 on it"
    return ""
