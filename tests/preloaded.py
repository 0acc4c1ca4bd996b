"""What forked programs have imported already, and the caches that they find filled."""

import importlib
import inspect
import os
import pkgutil
from contextlib import suppress
from pathlib import Path
from posix import _exit

import coverage
import rich.progress  # noqa: F401
import typer.rich_utils  # noqa: F401

import async_vmapi.cli
import async_vmapi.durable
import async_vmapi.emulator

# What fails here is ignored, and then each program imports everything; not all versions have it.
with suppress(ImportError):
    importlib.import_module("typer._adapters")
for _module in pkgutil.walk_packages(async_vmapi.cli.__path__, "async_vmapi.cli."):
    importlib.import_module(_module.name)

_measured = coverage.Coverage.current()
if _measured is not None:
    # At its start it resolves the paths of all modules that it has not seen yet.
    inspect.stack()
    # Coverage has changed it to save what it measured, and does so again in each program, which
    # would save what was measured here, too.
    os._exit = _exit
    # Each would look for files that were not executed; the tests' own process does.
    _measured.set_option("run:source", None)
    _measured.set_option("run:include", [f"{Path(async_vmapi.__file__).parent}/*"])
