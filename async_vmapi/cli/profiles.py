"""The client of a command, for the environment or a profile."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from async_vmapi.cli.profile_file import configured, exists, profiles_path, read
from async_vmapi.cli.running import run
from async_vmapi.errors import InvalidArgument
from async_vmapi.redaction import Secret
from async_vmapi.telemetry.logs import logger_of

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["ask", "client_for", "client_of"]

T = TypeVar("T")

_log: Final = logger_of(__name__)
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


def client_for(profile: str | None) -> "Client":
    """Return a client for a profile; by default for the environment, else the default profile.

    Raises:
        InvalidArgument: If there are no credentials, or the file or a value is invalid.
    """
    # Not needed for help and completion, and slow to import.
    from async_vmapi.client import Client

    path = profiles_path()
    if profile is None and configured():
        client, source = Client.from_env(), "the environment"
    elif profile is None and not exists(path):
        raise InvalidArgument(
            "no credentials: store them with 'async-vmapi profile create NAME', or set "
            f"VMAPI_API_KEY, VMAPI_API_SECRET and VMAPI_REGION or VMAPI_URL (there is no {path})",
            argument="profile",
        )
    else:
        file = read(path)
        name = file.default if profile is None else profile
        client = client_of(path, name, file.settings(name))
        source = f"profile {name!r} of {path}"
    extra = {"vmapi_endpoint": client.origin}
    _log.debug("the endpoint is %s, from %s", client.origin, source, extra=extra)
    return client


def ask(client: "Client", call: "Callable[[Client], Awaitable[T]]") -> T:
    """Call the API and return the result; the client can be used again afterwards."""

    async def called() -> T:
        async with client:
            return await call(client)

    return run(called())


def client_of(path: Path, name: str, settings: Mapping[str, Secret]) -> "Client":
    """Return a client for the settings of a profile.

    Raises:
        InvalidArgument: If a setting is missing or invalid.
    """
    from async_vmapi.client import Client

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f"profile {name!r} of {path}: {why}", argument="profile")

    found = dict(settings)
    url, region, key = (_revealed(found.pop(key, None)) for key in ("url", "region", "api_key"))
    secret = found.pop("api_secret", Secret(None))
    if not key or not secret.reveal():
        raise refuse("api_key and api_secret are required")
    if (url is None) == (region is None):
        raise refuse("either url or region is required")
    # Names only: the value of a misspelt name may be the secret.
    if unknown := sorted(found.keys() - _NUMBERS - {"facts"}):
        raise refuse(f"unknown settings: {', '.join(unknown)}")
    if "facts" in found:
        # Relative to the file that names it.
        found["facts"] = Secret(path.parent / str(_revealed(found["facts"])))
    numbers = {name: _revealed(value) for name, value in found.items()}
    try:
        if region is not None:
            return Client.for_region(region, api_key=key, api_secret=_revealed(secret), **numbers)
        return Client(url, api_key=key, api_secret=_revealed(secret), **numbers)
    except InvalidArgument as error:
        raise refuse(str(error)) from None


def _revealed(value: Secret | None) -> Any:
    return None if value is None else value.reveal()
