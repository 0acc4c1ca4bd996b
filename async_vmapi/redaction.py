"""Keep secrets out of reprs, errors and logs. Pure.

Error trackers, rich and ``pytest -l`` show the `repr` of every local variable in every frame of an
error, and parts of long texts. So a secret is a `Secret` from the caller's argument to the socket;
or, for a library that needs ``str`` or ``bytes``, a `HiddenText` or `HiddenBytes`, whose `repr` and
slices show nothing.
"""

import base64
import html
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Final, SupportsIndex, TypeVar, overload

__all__ = ["HiddenBytes", "HiddenText", "Secret", "repeats", "without_frames"]

E = TypeVar("E", bound=BaseException)

_SHOWN: Final = "<secret>"
_SIZEABLE: Final = 8
"""Number of consecutive letters and digits of a secret that must not be shown."""
_ROUNDS: Final = 3
_ESCAPE: Final = re.compile(r"\\+u([0-9A-Fa-f]{4})|\\+x([0-9A-Fa-f]{2})")
_PUNCTUATION: Final = re.compile(r"[\W_]+")
_BYTE: Final = re.compile(r"=([0-9A-Fa-f]{2})")


class Secret:
    """A value that no `repr`, ``str()``, format or attribute shows.

    It is not a ``str``: every f-string would show a subclass of that.
    """

    __slots__ = ("reveal",)

    def __init__(self, value: object) -> None:
        # A closure: tools that walk through attributes do not find the value.
        self.reveal: Callable[[], object] = lambda: value

    @classmethod
    def of(cls, value: object) -> "Secret":
        """Return `value` as a secret, unchanged if it is one already."""
        return value if isinstance(value, Secret) else cls(value)

    def text(self) -> str:
        """Return the value, which must be a ``str``."""
        value = self.reveal()
        if isinstance(value, str):
            return value
        # The error would show this local variable.
        del value
        raise TypeError("the secret is not text")

    def __repr__(self) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        return self.reveal() == other.reveal() if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __reduce__(self) -> tuple[type["Secret"], tuple[object]]:
        return type(self), (self.reveal(),)


class HiddenText(str):
    """A ``str`` for libraries that need one; its `repr` and slices show nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _SHOWN

    def __getitem__(self, key: SupportsIndex | slice) -> "HiddenText":
        # rich and structlog truncate long texts before they call repr.
        return HiddenText(super().__getitem__(key))


class HiddenBytes(bytes):
    """``bytes`` for libraries that need them; their `repr` and slices show nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _SHOWN

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...

    @overload
    def __getitem__(self, key: slice) -> "HiddenBytes": ...

    def __getitem__(self, key: SupportsIndex | slice) -> "int | HiddenBytes":
        found = super().__getitem__(key)
        return HiddenBytes(found) if isinstance(found, bytes) else found


def without_frames(error: E) -> E:
    """Return an error without its traceback, context and cause.

    The frames may hold bodies, headers and objects of other libraries, as may those libraries'
    errors. Raise the result outside an ``except`` block.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def repeats(text: str, secrets: Iterable[Secret]) -> bool:
    """Return whether a text contains a sizeable part of a secret, in any usual form.

    It detects changed case, inserted white space or punctuation, escapes of JSON, HTML, URLs and
    quoted-printable (nested, too), Base64, Base32 and hexadecimal.
    """
    views = {_bare(view) for view in _views(text)}
    grams = {view[at : at + _SIZEABLE] for view in views for at in range(len(view) - _SIZEABLE + 1)}
    for secret in secrets:
        forms = list(_forms(secret.text()))
        bare = [_bare(form) for form in forms]
        joined = "\n".join(bare)
        if any(gram in joined for gram in grams):
            return True
        # Of a short secret, or one without letters and digits, search for the whole.
        whole = bare[0] or forms[0]
        if whole and len(bare[0]) < _SIZEABLE and any(whole in view for view in (text, *views)):
            return True
    return False


def _views(text: str) -> set[str]:
    """Return a text unchanged, and with its escapes decoded."""
    seen = new = {text}
    for _ in range(_ROUNDS):
        new = {undo(one) for one in new for undo in _UNDO} - seen
        if not new:
            break
        seen = seen | new
    return seen


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


def _unquote_printable(text: str) -> str:
    return urllib.parse.unquote(_BYTE.sub(r"%\1", text))


_UNDO: Final = (html.unescape, urllib.parse.unquote, _unescape, _unquote_printable)


def _bare(text: str) -> str:
    return _PUNCTUATION.sub("", text.casefold())


def _forms(secret: str) -> Iterator[str]:
    yield secret
    plain = secret.encode(errors="replace")
    if len(plain) < _SIZEABLE:
        return
    yield plain.hex()
    yield base64.b32encode(plain).decode()
    # In a longer text it can start at three positions of a group; the characters at both ends
    # depend on the neighbours.
    for before in range(3):
        coded = base64.b64encode(bytes(before) + plain).decode()
        yield coded[before + 1 if before else 0 : -4]
