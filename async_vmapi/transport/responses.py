"""Open the envelope of a response: return its value or raise its error (WIRE §1). Pure.

The response is decoded directly into the wanted value. Only if that fails is it decoded again, to
distinguish a refusal from an invalid response.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar, cast

import msgspec

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
from async_vmapi.redaction import Secret, repeats
from async_vmapi.transport.codec import UNREADABLE, ResponseSpec, explain

__all__ = ["MAX_REFUSAL", "http_date", "open_envelope", "retry_after"]

T = TypeVar("T")

MAX_REFUSAL: Final = 64 * 1024
"""Maximum bytes of a refusal that are read: decoding more would block the event loop."""

MAX_ONE: Final = 1024 * 1024
"""Maximum bytes of a response that is not a list; that of one VM has about two thousand."""

_REFUSED: Final = re.compile(rb'\s*\{\s*"success"\s*:\s*false')

_LONGEST_MESSAGE: Final = 500

_VOCABULARY: Final = re.compile(
    r"(?<![a-z0-9])(?:name|cpus|cores|ram|(?:compute_)?zone(?:_id)?|boot_type|cdrom|os|template"
    r"|password|key_id|sshkey|user_data|cloudinit|quota|limit|balance|unavailable|required"
    r"|unsupported|duplicate)(?![a-z0-9])"
)
"""Words of a withheld explanation that may be shown: names of the API, and common reasons."""

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
    spec: ResponseSpec[T],
    status: int,
    body: bytes,
    *,
    method: str,
    path: str,
    secrets: tuple[Secret, ...] = (),
    credentials: Callable[[], tuple[Secret, ...]] = tuple,
) -> T:
    """Return the value of a response, or raise its error.

    Args:
        spec: The value to return.
        status: The HTTP status.
        body: The body as received.
        method: The HTTP method of the call, for the error.
        path: The path of the call, for the error.
        secrets: Secrets in the request that no error may show. If there are any, the server's
            explanation is withheld: it can repeat a part or any encoding of them.
        credentials: Returns the API secret and the signature. An explanation is shown unless it
            repeats a part of them.

    Raises:
        APIError: If the call was refused.
        DecodingError: If the response matches neither `spec` nor a refusal.
    """
    problem: DecodingError
    if 200 <= status < 300:
        try:
            if len(body) > MAX_ONE:
                _check_size(spec, body)
            response = spec.decode(body)
            success = response.success
            if success is True or (success is msgspec.UNSET and spec.proves_success):
                return spec.take(response, body)
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

    # Raised outside `except`, so that no error is chained to the one that holds the body.
    content = _any_object(body)
    refused = (content or {}).get("success") is False or _is_large_refusal(body)
    if 200 <= status < 300 and not refused:
        raise problem
    if 300 <= status < 400:
        message = "a redirect, which is not followed: a signature is bound to its host"
    else:
        message = _explanation(content, body, secrets, credentials())
    kind = _KINDS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else BadRequest if status >= 400 else APIError
    raise kind(message, status=status, method=method, path=path, from_api=refused)


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds of a ``Retry-After`` header, a number or an HTTP date (WIRE §1)."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip(), re.ASCII):
        return float(value)
    moment = http_date(value)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def http_date(value: str | None) -> datetime | None:
    """Parse an HTTP date, and return it in UTC; None if it is missing or invalid."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _check_size(spec: ResponseSpec[T], body: bytes) -> None:
    """Reject a response that is too large, without decoding it."""
    if spec.key is None:
        raise DecodingError(f"{len(body)} bytes, and at most {MAX_ONE} are allowed here")
    # A list may be large, but scanning megabytes of something else takes as long as decoding it.
    if _is_large_refusal(body) or spec.key not in body[:MAX_REFUSAL]:
        raise DecodingError(f"no list in the first {MAX_REFUSAL} of {len(body)} bytes")


def _is_large_refusal(body: bytes) -> bool:
    return len(body) > MAX_REFUSAL and _REFUSED.match(body, 0, MAX_REFUSAL) is not None


def _any_object(body: bytes) -> dict[str, object] | None:
    if len(body) > MAX_REFUSAL:
        return None
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except UNREADABLE:
        return None


def _explanation(
    content: dict[str, object] | None,
    body: bytes,
    secrets: tuple[Secret, ...],
    credentials: tuple[Secret, ...],
) -> str:
    """Return the server's explanation, or the reason for not showing it."""
    if len(body) > MAX_REFUSAL:
        return f"more than {MAX_REFUSAL} bytes, which were not read"
    if content is None:
        return "not a JSON object, perhaps a proxy's page"
    words = _words(content)
    if secrets:
        return _withheld(words, secrets) if words else ""
    # Check more than is shown: the cut may be within a secret.
    shown = "".join(c if c.isprintable() else " " for c in words[: 2 * _LONGEST_MESSAGE])
    if repeats(shown, credentials):
        return "the explanation is withheld, since it repeats the API secret or the signature"
    return shown if len(shown) <= _LONGEST_MESSAGE else f"{shown[:_LONGEST_MESSAGE]}..."


def _withheld(words: str, secrets: tuple[Secret, ...]) -> str:
    """Return a notice in place of an explanation, with the words of it that are safe to show."""
    notice = "the explanation is withheld, since the request carried a password or user data"
    sent = [secret.text().casefold() for secret in secrets]
    named = dict.fromkeys(_VOCABULARY.findall(words.casefold()))
    # Leave out words that a secret contains, too.
    if safe := [word for word in named if not any(word in text for text in sent)]:
        notice += f"; it mentions {', '.join(safe)}"
    return notice


def _words(content: dict[str, object]) -> str:
    """Return the server's explanation; the name and form of its field are unknown (WIRE §1)."""
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
