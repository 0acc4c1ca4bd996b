"""Find the route of a request to the control API, call it, and encode its response. Pure."""

from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import msgspec

from async_vmapi.emulator.control import cloud_routes, vm_routes
from async_vmapi.emulator.control.control import Control, Problem
from async_vmapi.emulator.control.openapi import document
from async_vmapi.emulator.control.route import Call, Route, decode

__all__ = ["PREFIX", "ROUTES", "respond"]

PREFIX: Final = "/_emulator"
ROUTES: Final[tuple[Route, ...]] = (*cloud_routes.ROUTES, *vm_routes.ROUTES)


def respond(control: Control, method: str, target: str, body: bytes) -> tuple[int, bytes]:
    """Handle a request, and return the status and the JSON of the response.

    Args:
        control: What it acts on.
        method: Its HTTP method.
        target: Its path and query.
        body: Its body.
    """
    path, _, query = target.partition("?")
    try:
        content = _call(control, method, path.removeprefix(PREFIX).rstrip("/"), query, body)
    except Problem as problem:
        return problem.status, msgspec.json.encode({"error": str(problem)})
    return 200, msgspec.json.encode(content)


def _call(control: Control, method: str, path: str, query: str, body: bytes) -> object:
    if path == "/openapi.json":
        _check_method(method, ["GET"])
        return document(ROUTES)
    found = [(route, match) for route in ROUTES if (match := route.pattern.fullmatch(path))]
    if not found:
        raise Problem(404, f"there is no path {PREFIX}{path}; {PREFIX}/openapi.json has all")
    _check_method(method, [route.method for route, _ in found])
    route, match = next(each for each in found if each[0].method == method)
    content: Any = dict(parse_qsl(query, keep_blank_values=True))
    if not route.by_query:
        try:
            content = msgspec.json.decode(body or b"{}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, f"the body is not JSON: {error}") from None
    name = unquote(match[1]) if match.groups() else ""
    taken = decode(content, route.takes, strict=not route.by_query)
    return route.run(Call(control, taken, name))


def _check_method(method: str, allowed: list[str]) -> None:
    if method not in allowed:
        raise Problem(405, f"the method must be {' or '.join(allowed)}, not {method}")
