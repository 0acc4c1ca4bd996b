"""`Facts`: what is known about a provider, read from TOML and written to it.

A fact has a value, its source, how often and when it was seen; it never holds a secret, an id or an
address of an account.
"""

import functools
import importlib.resources
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Self, cast

import attrs
import msgspec

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.facts.spec import MOST, SPECS

__all__ = ["Fact", "Facts"]

_FORMAT: Final = "async_vmapi facts 1"


@attrs.frozen
class Fact:
    """One fact.

    Attributes:
        value: Its value, of the type that `async_vmapi.facts.spec.SPECS` says.
        source: ``"measured"``, ``"assumed"`` or a section of docs/wire.md.
        seen: How often it was measured; 0 if it was not.
        when: When it was measured last, as ISO date.
    """

    value: Any
    source: str
    seen: int = 0
    when: str | None = None

    @property
    def is_measured(self) -> bool:
        """Whether it was measured."""
        return self.seen > 0


class Facts(Mapping[str, Fact]):
    """Facts by name, like ``"reads.max_staleness"``; see `async_vmapi.facts.spec.SPECS`.

    Args:
        facts: The facts that are known.
        name: Where they are from, for messages.

    Raises:
        InvalidArgument: If there is no fact of a name, or a value does not fit.
    """

    def __init__(self, facts: Mapping[str, Fact], *, name: str = "facts") -> None:
        self._name = name
        self._facts = {key: _checked(name, key, fact) for key, fact in facts.items()}

    def __getitem__(self, name: str) -> Fact:
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def __repr__(self) -> str:
        measured = sum(fact.is_measured for fact in self.values())
        return f"<Facts of {self._name}: {len(self)}, {measured} measured>"

    @classmethod
    def default(cls) -> "Facts":
        """Return what is assumed until it is measured."""
        return _default()

    @classmethod
    def of(cls, value: "Facts | str | os.PathLike[str]") -> "Facts":
        """Return facts, or those of a file.

        Raises:
            InvalidArgument: If the file cannot be read, or is no file of facts.
        """
        if isinstance(value, Facts):
            return value
        if not isinstance(value, str | os.PathLike):
            raise validation.refuse("facts", value, "the path of a file, or Facts")
        try:
            text = Path(value).read_text("utf-8")
        except UnicodeDecodeError:
            raise _refuse(str(value), "cannot be read: it is not UTF-8 text") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise _refuse(str(value), f"cannot be read: {why}") from None
        return cls.from_toml(text, name=str(value))

    @classmethod
    def from_toml(cls, text: str, *, name: str = "facts") -> Self:
        """Return the facts of a text in TOML.

        Raises:
            InvalidArgument: If it is none.
        """
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            # Besides its own errors, tomllib raises those of integers of thousands of digits.
            raise _refuse(name, f"is not TOML: {error}") from None
        if (given := content.pop("format", None)) != _FORMAT:
            raise _refuse(
                name, f"has format {_shown(given)}, not {_FORMAT!r}: use the release it is of"
            )
        facts: dict[str, Fact] = {}
        for section, entries in content.items():
            if not isinstance(entries, dict):
                raise _refuse(name, f"has {section!r} outside of a section")
            for key, entry in cast("dict[str, object]", entries).items():
                facts[f"{section}.{key}"] = _read(name, f"{section}.{key}", entry)
        return cls(facts, name=name)

    def to_toml(self) -> str:
        """Return the facts as TOML, for a file."""
        lines = [f'format = "{_FORMAT}"']
        section = ""
        for name in (name for name in SPECS if name in self):
            fact, (group, _, key) = self[name], name.partition(".")
            if group != section:
                section = group
                lines += ["", f"[{section}]"]
            fields = {"value": fact.value, "source": fact.source}
            fields |= {"seen": fact.seen} if fact.seen else {}
            fields |= {"when": fact.when} if fact.when else {}
            entry = ", ".join(f"{k} = {_toml(v)}" for k, v in fields.items())
            lines += [f"# {SPECS[name].meaning}", f"{key} = {{ {entry} }}"]
        return "\n".join(lines) + "\n"

    def over(self, other: "Facts") -> "Facts":
        """Return these facts, and of `other` those that are not among them."""
        return Facts({**other, **self}, name=self._name)

    def diff(self, other: "Facts") -> dict[str, tuple[Fact | None, Fact | None]]:
        """Return the facts whose values differ: here, and there."""
        names = [name for name in SPECS if name in self or name in other]
        pairs = {name: (self.get(name), other.get(name)) for name in names}
        return {
            name: (one, two)
            for name, (one, two) in pairs.items()
            if (one and one.value) != (two and two.value) or (one is None) != (two is None)
        }


def _toml(value: object) -> str:
    # JSON's numbers, strings and lists are TOML's too, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _refuse(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"facts: {name} {problem}", argument="facts")


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    value: Any
    source: str = "assumed"
    seen: Annotated[int, msgspec.Meta(ge=0, le=MOST)] = 0
    when: date | None = None


def _read(file: str, name: str, entry: object) -> Fact:
    try:
        read = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        shown = f"{name} = {{ value = ..., source = ..., seen = ..., when = ... }}"
        raise _refuse(file, f"has {name} wrong: {error}; write {shown}") from None
    when = None if read.when is None else read.when.isoformat()
    return Fact(read.value, read.source, read.seen, when)


def _checked(file: str, name: str, fact: Fact) -> Fact:
    spec = SPECS.get(name)
    if spec is None:
        raise _refuse(file, f"has no fact {validation.unknown([name], SPECS)}")
    value = spec.check(fact.value)
    if value is None:
        raise _refuse(file, f"has {name} = {_shown(fact.value)}, which is not {spec.described}")
    return attrs.evolve(fact, value=value)


@functools.cache
def _default() -> Facts:
    text = (
        importlib.resources.files("async_vmapi.facts").joinpath("default.toml").read_text("utf-8")
    )
    return Facts.from_toml(text, name="default.toml")
