"""Find the secrets that a `SecretRef` stands for, on the worker that sends them."""

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import attrs

from async_vmapi.errors import InvalidArgument
from async_vmapi.models import CreateRequest, ImageBoot, SecretRef

__all__ = ["Secrets", "resolved"]

Secrets: TypeAlias = Callable[[str], str | Awaitable[str]]
"""A function that returns the secret of a name, or an awaitable of it."""

_ENVIRONMENT: Final = "env:"

_PATIENCE: Final = 60.0
"""Seconds that a coroutine function gets to find a secret."""


async def resolved(request: CreateRequest, secrets: Secrets | None) -> CreateRequest:
    """Return the request with its secrets in place of their references.

    Raises:
        InvalidArgument: If one cannot be found; no secret is in its text.
    """
    boot = request.boot
    if not isinstance(boot, ImageBoot) or not boot.references:
        return request
    found = {name: await _find(getattr(boot, name), secrets) for name in boot.references}
    return attrs.evolve(request, boot=attrs.evolve(boot, **found))


async def _find(reference: SecretRef, secrets: Secrets | None) -> str:
    name = reference.name
    if name.startswith(_ENVIRONMENT):
        value = os.environ.get(name.removeprefix(_ENVIRONMENT))
        if not value:
            raise _missing(name, "it is not set on this worker")
        return value
    if secrets is None:
        raise _missing(name, "this worker was given no function for secrets")
    try:
        found: object = secrets(name)
        if inspect.isawaitable(found):
            async with asyncio.timeout(_PATIENCE):
                found = await found
    except Exception as error:  # noqa: BLE001 - whatever a caller's function raises
        # Its text may hold anything.
        raise _missing(name, f"the function for secrets raised {type(error).__name__}") from None
    if not isinstance(found, str) or not found:
        # Without it, a machine would come to be that nobody can enter.
        raise _missing(name, f"the function for secrets returned no text, but {_kind(found)}")
    return found


def _kind(found: object) -> str:
    return "an empty one" if isinstance(found, str) else f"a {type(found).__name__}"


def _missing(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"secret {name!r} cannot be found: {why}", argument="secrets")
