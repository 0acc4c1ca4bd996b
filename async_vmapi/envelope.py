"""Open the envelope of an answer: what was asked for, or the error that it means. Pure (WIRE §1).

The answer is decoded straight into what the caller wants. Only where that fails is it looked at
again, to find out whether it is a refusal or makes no sense.
"""

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar, cast

import msgspec

from async_vmapi.codec import UNREADABLE, Shape, explain
from async_vmapi.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    Conflict,
    DecodingError,
    NotFound,
    RateLimited,
    ServerError,
)

__all__ = ["open_envelope", "retry_after"]

T = TypeVar("T")

_LONGEST_MESSAGE: Final = 500

_KINDS: Final[dict[int, type[APIError]]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFound,
    410: NotFound,
    409: Conflict,
    412: Conflict,
    423: Conflict,
    429: RateLimited,
}


def open_envelope(
    shape: Shape[T],
    status: int,
    body: bytes,
    *,
    method: str,
    path: str,
    secrets: tuple[str, ...] = (),
) -> T:
    """Return what `shape` wants of an answer, or raise what the answer means.

    Args:
        shape: What is wanted.
        status: The HTTP status.
        body: The body, as it came.
        method: The HTTP method of the call, for the error.
        path: The path of the call, for the error.
        secrets: What the call carried that no error may show, should the server repeat it.

    Raises:
        APIError: If the call was refused.
        DecodingError: If the answer fits neither `shape` nor a refusal.
    """
    problem: DecodingError
    if 200 <= status < 300:
        try:
            answer = shape.decode(body)
            if answer.success is True or (answer.success is msgspec.UNSET and shape.tells_success):
                return shape.take(answer)
            problem = DecodingError("`success` is missing", where="$")
        except DecodingError as error:
            problem = error
        except UNREADABLE as error:
            message, where = explain(error)
            malformed = not isinstance(error, msgspec.ValidationError | RecursionError)
            problem = DecodingError(message, where=where, malformed=malformed)
        problem.method, problem.path = method, path
    else:
        problem = DecodingError()

    # Raised out here, so that no exception drags the one that held the body along.
    content = _any_object(body)
    refused = content is not None and content.get("success") is False
    if 200 <= status < 300 and not refused:
        raise problem
    if 300 <= status < 400:
        words = "a redirect, which is not followed: a signature is bound to its host"
    else:
        words = _shortened(_printable(_scrub(_words(content), secrets)))
    kind = _KINDS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else BadRequest if status >= 400 else APIError
    raise kind(words, status=status, method=method, path=path, from_api=refused)


def retry_after(value: str | None, now: datetime) -> float | None:
    """Read a ``Retry-After`` header: seconds or an HTTP date (WIRE §1); None if it says nothing."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip(), re.ASCII):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def _any_object(body: bytes) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except UNREADABLE:
        return None


def _words(content: dict[str, object] | None) -> str:
    """Return the server's explanation; its field's name and form are not known (WIRE §1)."""
    if content is None:
        return "no JSON object, perhaps a proxy's page"
    found = (content[name] for name in ("error", "message", "errors") if content.get(name))
    return "; ".join(dict.fromkeys(piece for value in found for piece in _pieces(value)))


def _pieces(value: object, depth: int = 4) -> list[str]:
    if isinstance(value, dict):
        inside = [(f"{key}: ", inner) for key, inner in cast("dict[str, object]", value).items()]
    elif isinstance(value, list):
        inside = [("", inner) for inner in cast("list[object]", value)]
    else:
        return [str(value)]
    if depth == 0:
        return ["..."]
    return [key + piece for key, inner in inside for piece in _pieces(inner, depth - 1)]


def _scrub(text: str, secrets: tuple[str, ...]) -> str:
    forms: set[str] = set()
    for secret in filter(None, secrets):
        # As it is, and as it stands in a body that the server repeats.
        forms |= {secret, json.dumps(secret)[1:-1], msgspec.json.encode(secret).decode()[1:-1]}
    # Longest first, so that no part of one is left where another is contained in it.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[secret]")
    return text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
