"""Resolve the secrets of a `SecretRef`, on the worker that sends them."""

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias, cast

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.create import CreateRequest, ImageBoot, SecretRef
from async_vmapi.redaction import Secret

__all__ = ["ENV_PREFIX", "SecretStore", "Secrets"]

Secrets: TypeAlias = Callable[[str], str | Awaitable[str]]
"""A function that returns the secret for a name, or an awaitable of it."""

ENV_PREFIX: Final = "VMAPI_SECRET_"
"""Jobs may refer to environment variables with this prefix."""

_ENVIRONMENT: Final = "env:"

_NEVER: Final = ("VMAPI_API_KEY", "VMAPI_API_SECRET", "VMAPI_DATABASE", "DATABASE_URL")
_NEVER_PREFIXES: Final = ("PG", "DBOS_")
"""The worker's own credentials: a job could otherwise copy them to a VM."""

_PATIENCE: Final = 60.0
"""Timeout of a coroutine function in seconds."""


class SecretStore:
    """The secrets that jobs may use on a worker.

    Args:
        function: Returns the secret for a name that does not start with ``env:``; None if there
            are no such secrets.
        names: Environment variables that jobs may refer to, in addition to those that start with
            `ENV_PREFIX`.

    Raises:
        InvalidArgument: If a name is invalid, or is one of the worker's own credentials.
    """

    def __init__(self, function: Secrets | None = None, names: Iterable[str] = ()) -> None:
        if function is not None and not callable(function):
            raise validation.refuse(
                "secrets", function, "a function that takes a name and returns its secret"
            )
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise validation.refuse("secret_names", names, "names of environment variables")
        self._function = function
        self._names = frozenset(validation.text("secret_names", name) for name in names)
        for name in sorted(self._names):
            if _is_own(name):
                raise InvalidArgument(
                    f"secret_names={name!r} is a credential of the worker, which no job gets; "
                    f"allowed are other environment variables, and {ENV_PREFIX}* without naming",
                    argument="secret_names",
                )

    async def resolved(self, request: CreateRequest) -> CreateRequest:
        """Return the request with its references replaced by secrets.

        Raises:
            InvalidArgument: If a secret is not allowed or missing; the text contains no secret.
        """
        boot = request.boot
        if not isinstance(boot, ImageBoot) or not boot.references:
            return request
        # Still wrapped: `ImageBoot` accepts them, and no frame shows them if it refuses one.
        found: dict[str, Any] = {
            name: await self._find(getattr(boot, name)) for name in boot.references
        }
        return attrs.evolve(request, boot=attrs.evolve(boot, **found))

    async def _find(self, reference: SecretRef) -> Secret:
        name = reference.name
        if name.startswith(_ENVIRONMENT):
            return self._variable(name)
        if self._function is None:
            raise _missing(
                name,
                "this worker was given no function for secrets (DurableFleet(secrets=...)); "
                "without one, refer to env:VMAPI_SECRET_NAME",
            )
        found, why = Secret(None), ""
        try:
            found = Secret(self._function(name))
            if inspect.isawaitable(found.reveal()):
                async with asyncio.timeout(_PATIENCE):
                    found = Secret(await cast("Awaitable[object]", found.reveal()))
        except Exception as error:  # noqa: BLE001 - whatever a caller's function raises
            # The error's text may contain the secret, and its frames do.
            why = f"the function for secrets raised {type(error).__name__}"
        if not why and (kind := _unusable(found)):
            # Without a password, the VM would be inaccessible.
            why = f"the function for secrets returned no text, but {kind}"
        if why:
            raise _missing(name, why)
        return found

    def _variable(self, reference: str) -> Secret:
        name = reference.removeprefix(_ENVIRONMENT)
        if _is_own(name):
            raise _missing(reference, "it is a credential of the worker, which no job gets")
        if name not in self._names and not name.startswith(ENV_PREFIX):
            raise _missing(
                reference,
                f"this worker does not allow it; name the variable {ENV_PREFIX}*, or start the "
                f"worker with --secret {name} (secret_names=[{name!r}])",
            )
        value = Secret(os.environ.get(name) or "")
        if not value.text():
            raise _missing(reference, "it is not set on this worker")
        return value


def _is_own(name: str) -> bool:
    # On Windows, they are case-insensitive.
    name = name.upper()
    return name in _NEVER or name.startswith(_NEVER_PREFIXES)


def _unusable(found: Secret) -> str:
    """Describe a value that is not a secret text; return an empty string for one that is."""
    value = found.reveal()
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return "" if value else "an empty one"


def _missing(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"secret {name!r} cannot be found: {why}", argument="secrets")
