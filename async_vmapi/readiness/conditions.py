"""`Ready`: when a VM can be used, besides being online. Pure.

`async_vmapi.readiness.probes` checks the conditions.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Self, TypeAlias

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.vm import VirtualMachine

__all__ = [
    "Address",
    "Check",
    "CheckFunction",
    "Condition",
    "Http",
    "Probe",
    "Ready",
    "Ssh",
    "Tcp",
    "ready_of",
]

CheckFunction: TypeAlias = Callable[[VirtualMachine], Awaitable[bool]]
"""A coroutine function that takes the VM, and returns True once it is ready."""

_PROBE_TIMEOUT: Final = 5.0
_CHECK_TIMEOUT: Final = 30.0

_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$'()*+;:@%/-]*")
_TEXT: Final = re.compile(
    r"(?P<address>address)"
    r"|tcp:(?P<tcp>\d{1,5})"
    r"|(?P<ssh>ssh)(?::(?P<ssh_port>\d{1,5}))?"
    r"|http:(?P<http_port>\d{1,5})?(?P<path>/[^=]*)(?:=(?P<status>\d{3}))?",
    re.ASCII,
)
_FORMS: Final = (
    "conditions like 'address', 'tcp:443', 'ssh', 'ssh:2222', 'http:/health' or "
    "'http:8080/health=204', separated by commas"
)


def _port(value: object) -> int:
    port = validation.whole("port", value, minimum=1)
    if port > 65_535:
        raise validation.refuse("port", value, "an integer from 1 to 65535")
    return port


@attrs.frozen
class Address:
    """The VM has an address."""

    def __str__(self) -> str:
        return "address"


@attrs.frozen
class _Port:
    port: int = attrs.field(converter=_port)
    timeout: float = _PROBE_TIMEOUT

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}:{self.port}"


@attrs.frozen
class Tcp(_Port):
    """A port accepts connections."""


@attrs.frozen
class Ssh(_Port):
    """A port sends the banner of an SSH server."""


@attrs.frozen
class Http:
    """A GET of a path returns a status; redirects are not followed."""

    path: str
    status: int
    port: int = attrs.field(converter=_port)
    timeout: float = _PROBE_TIMEOUT

    def __str__(self) -> str:
        return f"http:{self.port}{self.path}" + ("" if self.status == 200 else f"={self.status}")


@attrs.frozen
class Check:
    """A caller's own function returns True."""

    function: CheckFunction
    timeout: float
    name: str

    def __str__(self) -> str:
        return f"check:{self.name}"


Probe: TypeAlias = Tcp | Ssh | Http | Check
"""A condition that a probe checks."""

Condition: TypeAlias = Address | Probe


def _in_order(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    # Polls find out about the address; probes need it.
    return tuple(sorted(dict.fromkeys(conditions), key=lambda c: not isinstance(c, Address)))


@attrs.frozen(repr=False)
class Ready:
    """What a VM must do to be ready: it is online, and meets all conditions, in this order.

    Create one by a class method, and combine several by ``&``:
    ``Ready.ssh() & Ready.http("/health")``. Conditions that connect to the VM use its first public
    address (WIRE §3), so they include `address`. The connections come from this host: a firewall
    that refuses them keeps a VM from being ready.

    Attributes:
        conditions: The conditions.
    """

    conditions: tuple[Condition, ...] = attrs.field(default=(), converter=_in_order)

    @classmethod
    def address(cls) -> Self:
        """The VM has a public address, which can come later than ``online`` (WIRE §4)."""
        return cls((Address(),))

    @classmethod
    def tcp(cls, port: int) -> Self:
        """A TCP port accepts connections.

        Args:
            port: The port, 1 to 65535.

        Raises:
            InvalidArgument: If it is not one.
        """
        return cls((Address(), Tcp(port)))

    @classmethod
    def ssh(cls, port: int = 22) -> Self:
        """An SSH server sends its banner (it starts with ``SSH-``); no login is tried.

        Args:
            port: The port, 1 to 65535.

        Raises:
            InvalidArgument: If it is not one.
        """
        return cls((Address(), Ssh(port)))

    @classmethod
    def http(cls, url_path: str, status: int = 200, *, port: int = 80) -> Self:
        """A GET request without TLS returns a status. Redirects are not followed.

        Args:
            url_path: The path, like ``"/health"``, without a query: it is shown in errors. If a
                request needs more than that, write a `check`.
            status: The HTTP status, 100 to 599.
            port: The port, 1 to 65535.

        Raises:
            InvalidArgument: If an argument is wrong.
        """
        if not isinstance(url_path, str) or not _PATH.fullmatch(url_path):
            # A query may hold a secret.
            shown = url_path.partition("?")[0] if isinstance(url_path, str) else url_path
            allowed = "a path like '/health', without query, spaces and commas"
            raise validation.refuse("url_path", shown, allowed)
        expected = validation.whole("status", status, minimum=100)
        if expected > 599:
            raise validation.refuse("status", status, "an HTTP status from 100 to 599")
        return cls((Address(), Http(url_path, expected, port)))

    @classmethod
    def check(cls, function: CheckFunction, *, timeout: float = _CHECK_TIMEOUT) -> Self:
        """A function of yours returns True.

        It is called again and again until then, with a pause in between. An exception counts as
        False; only its type is reported, since its text may hold secrets. The function is not part
        of tokens, and cannot be part of a durable job.

        Args:
            function: A coroutine function that takes the `VirtualMachine` as last seen.
            timeout: Seconds for one call.

        Raises:
            InvalidArgument: If it is not a coroutine function.
        """
        call = getattr(function, "__call__", None)  # noqa: B004 - of an instance of a class
        if isinstance(function, type) or not (
            inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
        ):
            raise validation.refuse("function", function, "a coroutine function that takes a VM")
        name = getattr(function, "__qualname__", type(function).__name__)
        return cls((Check(function, validation.seconds("timeout", timeout), name),))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the conditions of a text such as ``"ssh,http:8080/health"``, as ``str`` does.

        Raises:
            InvalidArgument: If the text is not one.
        """
        conditions: list[Condition] = []
        if not isinstance(text, str):
            raise validation.refuse("ready", text, _FORMS)
        for part in text.split(",") if text.strip() else []:
            found = _TEXT.fullmatch(part.strip())
            if found is None:
                raise validation.refuse("ready", text, _FORMS)
            conditions += cls._of(found).conditions
        return cls(conditions)

    @classmethod
    def _of(cls, found: re.Match[str]) -> Self:
        if found["address"]:
            return cls.address()
        if found["tcp"]:
            return cls.tcp(int(found["tcp"]))
        if found["ssh"]:
            return cls.ssh(int(found["ssh_port"] or 22))
        return cls.http(
            found["path"], int(found["status"] or 200), port=int(found["http_port"] or 80)
        )

    @property
    def has_functions(self) -> bool:
        """Whether a condition is a function, which cannot be stored."""
        return any(isinstance(condition, Check) for condition in self.conditions)

    @property
    def has_probes(self) -> bool:
        """Whether a condition is checked by probes, not by polls."""
        return any(not isinstance(condition, Address) for condition in self.conditions)

    @property
    def storable(self) -> Self:
        """The conditions that can be stored: all but functions."""
        return type(self)(c for c in self.conditions if not isinstance(c, Check))

    def __and__(self, other: "Ready") -> Self:
        if not isinstance(other, Ready):
            return NotImplemented
        return type(self)((*self.conditions, *other.conditions))

    def __str__(self) -> str:
        return ",".join(map(str, self.conditions))

    def __repr__(self) -> str:
        return f"<Ready: {' & '.join(['online', *map(str, self.conditions)])}>"


def ready_of(argument: str, value: Any) -> Ready:
    """Return a `Ready`, also of a coroutine function.

    Raises:
        InvalidArgument: If the value is neither.
    """
    if isinstance(value, Ready):
        return value
    try:
        return Ready.check(value)
    except InvalidArgument:
        allowed = "a Ready, like Ready.ssh(), or a coroutine function that takes a VM"
        raise validation.refuse(argument, value, allowed) from None
