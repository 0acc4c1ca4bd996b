"""The public names."""

import ast
import importlib
import importlib.metadata
import inspect
import re
import tomllib
import types
import typing
from pathlib import Path

import pytest

import async_vmapi
from async_vmapi import errors
from async_vmapi.client import ClientOptions
from async_vmapi.options import checked

ROOT = Path(__file__).parents[2]

PUBLIC = {
    *("Client", "Task", "TaskEvent", "Evidence", "Operation", "Ready"),
    *("Explanation", "Seen"),
    *("VirtualMachine", "PublicInterface", "IPv4Address", "StorageVolume", "Network"),
    *("Reference", "Autoscaler", "Console"),
    *("CreateRequest", "ImageBoot", "CdromBoot", "SecretRef"),
    *("Region", "Zone", "Template", "SSHKey"),
    *("VMAPIError", "InvalidArgument", "InvalidState"),
    *("JobExists", "JobNotFound"),
    *("APIError", "BadRequest", "AuthenticationError", "NotFound", "Conflict"),
    *("RateLimited", "ServerError"),
    *("Transport", "HTTPTransport", "Response"),
    *("TransportError", "ConnectError", "TransportTimeout", "DecodingError"),
    *("OutcomeUnknown", "UnresolvedWrite"),
    *("BulkExecutor", "BulkPlan", "BulkEvent", "BulkReport", "Outcome", "BulkInterrupted"),
    *("TaskError", "TaskFailed", "TaskTimeout", "VMVanished"),
}

FACES = {
    "async_vmapi": PUBLIC,
    "async_vmapi.emulator": {
        *("Emulator", "Settings", "Fault", "FaultKind", "FaultPlan"),
        *("Cloud", "CloudAPI", "CloudOperation", "CloudVM", "Change"),
        *("Request", "Response", "Handled", "Delivery", "deliver", "InMemoryTransport"),
        *("snapshot", "restore"),
    },
    "async_vmapi.durable": {
        *("DurableFleet", "Submission", "DurableJob", "JobState", "JobStatus"),
        *("WorkerItem", "WorkerStatus"),
        *("DatabaseLost", "DatabaseUnavailable", "UntrustedData", "JobExists", "JobNotFound"),
    },
    "async_vmapi.facts": {"SPECS", "Fact", "FactSpec", "Facts"},
    "async_vmapi.otel": {"OpenTelemetry"},
    "async_vmapi.probe": {"Estimate", "Probe", "ProbePlan", "ProbeReport"},
    "async_vmapi.rehearsal": {
        *("Hazards", "Rehearsal", "RehearsalRun", "Spread", "Timeline", "WaveSpan"),
    },
    "async_vmapi.testing": {"QUICK", "VMCloud", "VMServer"},
}
"""What docs/stability.md promises: a change here changes the public API."""

FIXTURES = {
    *("vm_cloud", "vm_client", "vm_server", "vm_settings", "vm_facts", "vm_virtual_time"),
}
"""What pytest finds where the package is installed."""

USES = "".join(path.read_text() for path in sorted((ROOT / "tests/typing").glob("*.py")))
REFERENCE = "".join(path.read_text() for path in sorted((ROOT / "docs/reference").glob("*.md")))


@pytest.mark.parametrize("face", FACES)
class TestPublicNames:
    def test_exactly_the_documented_names_are_exported(self, face):
        """Adding or removing a public name is a decision, not an accident."""
        assert set(importlib.import_module(face).__all__) == FACES[face]

    def test_each_name_can_be_imported_and_has_a_docstring(self, face):
        """Classes and functions have their own."""
        module = importlib.import_module(face)
        for name in FACES[face]:
            found = getattr(module, name)
            if isinstance(found, type | types.FunctionType):
                assert (vars(found) if isinstance(found, type) else {"__doc__": found.__doc__})[
                    "__doc__"
                ], name

    def test_each_name_is_in_the_stability_promise(self, face):
        """Names that are not on that page may change."""
        assert f"`{face}`" in (ROOT / "docs/stability.md").read_text()

    def test_each_name_is_in_the_reference(self, face):
        """The build of the documentation then finds its docstring, or fails."""
        shown = set(re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)", REFERENCE, re.MULTILINE))
        assert FACES[face] <= shown

    def test_type_checkers_see_a_use_of_each(self, face):
        """tests/typing is the contract about types."""
        unused = {name for name in FACES[face] if not re.search(rf"\b{name}\b", USES)}
        assert not unused


class TestFixtures:
    def test_exactly_these_are_found_by_pytest(self):
        """Ours hide no fixture of a suite under another name."""
        tree = ast.parse((ROOT / "pytest_async_vmapi.py").read_text())
        found = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and "pytest.fixture" in map(ast.unparse, node.decorator_list)
        }
        assert found == FIXTURES

    def test_each_is_documented(self):
        """How to use it, and in the reference."""
        text = (ROOT / "docs/testing.md").read_text()
        assert {name for name in FIXTURES if f"`{name}`" in text} == FIXTURES
        assert set(re.findall(r"autofunction:: (vm_\w+)\(", REFERENCE)) == FIXTURES


class TestOptions:
    @pytest.mark.parametrize("name", ["__init__", "for_region", "from_env", "in_memory"])
    def test_all_constructors_take_them(self, name):
        """Whichever way a client is made."""
        *_, last = inspect.signature(getattr(async_vmapi.Client, name)).parameters.values()
        assert last.kind is last.VAR_KEYWORD
        assert last.annotation == typing.Unpack[ClientOptions]

    def test_each_is_described_with_its_default(self):
        """The signatures show neither."""
        body = ast.parse(inspect.getsource(ClientOptions)).body[0].body[1:]
        texts = {
            field.target.id: " ".join(text.value.value.split())
            for field, text in zip(body[::2], body[1::2], strict=True)
        }
        assert texts.keys() == ClientOptions.__annotations__.keys()
        for name, default in checked({}).items():
            assert f"The default is {default}" in texts[name]

    def test_an_unknown_one_is_named(self):
        """With those that there are."""
        given = {"base_url": "https://a.invalid", "api_key": "k", "api_secret": "s"}
        with pytest.raises(TypeError, match=r"no option 'max_conections'.*max_connections"):
            async_vmapi.Client(**given, max_conections=3)


class TestExports:
    def test_the_names_are_sorted_and_unique(self):
        """The list stays easy to read."""
        assert list(async_vmapi.__all__) == sorted(set(async_vmapi.__all__))

    def test_nothing_else_is_public(self):
        """Besides exports and submodules, the package has no public name."""
        found = {
            name
            for name in dir(async_vmapi)
            if not name.startswith("_")
            and not isinstance(getattr(async_vmapi, name), types.ModuleType)
        }
        assert found == PUBLIC

    def test_lazy_imports_match_those_for_type_checkers(self):
        """Those read imports that are not executed."""
        tree = ast.parse(Path(async_vmapi.__file__).read_text())
        (block,) = (
            node
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "typing.TYPE_CHECKING"
        )
        seen = {
            alias.name: getattr(importlib.import_module(line.module), alias.name)
            for line in block.body
            for alias in line.names
        }
        assert seen == {name: getattr(async_vmapi, name) for name in PUBLIC}

    def test_another_name_is_an_attribute_error(self):
        """As for any module."""
        with pytest.raises(AttributeError, match="module 'async_vmapi' has no attribute 'client_'"):
            _ = async_vmapi.client_

    def test_every_error_is_exported(self):
        """Every exception can be caught by a name from the package itself."""
        assert set(errors.__all__) <= set(async_vmapi.__all__)

    def test_the_version_is_the_distributions(self):
        """It is defined here, where reading it costs nothing; pyproject.toml reads it."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        assert project["project"]["dynamic"] == ["version"]
        assert project["tool"]["hatch"]["version"]["path"] == "async_vmapi/__init__.py"
        assert async_vmapi.__version__ == importlib.metadata.version("async-vmapi")
        assert re.fullmatch(r"\d+\.\d+\.\d+", async_vmapi.__version__)

    def test_the_package_is_marked_as_typed(self):
        """Type checkers read it only with the marker of PEP 561."""
        assert (Path(async_vmapi.__file__).parent / "py.typed").is_file()
