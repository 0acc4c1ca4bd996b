"""Apply faults: decide whether a request is executed, and what response is sent. Pure."""

from datetime import datetime
from typing import Final, cast

import attrs
import msgspec

from async_vmapi.emulator.api import CloudAPI
from async_vmapi.emulator.faults import Fault, FaultKind
from async_vmapi.emulator.request import Request
from async_vmapi.transport.transport import Response

__all__ = ["Delivery", "deliver"]

_PAGE: Final = b"<html><body><h1>An error page of a proxy</h1></body></html>"
_HTML: Final = "text/html"
_BEFORE: Final = frozenset({"refuse", "drop_before", "rate_limited", "success_false"})


@attrs.frozen
class Delivery:
    """How a response is sent.

    Attributes:
        response: The response; None to drop the connection.
        delay: Seconds before that.
        refuse: Seconds for which new connections are refused.
        spread: Seconds that sending the body takes.
        cut: Whether to send half the body and close the connection.
        close_after: Whether to close the connection after the response.
        padding: Bytes of white space after the body.
        fault: The kind of fault, if any.
    """

    response: Response | None
    delay: float = 0.0
    refuse: float = 0.0
    spread: float = 0.0
    cut: bool = False
    close_after: bool = False
    padding: int = 0
    fault: FaultKind | None = attrs.field(default=None, eq=False)


def deliver(api: CloudAPI, request: Request, *, now: float, today: datetime) -> Delivery:
    """Handle a request, with a fault if one applies.

    Args:
        api: Handles the request.
        request: The request.
        now: Seconds on the cloud's clock.
        today: The current date, to check the request's date.
    """
    if api.faults.is_empty:
        return Delivery(api.handle(request, now=now, today=today))
    call = api.call_of(request)
    fault = api.faults.pick(call, request.target.partition("?")[0])
    executed = fault is None or not (
        fault.kind in _BEFORE or (fault.kind == "server_error" and not fault.after)
    )
    response: Response | None = None
    if executed:
        response = api.handle(request, now=now, today=today)
        if call == "list" and response.status == 200:
            api.remember_list(now, response.body)
    if fault is None:
        return Delivery(response)
    delivery = _broken(api, fault, request, response, now)
    return attrs.evolve(delivery, fault=fault.kind)


def _broken(
    api: CloudAPI, fault: Fault, request: Request, response: Response | None, now: float
) -> Delivery:
    seconds = fault.lasting
    match fault.kind:
        case "refuse":
            return Delivery(None, refuse=seconds)
        case "drop_before" | "drop_after":
            return Delivery(None)
        case "stall":
            return Delivery(None, delay=seconds)
        case "rate_limited":
            return Delivery(_refusal(api, 429, "too many requests", fault.retry_after))
        case "success_false":
            return Delivery(_refusal(api, 200, "not now", None))
        case "server_error":
            if fault.status in (502, 504):
                return Delivery(Response(fault.status, _headers(api, _HTML), _PAGE))
            after = fault.retry_after if fault.status == 503 else None
            return Delivery(_refusal(api, fault.status, "internal trouble", after))
        case _:
            return _distorted(api, fault, request, cast("Response", response), now)


def _distorted(
    api: CloudAPI, fault: Fault, request: Request, response: Response, now: float
) -> Delivery:
    """Return the distorted response of a request that was executed."""
    seconds = fault.lasting
    match fault.kind:
        case "truncated":
            return Delivery(response, cut=True)
        case "html":
            return Delivery(Response(200, _headers(api, _HTML), _PAGE))
        case "slow_body":
            return Delivery(response, spread=seconds)
        case "wrong_content_type":
            return Delivery(Response(response.status, _headers(api, _HTML), response.body))
        case "close_idle":
            return Delivery(response, close_after=True)
        case "stale_list":
            old = api.remembered_list(now - seconds)
            return Delivery(Response(response.status, response.headers, old or response.body))
        case "not_found":
            settings = api.cloud.settings_of(api.vm_id_of(request) or "")
            return Delivery(api.not_found(settings.not_found_form, api.cloud.now))
        case "unknown_state":
            return Delivery(_with_unknown_states(response))
        case _:
            return Delivery(response, padding=max(0, fault.size - len(response.body)))


def _headers(api: CloudAPI, content_type: str = "application/json") -> dict[str, str]:
    # Not `now` of `deliver`: `VMCloud.handle` translates it to another clock. If the request was
    # not executed, this is the time of the last one that was.
    return api.headers(api.cloud.now, content_type)


def _refusal(api: CloudAPI, status: int, words: str, retry_after: int | None) -> Response:
    headers = _headers(api)
    if retry_after is not None:
        headers = headers | {"Retry-After": str(retry_after)}
    return Response(status, headers, msgspec.json.encode({"success": False, "error": words}))


def _with_unknown_states(response: Response) -> Response:
    content = msgspec.json.decode(response.body, type=dict[str, object])
    shown = content.get("virtual_machines", content.get("virtual_machine", []))
    for vm in cast("list[object]", shown if isinstance(shown, list) else [shown]):
        if isinstance(vm, dict):
            vm["state"] = "frobnicating"
    return Response(response.status, response.headers, msgspec.json.encode(content))
