"""Find the secrets that a `SecretRef` stands for, on the worker that sends them."""

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

import attrs

from async_vmapi import arguments
from async_vmapi.errors import InvalidArgument
from async_vmapi.models import CreateRequest, ImageBoot, SecretRef

__all__ = ["ENV_PREFIX", "SecretStore", "Secrets"]

Secrets: TypeAlias = Callable[[str], str | Awaitable[str]]
"""A function that returns the secret of a name, or an awaitable of it."""

ENV_PREFIX: Final = "VMAPI_SECRET_"
"""Environment variables of this prefix are meant to be referred to."""

_ENVIRONMENT: Final = "env:"

_NEVER: Final = ("VMAPI_API_KEY", "VMAPI_API_SECRET", "VMAPI_DATABASE", "DATABASE_URL")
_NEVER_PREFIXES: Final = ("PG", "DBOS_")
"""The worker's own: whoever may submit jobs would get them into a VM of theirs."""

_PATIENCE: Final = 60.0
"""Seconds that a coroutine function gets to find a secret."""


class SecretStore:
    """Which secrets a worker gives to the jobs that it works on.

    Args:
        function: Returns the secret of a name that does not begin with ``env:``; None for none.
        names: Environment variables that jobs may refer to, besides those that begin with
            `ENV_PREFIX`.

    Raises:
        InvalidArgument: If a name is none, or is one of the worker's own credentials.
    """

    def __init__(self, function: Secrets | None = None, names: Iterable[str] = ()) -> None:
        if function is not None and not callable(function):
            raise arguments.refuse("secrets", function, "a function")
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise arguments.refuse("secret_names", names, "names of environment variables")
        self._function = function
        self._names = frozenset(arguments.text("secret_names", name) for name in names)
        for name in sorted(self._names):
            if _is_own(name):
                raise InvalidArgument(
                    f"secret_names={name!r} is a credential of the worker, which no job gets; "
                    f"allowed are other environment variables, and {ENV_PREFIX}* without naming",
                    argument="secret_names",
                )

    async def resolved(self, request: CreateRequest) -> CreateRequest:
        """Return the request with its secrets in place of their references.

        Raises:
            InvalidArgument: If one is not allowed or not there; no secret is in its text.
        """
        boot = request.boot
        if not isinstance(boot, ImageBoot) or not boot.references:
            return request
        found = {name: await self._find(getattr(boot, name)) for name in boot.references}
        return attrs.evolve(request, boot=attrs.evolve(boot, **found))

    async def _find(self, reference: SecretRef) -> str:
        name = reference.name
        if name.startswith(_ENVIRONMENT):
            return self._variable(name)
        if self._function is None:
            raise _missing(name, "this worker was given no function for secrets")
        try:
            found: object = self._function(name)
            if inspect.isawaitable(found):
                async with asyncio.timeout(_PATIENCE):
                    found = await found
        except Exception as error:  # noqa: BLE001 - whatever a caller's function raises
            # Its text may hold anything.
            why = f"the function for secrets raised {type(error).__name__}"
            raise _missing(name, why) from None
        if not isinstance(found, str) or not found:
            # Without it, a VM would come to be that nobody can enter.
            raise _missing(name, f"the function for secrets returned no text, but {_kind(found)}")
        return found

    def _variable(self, reference: str) -> str:
        name = reference.removeprefix(_ENVIRONMENT)
        if _is_own(name):
            raise _missing(reference, "it is a credential of the worker, which no job gets")
        if name not in self._names and not name.startswith(ENV_PREFIX):
            raise _missing(
                reference,
                f"this worker does not allow it; name the variable {ENV_PREFIX}*, or start the "
                f"worker with --secret {name} (secret_names=[{name!r}])",
            )
        value = os.environ.get(name)
        if not value:
            raise _missing(reference, "it is not set on this worker")
        return value


def _is_own(name: str) -> bool:
    # Windows knows no case in them.
    name = name.upper()
    return name in _NEVER or name.startswith(_NEVER_PREFIXES)


def _kind(found: object) -> str:
    return "an empty one" if isinstance(found, str) else f"a {type(found).__name__}"


def _missing(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"secret {name!r} cannot be found: {why}", argument="secrets")
