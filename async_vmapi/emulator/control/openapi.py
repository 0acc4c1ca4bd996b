"""The OpenAPI document of the control API, made from its routes and models. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from async_vmapi.emulator.control.models import (
    Changed,
    ClockView,
    Error,
    Lost,
    Nothing,
    RequestEntry,
    VMView,
)
from async_vmapi.emulator.control.route import Route
from async_vmapi.emulator.control.settings import SCHEMAS

__all__ = ["EVENTS", "document"]

EVENTS: Final = {
    "vm": VMView,
    "request": RequestEntry,
    "clock": ClockView,
    "changed": Changed,
    "lost": Lost,
}
"""The kinds of events, and what they contain."""

_VERSION: Final = "1.0.0"
_REF: Final = "#/components/schemas/{name}"
_SCHEMAS: Final = {
    **SCHEMAS,
    "Snapshot": {
        "title": "Snapshot",
        "description": "All of a cloud. Other versions of the emulator may have another form.",
        "type": "object",
        "properties": {"version": {"type": "integer"}},
        "required": ["version"],
    },
}
_ALWAYS: Final = {
    400: "A value is not allowed; the text names it, and what is.",
    401: "The control token is missing or wrong.",
    403: "The request comes from another site's page.",
    421: "Host is not a loopback name or address with the port of the emulator.",
}
_ABOUT: Final = """\
Sees and changes a running emulator. Requests need the control token that the emulator prints:
`Authorization: Bearer TOKEN`. Times are in seconds on the cloud's clock unless stated otherwise.
Errors are JSON objects with a text `error`."""
_EVENTS_ABOUT: Final = """\
Server-Sent Events: `vm` (a VM, after a change), `request` (a request to the cloud's API, when its
response is ready), `clock`, `changed` (settings, faults or groups, or all by a reset) and `lost`
(the listener was too slow, or reconnected too late, and has missed events). The data are JSON
objects. The latest 10,000 events are kept: `Last-Event-ID` continues after that event."""


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document that describes routes."""
    paths: dict[str, dict[str, Any]] = {}
    models: list[Any] = [Error, *EVENTS.values()]
    for route in routes:
        models.append(route.returns)
        if not route.by_query and route.takes is not Nothing:
            models.append(route.takes)
        paths.setdefault(f"/_emulator{route.path}", {})[route.method.lower()] = _operation(route)
    paths["/_emulator/events"] = {"get": _events()}
    paths["/_emulator/openapi.json"] = {"get": _itself()}
    _, components = msgspec.json.schema_components(models, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "async_vmapi emulator: control API",
            "version": _VERSION,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components | _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.run.__name__,
        "summary": route.summary,
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": "An id, or the name of only one." if name == "vm" else "Its name.",
                "schema": {"type": "string"},
            }
            for name in re.findall(r"{(\w+)}", route.path)
        ],
        "responses": _responses(_schema(route.returns), route.refusals),
    }
    if route.takes is Nothing:
        return operation
    schema = _schema(route.takes)
    if route.by_query:
        operation["parameters"] += _query(route.takes)
    else:
        required = "required" in _component(route.takes)
        operation["requestBody"] = {"required": required, "content": _json(schema)}
    return operation


def _query(model: Any) -> list[dict[str, Any]]:
    """Return the fields of a model as parameters of the query."""
    return [
        {
            "name": name,
            "in": "query",
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in _component(model)["properties"].items()
    ]


def _component(model: Any) -> dict[str, Any]:
    """Return the schema of a model, without references to it."""
    (schema,), components = msgspec.json.schema_components([model], ref_template=_REF)
    name = schema["$ref"].rpartition("/")[2]
    return dict(components.get(name, _SCHEMAS.get(name, {})))


def _schema(model: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([model], ref_template=_REF)
    return {"$ref": schema["$ref"]}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(schema: Mapping[str, Any], refusals: Mapping[int, str]) -> dict[str, Any]:
    refused = {
        str(status): {"description": words, "content": _json(_schema(Error))}
        for status, words in sorted((_ALWAYS | dict(refusals)).items())
    }
    return {"200": {"description": "As requested.", "content": _json(schema)}} | refused


def _events() -> dict[str, Any]:
    stream = {
        "description": "A stream of events, without an end.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "x-data": {kind: _schema(model) for kind, model in EVENTS.items()},
            }
        },
    }
    kinds = ", ".join(f"`{kind}`" for kind in EVENTS)
    return {
        "operationId": "events",
        "summary": "Stream what happens, as Server-Sent Events",
        "description": _EVENTS_ABOUT,
        "parameters": [
            {
                "name": "kinds",
                "in": "query",
                "description": f"Only these kinds, separated by commas, of {kinds}.",
                "schema": {"type": "string"},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The id of the last event received before.",
                "schema": {"type": "string"},
            },
        ],
        "responses": _responses({}, {503: "There are too many listeners."}) | {"200": stream},
    }


def _itself() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "Show this document",
        "responses": _responses({"type": "object"}, {}),
    }
