"""Make commands of functions whose parameters may be groups of options.

A group is an attrs class whose fields are options, each made by `option` or annotated like a
parameter of Typer. Typer has no groups, so `command` replaces a parameter of such a class with its
fields. The help shows them in the panel that the class names as ``PANEL``.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import attrs
import typer

from async_vmapi.cli.groups import Command, Group
from async_vmapi.cli.running import errors_shown

__all__ = ["Commands", "command", "option"]


def option(help: str, default: Any = None, **settings: Any) -> Any:  # noqa: A002 - Typer's word
    """Return a field of an option group.

    Args:
        help: Its help.
        default: Its default; `attrs.NOTHING` if it is required.
        settings: Further arguments of `typer.Option`; ``names`` are the option's names.
    """
    names = settings.pop("names", ())
    return attrs.field(
        default=default, metadata={"option": typer.Option(*names, help=help, **settings)}
    )


def _options(group: type) -> list[inspect.Parameter]:
    """Return the parameters of an option group."""
    panels: dict[str, str] = {}
    for base in reversed(group.__mro__):
        if attrs.has(base):
            for field in attrs.fields(base):
                panels.setdefault(field.name, getattr(base, "PANEL", ""))
    hints = get_type_hints(group, include_extras=True)
    found: list[inspect.Parameter] = []
    for field in attrs.fields(group):
        if field.init:
            hint = hints[field.name]
            if info := field.metadata.get("option"):
                info.rich_help_panel = panels[field.name]
                hint = Annotated[hint, info]
            required = field.default is attrs.NOTHING
            default = inspect.Parameter.empty if required else field.default
            found.append(_parameter(field.name, hint, default))
    return found


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    for info in getattr(hint, "__metadata__", ()):
        # Typer takes the first name that is given for a default.
        if hint.__origin__ is bool and info.default is ... and not info.param_decls:
            # Without its negation.
            info.param_decls = (f"--{name.replace('_', '-')}",)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=hint)


def command(
    function: Callable[..., None], keywords: Mapping[str, tuple[Any, Any]] | None = None
) -> Callable[..., None]:
    """Expand the option groups of a command into options, and report its errors.

    Args:
        function: The command.
        keywords: Annotations and defaults of further options, which it takes as keywords.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[inspect.Parameter]]] = {}
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            further = keywords or {}
            parameters += [_parameter(name, *further[name]) for name in further]
        elif isinstance(hint, type) and attrs.has(hint):
            groups[name] = hint, _options(hint)
            parameters += groups[name][1]
        else:
            parameters.append(_parameter(name, hint, parameter.default))

    def call(**values: Any) -> None:
        for name, (group, options) in groups.items():
            values[name] = group(**{option.name: values.pop(option.name) for option in options})
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
