"""Models as plain data and back: one cattrs converter for all that is returned or stored.

cattrs is imported by the first conversion: most programs need none.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, TypeVar, get_args, get_origin

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["Document", "Serializable", "stored", "structure", "unstructure"]

T = TypeVar("T")

_STORED: Final = "async_vmapi stored"
_UNKNOWN: Final = "with unknown fields"


def stored(**how: Any) -> dict[str, Any]:
    """Return the metadata of an attrs field that is stored otherwise than by default.

    Args:
        how: Keyword arguments of cattrs' ``override``, like ``omit=True``.
    """
    return {_STORED: how}


class Serializable:
    """Data that the API returned: all its fields are stored, and unknown ones are ignored."""

    __slots__ = ()

    is_document: ClassVar[bool] = False
    """Whether defaults are left out, and unknown fields are refused."""

    def to_dict(self) -> dict[str, Any]:
        """Return this as a dict of plain values, ready for JSON and without secrets."""
        fields: dict[str, Any] = unstructure(self)
        return fields

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the value of a dict from `to_dict`.

        Raises:
            InvalidArgument: If the content does not fit; the error names the place.
        """
        try:
            return structure(content, cls)
        finally:
            del content  # an error would show this frame's variables

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        # pydantic, and so FastAPI, calls this; nothing else imports pydantic.
        from pydantic_core import core_schema as schema

        converted = schema.no_info_after_validator_function(cls.from_dict, schema.dict_schema())
        return schema.json_or_python_schema(
            converted,
            schema.union_schema([schema.is_instance_schema(cls), converted]),
            serialization=schema.plain_serializer_function_ser_schema(
                cls.to_dict, return_schema=schema.dict_schema()
            ),
        )


class Document(Serializable):
    """Data of this package's own: defaults are left out, and unknown fields are refused."""

    __slots__ = ()

    is_document = True


def unstructure(value: object) -> Any:
    """Return a value as plain data."""
    return _converter().unstructure(value)


def structure(content: object, kind: type[T]) -> T:
    """Return plain data as a value.

    Raises:
        InvalidArgument: If it does not fit.
    """
    from cattrs import BaseValidationError, transform_error

    try:
        return _converter().structure(content, kind)
    except (BaseValidationError, AttributeError, TypeError) as error:
        problems = transform_error(error, format_exception=_problem)
        # A misspelt field is missing, too.
        worst = min(problems, key=lambda problem: not problem.startswith(_UNKNOWN))
        problem, _, place = worst.partition(" @ ")
    del content  # as in `from_dict`
    raise InvalidArgument(f"{place} of {kind.__name__} is {problem}", argument="content")


def _problem(error: BaseException, kind: Any) -> str:
    from cattrs import ForbiddenExtraKeysError

    if isinstance(error, InvalidArgument):
        return f"invalid: {error}"
    if isinstance(error, ForbiddenExtraKeysError):
        known = [
            field.metadata.get(_STORED, {}).get("rename", field.name)
            for field in attrs.fields(error.cl)
        ]
        return f"{_UNKNOWN}: {validation.unknown(sorted(error.extra_fields), known)}"
    if isinstance(error, KeyError):
        return "missing or unknown"
    # Not the error's own text: it may show the value.
    if get_origin(kind) is Literal:
        return f"not one of {', '.join(map(str, get_args(kind)))}"
    return f"not {kind.__name__}" if isinstance(kind, type) else "not valid"


@functools.cache
def _converter() -> "Converter":
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
    from cattrs.preconf.json import make_converter
    from cattrs.strategies import configure_tagged_union

    from async_vmapi.models.create import CdromBoot, ImageBoot

    made = make_converter(
        forbid_extra_keys=True, unstruct_collection_overrides={Sequence: list, Mapping: dict}
    )

    def fields_of(kind: type) -> dict[str, Any]:
        return {
            field.name: override(**field.metadata[_STORED])
            for field in attrs.fields(kind)
            if _STORED in field.metadata
        }

    @made.register_unstructure_hook_factory(_is_serializable)
    def _(kind: type[Serializable]) -> Any:
        return make_dict_unstructure_fn(
            kind, made, _cattrs_omit_if_default=kind.is_document, **fields_of(kind)
        )

    @made.register_structure_hook_factory(_is_serializable)
    def _(kind: type[Serializable]) -> Any:
        return make_dict_structure_fn(
            kind, made, _cattrs_forbid_extra_keys=kind.is_document, **fields_of(kind)
        )

    # JSON has these types, so nothing has to be guessed.
    for exact in (str, bool, int):
        made.register_structure_hook(exact, _exactly)
    made.register_structure_hook(float, _number)
    tags = {ImageBoot: "image", CdromBoot: "cdrom"}
    configure_tagged_union(ImageBoot | CdromBoot, made, tags.__getitem__, tag_name="type")
    return made


def _is_serializable(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Serializable)


def _exactly(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError
    return value


def _number(value: Any, _: type) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)
