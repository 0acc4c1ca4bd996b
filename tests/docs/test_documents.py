"""The code in the documents runs unchanged."""

import asyncio
import os
import re
from unittest import mock

import pytest

import async_vmapi
from async_vmapi.cli.demo import FastLoop

from .blocks import ROOT, LocalCloud, Shell, a_machine, documents

FOLDER = ROOT / "docs"
FILES = [ROOT / "README.md", *sorted(FOLDER.rglob("*.md"))]
OUTSIDE = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")]
LANGUAGES = {"python", "sh", "toml"}
# Not run: errors of other origins, and the output of programs.
NOT_CODE = {"text"}
INSTALLED = re.compile(r"pip install --quiet '(\S*)\[cli\]'")
FENCE = re.compile(r"^```(\S.*)$", re.MULTILINE)


def with_code():
    return [file for file in FILES if LANGUAGES & set(FENCE.findall(file.read_text()))]


@pytest.mark.programs
class TestDocuments:
    @pytest.mark.parametrize("file", with_code(), ids=lambda f: str(f.relative_to(ROOT)))
    def test_its_code_works(self, file, tmp_path, monkeypatch):
        """Each block after the other, with a cloud twenty times as fast as life."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("asyncio.events.new_event_loop", FastLoop)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("ROOT_PASSWORD", "hunter2hunter2")
        # A shell's block may set any variable.
        with mock.patch.dict(os.environ), LocalCloud() as emulator:
            monkeypatch.setenv("VMAPI_URL", emulator.url)
            monkeypatch.setenv("VMAPI_API_KEY", emulator.api_key)
            monkeypatch.setenv("VMAPI_API_SECRET", emulator.api_secret)
            monkeypatch.setenv("VMAPI_MAX_STALENESS", "0")
            shell = Shell(tmp_path, os.environ)
            document = documents(shell).parse(file)
            names = {name: getattr(async_vmapi, name) for name in async_vmapi.__all__}
            document.namespace.update(
                names,
                __name__="__main__",
                asyncio=asyncio,
                emulator=emulator,
                a_machine=a_machine,
            )
            try:
                for example in document.examples():
                    example.evaluate()
            finally:
                shell.close()


class TestLinks:
    @pytest.mark.parametrize("file", OUTSIDE, ids=lambda f: f.name)
    def test_no_link_is_broken(self, file):
        """The build of the documentation checks its own; these are outside it."""
        text = file.read_text()
        links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
        inside = [link.partition("#")[0] for link in links if "://" not in link]
        assert all((ROOT / link).exists() for link in inside), inside


class TestInstallation:
    """The README's way to install is the only one, and the one to change on publication."""

    @pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
    def test_there_is_one_way(self, file):
        """A checkout's folder, or the name of the published package."""
        found = re.findall(r"'(\S*)\[[a-z,]+\]'", file.read_text())
        (way,) = INSTALLED.findall(FILES[0].read_text())
        assert set(found) <= {way}

    def test_where_it_is_said(self):
        """Pages that name an extra refer to this one."""
        assert INSTALLED.findall((FOLDER / "install.md").read_text())


class TestLanguages:
    @pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
    def test_every_block_is_run_or_no_code(self, file):
        """Each names its language."""
        text = file.read_text()
        opened = FENCE.findall(text)
        kinds = {kind for kind in opened if not kind.startswith("{")}
        assert kinds <= LANGUAGES | NOT_CODE
        assert text.count("\n```") == 2 * len(opened)
