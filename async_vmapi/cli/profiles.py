"""The endpoint and credentials of a command, from the environment or a profile.

A profile is a table of ``profiles.toml`` in the user's configuration folder::

    [default]
    region = "eu-poland-1warszawa"     # or url = "https://..."
    api_key = "..."
    api_secret = "..."
    max_requests_per_second = 10       # and other numeric arguments of Client

The file is rejected if users other than its owner can read or change it.
"""

import os
import stat
import sys
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from platformdirs import user_config_path

from async_vmapi.cli.running import run
from async_vmapi.errors import InvalidArgument
from async_vmapi.redaction import Secret
from async_vmapi.telemetry.logs import logger_of

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["ask", "client_for", "profiles_path"]

T = TypeVar("T")

_log: Final = logger_of(__name__)
_VARIABLES: Final = ("VMAPI_URL", "VMAPI_REGION", "VMAPI_API_KEY", "VMAPI_API_SECRET")
_NUMBERS: Final = frozenset(
    {
        "timeout",
        "connect_timeout",
        "max_connections",
        "max_requests_per_second",
        "max_retries",
        "reconcile_timeout",
        "max_staleness",
        "min_poll_interval",
        "max_poll_interval",
    }
)
_DEFAULT: Final = "default"
_ADMINISTRATOR: Final = 0


def profiles_path() -> Path:
    """Return the path of the profiles file."""
    return user_config_path("async-vmapi", appauthor=False) / "profiles.toml"


def client_for(profile: str | None) -> "Client":
    """Return a client for a profile; by default for the environment, else for ``default``.

    Raises:
        InvalidArgument: If there are no credentials, or the file or a value is invalid.
    """
    # Not needed for help and completion, and slow to import.
    from async_vmapi.client import Client

    path = profiles_path()
    if profile is None and not any(map(os.environ.get, _VARIABLES)):
        if not path.exists():
            raise InvalidArgument(
                f"no credentials: set VMAPI_API_KEY, VMAPI_API_SECRET and VMAPI_REGION or "
                f"VMAPI_URL, or add a profile to {path}",
                argument="profile",
            )
        profile = _DEFAULT
    client = Client.from_env() if profile is None else _client_of(path, profile)
    source = "the environment" if profile is None else f"profile {profile!r} of {path}"
    extra = {"vmapi_endpoint": client.origin}
    _log.debug("the endpoint is %s, from %s", client.origin, source, extra=extra)
    return client


def ask(client: "Client", call: "Callable[[Client], Awaitable[T]]") -> T:
    """Call the API and return the result; the client can be used again afterwards."""

    async def called() -> T:
        async with client:
            return await call(client)

    return run(called())


def _client_of(path: Path, name: str) -> "Client":
    from async_vmapi.client import Client

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f"profile {name!r} of {path}: {why}", argument="profile")

    found = _read(path, name)
    if found is None:
        raise refuse("no such profile")
    url, region, key = (_revealed(found.pop(key, None)) for key in ("url", "region", "api_key"))
    secret = found.pop("api_secret", Secret(None))
    if not key or not secret.reveal():
        raise refuse("api_key and api_secret are required")
    if (url is None) == (region is None):
        raise refuse("either url or region is required")
    # Names only: the value of a misspelt name may be the secret.
    if unknown := sorted(found.keys() - _NUMBERS):
        raise refuse(f"unknown settings: {', '.join(unknown)}")
    numbers = {name: _revealed(value) for name, value in found.items()}
    try:
        if region is not None:
            return Client.for_region(region, api_key=key, api_secret=_revealed(secret), **numbers)
        return Client(url, api_key=key, api_secret=_revealed(secret), **numbers)
    except InvalidArgument as error:
        raise refuse(str(error)) from None


def _revealed(value: Secret | None) -> Any:
    return None if value is None else value.reveal()


def _read(path: Path, name: str) -> dict[str, Secret] | None:
    """Return a profile's settings, each value hidden; None if there is no such profile."""

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f"{path} {why}", argument="profile")

    problem, settings = "", None
    try:
        # Check the open file, which is the one that is read.
        with path.open("rb") as file:
            if sys.platform != "win32":
                status = os.fstat(file.fileno())
                if status.st_uid not in (os.geteuid(), _ADMINISTRATOR):
                    raise refuse("belongs to another user")
                if stat.S_IMODE(status.st_mode) & 0o077:
                    raise refuse("is accessible to other users: run chmod 600 on it")
            settings = tomllib.load(file).get(name)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        problem = "is not valid TOML"
    if problem:
        # Not inside the except block: the error's message and frames may hold a secret.
        raise refuse(problem)
    if not isinstance(settings, dict):
        return None
    return {key: Secret(value) for key, value in cast("dict[str, Any]", settings).items()}
