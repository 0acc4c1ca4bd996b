"""Keep secrets out of what is shown: types without a telling `repr`, errors without frames. Pure.

Error trackers, rich and ``pytest -l`` show the `repr` of every local variable of every frame of
an error, and parts of long texts. So from the caller's argument to the socket a secret is a
`Secret`, or, where a library takes nothing but ``str`` or ``bytes``, one of the two whose `repr`
and slices tell nothing.
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
"""Letters and digits of a secret that may not be repeated in a row."""
_ROUNDS: Final = 3
_ESCAPE: Final = re.compile(r"\\+u([0-9A-Fa-f]{4})|\\+x([0-9A-Fa-f]{2})")
_PUNCTUATION: Final = re.compile(r"[\W_]+")
_BYTE: Final = re.compile(r"=([0-9A-Fa-f]{2})")


class Secret:
    """A value that shows in no `repr`, text or format, and in no attribute.

    It is no ``str``: a subclass of that shows in every f-string.
    """

    __slots__ = ("reveal",)

    def __init__(self, value: object) -> None:
        # A closure: tools that walk through attributes find nothing.
        self.reveal: Callable[[], object] = lambda: value

    @classmethod
    def of(cls, value: object) -> "Secret":
        """Return `value` as a secret; one that is a secret already, as it is."""
        return value if isinstance(value, Secret) else cls(value)

    def text(self) -> str:
        """Return what is kept, a text for sure."""
        value = self.reveal()
        if isinstance(value, str):
            return value
        # Not rebound, but gone: it is a local variable here.
        del value
        raise TypeError("the secret is no text")

    def __repr__(self) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        return self.reveal() == other.reveal() if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __reduce__(self) -> tuple[type["Secret"], tuple[object]]:
        return type(self), (self.reveal(),)


class HiddenText(str):
    """A text whose `repr` and slices tell nothing; else a ``str``, for the libraries below."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _SHOWN

    def __getitem__(self, key: SupportsIndex | slice) -> "HiddenText":
        # rich and structlog cut long texts before they take the repr.
        return HiddenText(super().__getitem__(key))


class HiddenBytes(bytes):
    """Bytes whose `repr` and slices tell nothing; else ``bytes``, for the libraries below."""

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
    """Return an error without its traceback and without what led to it.

    The frames below hold bodies, headers and libraries' objects, and so do other libraries'
    errors. Raise what this returns outside of an ``except`` block.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def repeats(text: str, secrets: Iterable[Secret]) -> bool:
    """Return whether a text holds a sizeable part of a secret, in any usual form.

    Known are: other case, white space or punctuation between, escapes of JSON, HTML, URLs and
    quoted-printable (also one in another), Base64, Base32 and hexadecimal.
    """
    views = {_bare(view) for view in _views(text)}
    grams = {view[at : at + _SIZEABLE] for view in views for at in range(len(view) - _SIZEABLE + 1)}
    for secret in secrets:
        forms = list(_forms(secret.text()))
        bare = [_bare(form) for form in forms]
        joined = "\n".join(bare)
        if any(gram in joined for gram in grams):
            return True
        # One that is short, or has neither letters nor digits, counts as a whole.
        whole = bare[0] or forms[0]
        if 0 < len(whole) < _SIZEABLE and any(whole in view for view in (text, *views)):
            return True
    return False


def _views(text: str) -> set[str]:
    """Return a text as it is, and with its escapes undone."""
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
    # Inside a longer text it begins at any of three places of a group; the characters at both
    # ends depend on what surrounds it.
    for before in range(3):
        coded = base64.b64encode(bytes(before) + plain).decode()
        yield coded[before + 1 if before else 0 : -4]
