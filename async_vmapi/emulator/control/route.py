"""`Route`: a method and path of the control API, and the function that it calls. Pure."""

import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import attrs
import msgspec

from async_vmapi.emulator.control.control import Control, Problem

__all__ = ["Call", "Route", "decode"]

T = TypeVar("T")

_WHERE: Final = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_PARTS: Final = re.compile(r"(\w+)|\[(\d+)\]")
_LONGEST: Final = 100


@attrs.frozen
class Call(Generic[T]):
    """A request to a route.

    Attributes:
        control: What it acts on.
        content: The query of a GET or DELETE, the body of others; checked.
        name: The parameter in the path; empty if there is none.
    """

    control: Control
    content: T
    name: str = ""


class Route:
    """A method and path, and the function that they call.

    The function's annotations decide what is accepted and returned; the first line of its docstring
    is the summary.

    Args:
        method: The HTTP method.
        path: The path below ``/_emulator``, with a parameter in braces.
        run: The function.
        refusals: What it refuses, by HTTP status.
    """

    def __init__(
        self,
        method: str,
        path: str,
        run: Callable[[Call[Any]], object],
        refusals: Mapping[int, str] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.run = run
        self.refusals = dict(refusals or {})
        hints = typing.get_type_hints(run, include_extras=True)
        (self.takes,) = typing.get_args(hints["call"])
        self.returns = hints["return"]
        self.summary = (run.__doc__ or "").partition("\n")[0].rstrip(".")
        # In GETs and DELETEs, bodies have no meaning (RFC 9110 §9.3).
        self.by_query = method in {"GET", "DELETE"}
        pattern = re.sub(r"\\{\w+\\}", "([^/]+)", re.escape(path))
        self.pattern: Final = re.compile(pattern)


def decode(content: object, into: Any, *, strict: bool) -> Any:
    """Convert decoded JSON to a type of the models.

    Raises:
        Problem: If it does not fit; the message names field, value and what is allowed.
    """
    try:
        return msgspec.convert(content, into, strict=strict)
    except msgspec.ValidationError as error:
        raise Problem(400, _explain(str(error), content, into)) from None


def _explain(message: str, content: object, into: Any) -> str:
    """Add the value, and the allowed ones, to the message of a refused field."""
    found = _WHERE.fullmatch(message)
    words, where = (found[1], found[2]) if found else (message, None)
    if where is None:
        if words.startswith("Object contains unknown field") and hasattr(into, "__struct_fields__"):
            fields = ", ".join(into.__struct_encode_fields__) or "none"
            return f"{words}; the fields are: {fields}"
        return words
    given = msgspec.json.encode(_value_at(content, where)).decode()
    given = given if len(given) <= _LONGEST else f"{given[:_LONGEST]}..."
    allowed = _allowed(into, where.rpartition(".")[2]) if "enum value" in words else ""
    return f"{where}={given}: {words}{allowed}"


def _value_at(content: Any, where: str) -> Any:
    """Return the value at the path of a message."""
    for key, index in _PARTS.findall(where):
        content = content[key or int(index)]
    return content


def _allowed(into: Any, field: str) -> str:
    """Return the values that a field can have."""
    _, components = msgspec.json.schema_components([into])
    found = (schema.get("properties", {}).get(field, {}) for schema in components.values())
    values = next(schema["enum"] for schema in found if "enum" in schema)
    return f"; allowed: {', '.join(map(str, values))}"
