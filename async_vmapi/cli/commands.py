"""Make commands of functions whose parameters may be groups of options.

A group is an attrs class whose fields are options. Typer has no groups, so `command` replaces a
parameter of such a class with its fields.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import attrs
import typer

from async_vmapi.cli.groups import Command, Group
from async_vmapi.cli.running import errors_shown

__all__ = ["Commands", "command"]


def command(
    function: Callable[..., None], keywords: Mapping[str, tuple[Any, Any]] | None = None
) -> Callable[..., None]:
    """Expand the option groups of a command into options, and report its errors.

    Args:
        function: The command.
        keywords: Annotations and defaults of further options, which it takes as keywords.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    hints = get_type_hints(function, include_extras=True)

    def add(name: str, annotation: Any, default: Any) -> None:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=annotation))

    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            for keyword, (annotation, default) in (keywords or {}).items():
                add(keyword, annotation, default)
        elif isinstance(hint, type) and attrs.has(hint):
            fields = [field for field in attrs.fields(hint) if field.init]
            groups[name] = hint, [field.name for field in fields]
            options = get_type_hints(hint, include_extras=True)
            for field in fields:
                required = field.default is attrs.NOTHING
                default = inspect.Parameter.empty if required else field.default
                add(field.name, options[field.name], default)
        else:
            add(name, hint, parameter.default)

    def call(**values: Any) -> None:
        for name, (kind, fields) in groups.items():
            values[name] = kind(**{field: values.pop(field) for field in fields})
        with errors_shown():
            function(**values)

    # Typer keeps line breaks of all paragraphs but the first.
    call.__doc__ = re.sub(r"(\S)\n *(?=\S)", r"\1 ", function.__doc__ or "")
    call.__name__ = function.__name__
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


class Commands(typer.Typer):
    """A group of commands, with expanded option groups and the aliases of `Group`."""

    def __init__(self, help: str) -> None:  # noqa: A002 - Typer's word
        super().__init__(cls=Group, help=help, no_args_is_help=True)

    def add(
        self,
        name: str,
        keywords: Mapping[str, tuple[Any, Any]] | None = None,
        help: str | None = None,  # noqa: A002 - Typer's word
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorate the function that is the command of this name; see `command`."""

        def register(function: Callable[..., None]) -> Callable[..., None]:
            self.command(name, cls=Command, help=help)(command(function, keywords))
            return function

        return register
