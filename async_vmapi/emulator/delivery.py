"""Answer a request as a fault wants it: what is carried out, and what goes over the wire. Pure."""

from datetime import datetime
from typing import Final, cast

import attrs
import msgspec

from async_vmapi.emulator.api import CloudAPI, Request, Response
from async_vmapi.emulator.faults import Fault

__all__ = ["Delivery", "deliver"]

_PAGE: Final = b"<html><body><h1>An error page of a proxy</h1></body></html>"
_HTML: Final = {"Content-Type": "text/html"}
_JSON: Final = {"Content-Type": "application/json"}
_BEFORE: Final = frozenset({"refuse", "drop_before", "rate_limited", "success_false"})


@attrs.frozen
class Delivery:
    """What goes over the wire.

    Attributes:
        response: The answer; None for a connection that is dropped.
        delay: Seconds before that.
        refuse: Seconds for which no new connection is let in.
        spread: Seconds that the body takes.
        cut: Whether only half the body is sent, and then the connection closed.
        close_after: Whether the connection is closed behind the answer.
        padding: Bytes of white space behind the body.
    """

    response: Response | None
    delay: float = 0.0
    refuse: float = 0.0
    spread: float = 0.0
    cut: bool = False
    close_after: bool = False
    padding: int = 0


def deliver(api: CloudAPI, request: Request, *, now: float, today: datetime) -> Delivery:
    """Answer a request, with the fault that hits it.

    Args:
        api: What answers.
        request: What came.
        now: Seconds on the cloud's clock.
        today: The date, to judge the request's by.
    """
    if api.faults.is_empty:
        return Delivery(api.handle(request, now=now, today=today))
    call = api.call_of(request)
    fault = api.faults.pick(call, request.target.partition("?")[0])
    carried_out = fault is None or not (
        fault.kind in _BEFORE or (fault.kind == "server_error" and not fault.after)
    )
    response: Response | None = None
    if carried_out:
        response = api.handle(request, now=now, today=today)
        if call == "list" and response.status == 200:
            api.remember_list(now, response.body)
    if fault is None:
        return Delivery(response)
    return _broken(api, fault, response, now)


def _broken(api: CloudAPI, fault: Fault, response: Response | None, now: float) -> Delivery:
    seconds = fault.lasting
    match fault.kind:
        case "refuse":
            return Delivery(None, refuse=seconds)
        case "drop_before" | "drop_after":
            return Delivery(None)
        case "stall":
            return Delivery(None, delay=seconds)
        case "rate_limited":
            return Delivery(_refusal(429, "too many requests", fault.retry_after))
        case "success_false":
            return Delivery(_refusal(200, "not now", None))
        case "server_error":
            if fault.status in (502, 504):
                return Delivery(Response(fault.status, _HTML, _PAGE))
            after = fault.retry_after if fault.status == 503 else None
            return Delivery(_refusal(fault.status, "internal trouble", after))
        case _:
            return _distorted(api, fault, cast("Response", response), now)


def _distorted(api: CloudAPI, fault: Fault, response: Response, now: float) -> Delivery:
    """Distort the answer to a request that was carried out."""
    seconds = fault.lasting
    match fault.kind:
        case "truncated":
            return Delivery(response, cut=True)
        case "html":
            return Delivery(Response(200, _HTML, _PAGE))
        case "slow_body":
            return Delivery(response, spread=seconds)
        case "wrong_content_type":
            return Delivery(Response(response.status, _HTML, response.body))
        case "close_idle":
            return Delivery(response, close_after=True)
        case "stale_list":
            old = api.remembered_list(now - seconds)
            return Delivery(Response(response.status, response.headers, old or response.body))
        case "not_found":
            return Delivery(_refusal(404, "virtual machine not found", None))
        case "unknown_state":
            return Delivery(_with_unknown_states(response))
        case _:
            return Delivery(response, padding=max(0, fault.size - len(response.body)))


def _refusal(status: int, words: str, retry_after: int | None) -> Response:
    headers = _JSON if retry_after is None else _JSON | {"Retry-After": str(retry_after)}
    return Response(status, headers, msgspec.json.encode({"success": False, "error": words}))


def _with_unknown_states(response: Response) -> Response:
    content = msgspec.json.decode(response.body, type=dict[str, object])
    shown = content.get("virtual_machines", content.get("virtual_machine", []))
    for machine in cast("list[object]", shown if isinstance(shown, list) else [shown]):
        if isinstance(machine, dict):
            machine["state"] = "frobnicating"
    return Response(response.status, response.headers, msgspec.json.encode(content))
