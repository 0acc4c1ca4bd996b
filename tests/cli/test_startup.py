"""Which modules a program has loaded before it does anything, for they are its startup time."""

import json
import subprocess
import sys

import pytest
import typer

from async_vmapi.cli.app import COMMANDS, Later

from .programs import LONG, ZONE, clean_environment

LOADED = "import sys, atexit, json; atexit.register(lambda: print(json.dumps([*sys.modules])));"


def loaded(program, *arguments, **variables):
    """Run a program; return its standard output, and the modules that it has loaded in the end."""
    environment = clean_environment(**variables)
    result = subprocess.run(
        [sys.executable, "-c", LOADED + program, *arguments],
        # Coverage loads modules.
        env={k: v for k, v in environment.items() if not k.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    output, _, modules = result.stdout.rstrip("\n").rpartition("\n")
    return output, set(json.loads(modules))


class TestImport:
    # Each was loaded once, for something that most programs do not do.
    UNWANTED = frozenset(
        {
            *("cattrs", "statistics", "importlib.metadata"),
            *("aiohttp.web", "async_vmapi.emulator", "async_vmapi.cli", "async_vmapi.durable"),
        }
    )

    @pytest.mark.programs
    def test_the_client_loads_only_what_it_needs(self):
        """A retry, a create, a cloud in memory load their modules when used."""
        _, modules = loaded("from async_vmapi import *; Client.from_env")
        assert "aiohttp.client" in modules
        assert not modules & self.UNWANTED

    @pytest.mark.programs
    def test_the_package_alone_loads_none_of_its_modules(self):
        """The command line imports it, and needs no HTTP for `--help`."""
        _, modules = loaded("import async_vmapi")
        assert {m for m in modules if m.startswith("async_vmapi")} == {"async_vmapi"}


class TestCommandLine:
    NEEDLESS = frozenset({"aiohttp", "async_vmapi.client", "async_vmapi.emulator", "dbos"})

    @pytest.mark.programs
    def test_help_loads_no_command(self):
        """It shows only names and first lines."""
        shown, modules = loaded("import async_vmapi.__main__", "--help")
        assert all(name in shown for name in COMMANDS)
        assert not modules & (self.NEEDLESS | {"asyncio", "attrs", "async_vmapi.models"})

    @pytest.mark.programs
    def test_a_commands_help_loads_no_client(self):
        """Nor a server, nor a database."""
        shown, modules = loaded("import async_vmapi.__main__", "fleet", "create", "--help")
        assert "--max-failures" in shown
        assert not modules & self.NEEDLESS

    @pytest.mark.programs
    @pytest.mark.parametrize(("line", "found"), [("em", "emulator"), ("fleet cre", "create")])
    def test_completion_loads_no_command(self, line, found, tmp_path):
        """A shell calls it at every key press; only the first time it loads them all."""
        for _ in range(2):
            shown, modules = loaded(
                "from async_vmapi.cli import main; main()",
                *(f"async-vmapi {line}", line.split()[-1]),
                _ASYNC_VMAPI_COMPLETE="bash",
                XDG_CACHE_HOME=str(tmp_path),
            )
            assert shown == found
        assert not modules & (self.NEEDLESS | {"asyncio", "attrs", "rich", "typer"})

    @pytest.mark.programs
    def test_completion_of_names_loads_no_client(self, program, tmp_path):
        """It sends its request without it."""
        program.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        program("completion", "bash")
        shown, modules = loaded(
            "from async_vmapi.cli import main; main()",
            *("async-vmapi vm create --zone ", ""),
            _ASYNC_VMAPI_COMPLETE="bash",
            **program.environment,
        )
        assert ZONE in shown
        assert not modules & (self.NEEDLESS | {"asyncio", "rich", "typer"})

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_list_of_commands_matches_their_help(self, name):
        """The text is repeated to make one of them fast."""
        *_, shown = COMMANDS[name]
        command = Later(name, *COMMANDS[name]).load()
        assert command.name == name
        assert command.help.partition("\n\n")[0].replace("\n", " ") == shown

    def test_an_interruption_during_an_import_ends_the_command(self, monkeypatch):
        """As it would a moment later."""

        def interrupted(name):
            raise KeyboardInterrupt

        monkeypatch.setattr("importlib.import_module", interrupted)
        with pytest.raises(typer.Exit) as caught:
            Later("vm", "", "vms:app", "").load()
        assert caught.value.exit_code == 130
