"""Answer one request, without sockets: check its signature, find the call, ask the cloud.

Written from WIRE §1 and §2 alone; it shares no rule with the client but the signature's form.
"""

import functools
import hmac
import math
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, cast

import attrs
import msgspec

from async_vmapi.emulator import catalogue
from async_vmapi.emulator.bodies import integer_of, object_of, template_of, text_of
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.faults import FaultPlan
from async_vmapi.emulator.settings import NotFoundForm, Settings
from async_vmapi.emulator.vm import NotFound, Refused
from async_vmapi.signing import SigningKey, http_date, string_to_sign

__all__ = ["MOST_BODY", "CloudAPI", "Handled", "Request", "Response"]

MOST_BODY: Final = 1024 * 1024
"""The largest body of a request, in bytes."""

_TOLERANCE: Final = timedelta(minutes=15)
_LISTS_KEPT: Final = 10.0
_MOST_WAIT_FOR: Final = 7 * 24 * 60
_VMS: Final = "/v2/virtual-machines"
_VM_PATH: Final = re.compile(rf"{_VMS}/(?P<id>[^/?]+)(?:/(?P<verb>[a-z]+))?")
_CATALOGUE: Final[Mapping[str, tuple[str, str, object]]] = {
    "/v2/regions": ("regions", "regions", catalogue.REGIONS),
    "/v2/templates": ("templates", "templates", catalogue.TEMPLATES),
    "/v2/account": ("account", "account", catalogue.ACCOUNT),
}
_NOT_FOUND: Final[Mapping[NotFoundForm, tuple[int, str | None, bytes]]] = {
    "json": (404, "application/json", b'{"success":false,"error":"virtual machine not found"}'),
    "bare": (404, None, b""),
    "html": (404, "text/html", b"<html><body><h1>404 Not Found</h1></body></html>"),
    "gone": (410, None, b""),
    "success_false": (
        *(200, "application/json"),
        b'{"success":false,"error":"virtual machine not found"}',
    ),
}
_SIGNED: Final = ("content-type", "host", "x-date", "authorization")
_VERBS: Final = {
    "resize": "resize",
    "shutdown": "shutdown",
    "reboot": "reboot",
    "reset": "reset",
    "console": "console",
    "rename": "rename",
    "poweron": "power_on",
    "poweroff": "power_off",
}


@attrs.frozen
class Request:
    """A request as it came.

    Attributes:
        method: The HTTP method.
        target: The path with its query, as on the request line.
        headers: The headers; their names are compared without case.
        body: The body's bytes.
    """

    method: str
    target: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Response:
    """An answer to be sent."""

    status: int
    headers: dict[str, str]
    body: bytes = attrs.field(repr=False)


@attrs.frozen
class Handled:
    """A request that was answered, for a log.

    Attributes:
        at: Seconds on the cloud's clock.
        call: The call's name, as in `CloudAPI.requests`.
        vm_id: The machine that the path names, or None.
        status: The answer's HTTP status.
    """

    at: float
    call: str
    vm_id: str | None
    status: int


class CloudAPI:
    """The API of one local cloud.

    Args:
        cloud: The machines; a new cloud if it is not given.
        settings: How a new cloud behaves.
        seed: Makes a new cloud repeatable.
        api_key: The only key that is let in; a new one if it is not given.
        api_secret: Its secret; likewise.
        log: How many of the latest requests to keep in `log`.
        faults: What goes wrong for which requests; see `deliver`.
        max_requests_per_second: How many requests are let in in a second of the cloud's clock;
            others are answered with 429. None for no limit.

    Attributes:
        cloud: As above.
        api_key: As above.
        requests: How many requests came, by the call's name; ``refused`` counts those whose
            signature, date or form was wrong, or that asked for no known call;
            ``rate_limited`` those above the limit.
        faults: As above; a plan may be set at any time.
        log: The latest requests, the oldest first; none unless asked for.
    """

    def __init__(
        self,
        cloud: Cloud | None = None,
        *,
        settings: Settings | None = None,
        seed: int | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        log: int = 0,
        faults: FaultPlan | None = None,
        max_requests_per_second: float | None = None,
    ) -> None:
        if max_requests_per_second is not None and not max_requests_per_second > 0:
            raise ValueError(f"max_requests_per_second={max_requests_per_second!r} is not above 0")
        if cloud is not None and (settings is not None or seed is not None):
            raise ValueError("settings and seed are for a new cloud, and one was given")
        self.cloud = cloud if cloud is not None else Cloud(settings, seed=seed)
        self.api_key = api_key or f"LOCAL{secrets.token_hex(8).upper()}"
        self.api_secret = api_secret or secrets.token_urlsafe(24)
        self.requests: Counter[str] = Counter()
        self.log: deque[Handled] = deque(maxlen=log)
        self.faults = faults or FaultPlan()
        self._rate = max_requests_per_second
        # A bucket: as many as a second's may come at once, and refill evenly.
        self._allowed = max(1.0, max_requests_per_second or 0.0)
        self._allowed_at: float | None = None
        self._lists: deque[tuple[float, bytes]] = deque()
        # The headers of this second's responses, and on the cloud's clock its begin and end.
        self._headers: dict[str, str] = {}
        self._second = (math.inf, -math.inf)

    @property
    def api_secret(self) -> str:
        """The key's secret; it can be changed at any time."""
        return self._api_secret

    @api_secret.setter
    def api_secret(self, secret: str) -> None:
        self._api_secret = secret
        self._signing = SigningKey(secret)

    def __repr__(self) -> str:
        return f"<CloudAPI of {len(self.cloud.vms)} machines>"

    def handle(self, request: Request, *, now: float, today: datetime) -> Response:
        """Answer a request.

        Args:
            request: What came.
            now: Seconds on the cloud's clock.
            today: The date, to judge the request's by.
        """
        call = "refused"
        try:
            self._limit(now)
            self._check(request, today)
            call, answer = self._find(request)
            content = answer(now)
        except NotFound as error:
            response = self.not_found(error.form, now)
        except Refused as error:
            body = msgspec.json.encode({"success": False, "error": str(error)})
            response = Response(error.status, self.headers(now), body)
            if error.status == 429:
                call = "rate_limited"
                response = Response(429, response.headers | {"Retry-After": "1"}, body)
        else:
            if not isinstance(content, bytes):
                content = msgspec.json.encode(content)
            response = Response(200, self.headers(now), content)
        self.requests[call] += 1
        if self.log.maxlen:
            vm_id = None if call in {"refused", "rate_limited"} else self.vm_id_of(request)
            self.log.append(Handled(now, call, vm_id, response.status))
        return response

    def headers(self, now: float, content_type: str | None = "application/json") -> dict[str, str]:
        """Return the headers of a response: its type, and the date on the cloud's clock.

        Args:
            now: Seconds on the cloud's clock.
            content_type: The type of the body; None if there is no body.
        """
        begin, end = self._second
        if not begin <= now < end:
            moment, self._second = self.cloud.second(now)
            date = http_date(moment.astimezone(UTC))
            self._headers = {"Content-Type": "application/json", "Date": date}
        if content_type == "application/json":
            return self._headers
        dated = {"Date": self._headers["Date"]}
        return dated if content_type is None else {"Content-Type": content_type} | dated

    def not_found(self, form: NotFoundForm, now: float) -> Response:
        """Return the response to a call on an unknown VM; see ``Settings.not_found_form``."""
        status, content_type, body = _NOT_FOUND[form]
        return Response(status, self.headers(now, content_type), body)

    def vm_id_of(self, request: Request) -> str | None:
        """Return the id of the VM that a request's path names, or None."""
        match = _VM_PATH.match(request.target)
        return match and match["id"]

    def call_of(self, request: Request) -> str:
        """Return the name of the call that a request is, as in `requests`."""
        try:
            return self._find(request)[0]
        except Refused:
            return "refused"

    def remember_list(self, now: float, body: bytes) -> None:
        """Keep the answer to a list, for a fault that shows an old one."""
        while self._lists and now - self._lists[0][0] > _LISTS_KEPT:
            self._lists.popleft()
        self._lists.append((now, body))

    def remembered_list(self, since: float) -> bytes | None:
        """Return the oldest answer to a list that was given at `since` or later."""
        return next((body for at, body in self._lists if at >= since), None)

    def _limit(self, now: float) -> None:
        if self._rate is None:
            return
        if self._allowed_at is not None:
            refill = (now - self._allowed_at) * self._rate
            self._allowed = min(max(1.0, self._rate), self._allowed + refill)
        self._allowed_at = now
        if self._allowed < 1.0 - 1e-6:
            raise Refused(429, "too many requests")
        self._allowed -= 1.0

    # --- who asks ------------------------------------------------------------------------------

    def _check(self, request: Request, today: datetime) -> None:
        """Refuse what is not signed as WIRE §1 says."""
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            lowered = name.lower()
            # Of two values one would be signed, and the other perhaps be acted upon.
            if lowered in headers and lowered in _SIGNED:
                raise Refused(400, f"header {lowered} is there twice")
            headers[lowered] = value
        if len(request.body) > MOST_BODY:
            raise Refused(413, f"the body is larger than {MOST_BODY} bytes")
        if headers.get("content-type") != "application/json":
            raise Refused(415, "Content-Type must be application/json")
        for name in _SIGNED[1:]:
            if not headers.get(name):
                raise Refused(401, f"header {name} is missing")
        try:
            date = _moment(headers["x-date"])
        except (ValueError, OverflowError):
            raise Refused(401, "X-Date is no RFC 1123 date") from None
        if abs(today - date) > _TOLERANCE:
            raise Refused(401, "X-Date is too far from now")
        try:
            signed = string_to_sign(
                request.method, headers["host"], headers["x-date"], request.target, request.body
            )
        except UnicodeEncodeError:
            raise Refused(400, "path and headers must be UTF-8") from None
        wanted = f"{self.api_key}:{self._signing.signature(signed)}".encode()
        if not hmac.compare_digest(wanted, headers["authorization"].encode("utf-8", "replace")):
            raise Refused(401, "signature does not match")

    # --- what is asked -------------------------------------------------------------------------

    def _find(self, request: Request) -> tuple[str, Callable[[float], bytes | dict[str, object]]]:
        """Return the call's name and what answers it at a given time."""
        path, method, body = request.target.partition("?")[0], request.method, request.body
        if path in _CATALOGUE:
            name, field, value = _CATALOGUE[path]
            _allow(method, "GET")
            return name, lambda _: {"success": True, field: value}
        if path == _VMS:
            _allow(method, "GET", "PUT")
            if method == "GET":
                return "list", self._list
            return "create", lambda now: self._create(object_of(body), now)
        match = _VM_PATH.fullmatch(path)
        if match is None:
            raise Refused(404, "there is no such path")
        vm_id, verb = match["id"], match["verb"]
        if verb is None:
            _allow(method, "GET", "DELETE")
            if method == "GET":
                return "get", lambda now: self._get(vm_id, now)
            return "delete", lambda now: self._delete(vm_id, body, now)
        if verb not in _VERBS:
            raise Refused(404, "there is no such path")
        _allow(method, "POST")
        call = _VERBS[verb]
        return call, lambda now: self._post(call, vm_id, body, now)

    def _list(self, now: float) -> bytes:
        return b'{"success":true,"virtual_machines":' + self.cloud.list(now) + b"}"

    def _get(self, vm_id: str, now: float) -> bytes:
        shown = self.cloud.get(vm_id, now)
        if self.cloud.settings_of(vm_id).get_shape == "list":
            shown = b"[" + shown + b"]"
        return b'{"success":true,"virtual_machine":' + shown + b"}"

    def _delete(self, vm_id: str, body: bytes, now: float) -> dict[str, object]:
        fields = object_of(body) if body else {}
        integer_of({"deleteResources": 0, **fields}, "deleteResources", 0, 1)
        self.cloud.operate("delete", vm_id, now)
        return {"success": True}

    def _post(self, call: str, vm_id: str, body: bytes, now: float) -> dict[str, object]:
        cloud = self.cloud
        match call:
            case "console":
                return {"console": cloud.console(vm_id, now)}
            case "rename":
                cloud.rename(vm_id, text_of(object_of(body), "name"), now)
            case "resize":
                fields = object_of(body)
                cores = integer_of(fields, "cores", 1, catalogue.MOST_CPUS)
                ram = integer_of(fields, "ram", 1, catalogue.MOST_RAM)
                wait_for = integer_of(fields, "wait_for", 0, _MOST_WAIT_FOR)
                cloud.operate("resize", vm_id, now, cores=cores, ram=ram, wait_for=wait_for)
            case "shutdown":
                fields = object_of(body) if body else {}
                wait_for = integer_of({"wait_for": 4, **fields}, "wait_for", 0, _MOST_WAIT_FOR)
                cloud.operate("shutdown", vm_id, now, wait_for=wait_for)
            case "reboot" | "reset" | "power_on" | "power_off":
                cloud.operate(call, vm_id, now)
            case _:  # pragma: no cover - every name in _VERBS has its case
                raise AssertionError(call)
        return {"success": True}

    def _create(self, body: dict[str, object], now: float) -> dict[str, object]:
        inner = body.get("create_vm")
        if not isinstance(inner, dict):
            raise Refused(400, "create_vm must be an object")
        asked = cast("dict[str, object]", inner)
        name = text_of(asked, "name")
        legacy = self.cloud.settings_for(name).legacy_fields
        cores = integer_of(asked, "cpus", 1, catalogue.MOST_CPUS)
        ram = integer_of(asked, "ram", 1, catalogue.MOST_RAM)
        old_zone = legacy and "compute_zone_id" not in asked
        zone = catalogue.ZONES.get(text_of(asked, "zone_id" if old_zone else "compute_zone_id"))
        if zone is None:
            raise Refused(400, "there is no such zone")
        if not zone["available"]:
            raise Refused(409, "the zone is not available")
        vm_id = self.cloud.create(
            now,
            label=name,
            cores=cores,
            ram=ram,
            zone=zone,
            template=template_of(asked, legacy=legacy),
        )
        return {"success": True, "virtual_machine": {"id": vm_id}}


@functools.lru_cache(maxsize=16)
def _moment(date: str) -> datetime:
    # All requests of a second bear the same date.
    moment = parsedate_to_datetime(date)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _allow(method: str, *methods: str) -> None:
    if method not in methods:
        raise Refused(405, f"method must be {' or '.join(methods)}")
