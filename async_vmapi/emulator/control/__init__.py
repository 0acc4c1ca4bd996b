"""The control API: see and change a running emulator over HTTP, in any language.

`Control` is what it acts on, and `dispatch` finds the function for a request in a table of routes,
from which `openapi` makes the document. `server` is HTTP, and the only module here that does I/O.
"""

from async_vmapi.emulator.control.control import Control
from async_vmapi.emulator.control.dispatch import PREFIX, ROUTES
from async_vmapi.emulator.control.openapi import EVENTS, document
from async_vmapi.emulator.control.server import ControlServer

__all__ = ["EVENTS", "PREFIX", "ROUTES", "Control", "ControlServer", "document"]
