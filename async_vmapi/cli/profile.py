"""``async-vmapi profile``: store endpoints and credentials, and choose the default ones."""

import re
from pathlib import Path
from typing import Annotated, Final

import attrs
import typer

from async_vmapi.cli.commands import Commands
from async_vmapi.cli.listing import Columns, Format, Listing
from async_vmapi.cli.options import Yes, read_text
from async_vmapi.cli.profile_editing import current, editing
from async_vmapi.cli.profile_file import DEFAULT_KEY, ProfileFile, configured, profiles_path
from async_vmapi.cli.profiles import client_of
from async_vmapi.cli.prompts import agree, ask_hidden, ask_visible, has_terminal
from async_vmapi.cli.running import ExitCode, fail, say
from async_vmapi.redaction import Secret

__all__ = ["ProfileRow", "app"]

app = Commands("Store endpoints and credentials by name.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Profile name.")]

# Names that need no quotes, in TOML and in shells.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@attrs.frozen
class ProfileRow:
    """A profile, without its credentials.

    Attributes:
        name: The profile's name.
        region: The region, if it has one.
        url: The URL of the API, if it has one instead.
        default: Whether it is the default profile.
    """

    name: str
    region: str | None
    url: str | None
    default: bool


_COLUMNS: Final = Columns[ProfileRow](
    {
        "profile": lambda profile: profile.name,
        "endpoint": lambda profile: profile.region or profile.url or "",
        "default": lambda profile: "yes" if profile.default else "",
    }
)


@app.add("list")
def list_(listing: Listing) -> None:
    """List the profiles, and mark the default one; credentials are not shown."""
    listing.show(_rows, _COLUMNS)
    _warn_of_environment()


@app.add("show")
def show(name: Name, output: Format) -> None:
    """Show a profile without its credentials."""
    output.show_one(_COLUMNS.named(_rows(), name), _COLUMNS)


def _rows() -> list[ProfileRow]:
    file = current()
    return [
        ProfileRow(
            name, _shown(settings.get("region")), _shown(settings.get("url")), name == file.default
        )
        for name, settings in sorted(file.profiles.items())
    ]


@app.add("create")
def create(
    name: Name,
    *,
    region: Annotated[
        str | None, typer.Option(help="Region, like eu-poland-1warszawa; asked for by default.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="URL of the API, instead of a region.")] = None,
    stdin: Annotated[
        bool,
        typer.Option(
            "--stdin", help="Read the API key and the secret from standard input, a line each."
        ),
    ] = False,
) -> None:
    """Store a profile; asks for the API key, and without echo for the secret.

    The first profile becomes the default one.
    """
    if not _NAME.fullmatch(name) or name == DEFAULT_KEY:
        fail(
            f"{name!r} cannot be a profile name: use at most 64 letters, digits, - and _",
            ExitCode.USAGE,
        )
    if region is not None and url is not None:
        fail("give either --region or --url", ExitCode.USAGE)
    _refuse_existing(current(), name)
    settings = {"url": url} if url is not None else {"region": region}
    if stdin:
        if has_terminal():
            fail("--stdin is for a file or a pipe: a terminal shows what is typed", ExitCode.USAGE)
        if settings == {"region": None}:
            fail("--stdin requires --region or --url", ExitCode.USAGE)
        key, secret = _from_stdin()
    else:
        if not has_terminal():
            fail("--stdin is required if standard input is not a terminal", ExitCode.USAGE)
        if settings == {"region": None}:
            settings = {"region": ask_visible("Region, like eu-poland-1warszawa")}
        key, secret = Secret(ask_visible("API key")), ask_hidden("API secret (not shown)")
    hidden = {setting: Secret(value) for setting, value in settings.items()}
    hidden |= {"api_key": key, "api_secret": secret}
    client_of(profiles_path(), name, hidden)  # checks them
    with editing() as (file, content):
        _refuse_existing(file, name)
        content[name] = {setting: value.text() for setting, value in hidden.items()}
        default = file.default
        if default not in file.profiles and name != default:
            content[DEFAULT_KEY] = default = name
    say(f"profile {name!r} is stored in {file.path}")
    if name == default:
        say("it is the default")
        _warn_of_environment()
    else:
        say(f"use it with --profile {name}, or make it the default: async-vmapi profile use {name}")


@app.add("use")
def use(name: Name) -> None:
    """Make a profile the default one."""
    with editing() as (file, content):
        file.settings(name)
        content[DEFAULT_KEY] = name
    say(f"profile {name!r} is the default")
    _warn_of_environment()


@app.add("delete")
def delete(name: Name, yes: Yes = False) -> None:
    """Delete a profile, with its credentials."""
    settings = current().settings(name)
    if not yes:
        if not has_terminal():
            fail("--yes is required if standard input is not a terminal", ExitCode.USAGE)
        endpoint = _shown(settings.get("region")) or _shown(settings.get("url"))
        agree(f"Delete profile {name!r} of {endpoint}?")
    with editing() as (file, content):
        file.settings(name)
        del content[name]
        if file.default == name and DEFAULT_KEY in content:
            del content[DEFAULT_KEY]
    say(f"profile {name!r} is deleted")
    if file.default == name and len(file.profiles) > 1:
        say("there is no default profile now; choose one with: async-vmapi profile use NAME")


def _refuse_existing(file: ProfileFile, name: str) -> None:
    if name in file.profiles:
        fail(
            f"profile {name!r} exists; to replace it, run first: async-vmapi profile delete {name}"
        )


def _shown(value: Secret | None) -> str | None:
    """Return a region or URL; None if it is missing, or may hold a password."""
    found = None if value is None else value.reveal()
    return found if isinstance(found, str) and "@" not in found else None


def _warn_of_environment() -> None:
    if names := configured():
        say(f"the environment precedes the default profile: {', '.join(names)}")


def _from_stdin() -> tuple[Secret, Secret]:
    key, _, secret = read_text(Path("-")).strip().partition("\n")
    if "\n" in secret:
        fail("standard input must have two lines: the API key and the secret", ExitCode.USAGE)
    return Secret(key.strip()), Secret(secret.strip())
