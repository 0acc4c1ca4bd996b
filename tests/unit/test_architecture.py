"""Rules of the architecture that need code; which module may import which is import-linter's.

Each rule names its exceptions. One that is used no more is an error too, so that the lists stay
true.
"""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_group

import async_vmapi
from async_vmapi import durable
from async_vmapi.bulk import executor as bulk
from async_vmapi.cli import fleet as cli_fleet
from async_vmapi.cli import vms as cli_vms
from async_vmapi.emulator import Settings
from async_vmapi.emulator.vm import Kind
from async_vmapi.models.vm import Operation
from async_vmapi.tasks.rules import RULES
from async_vmapi.vms import VirtualMachines
from async_vmapi.writes.operations import OPERATIONS as SPECS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "async_vmapi"
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}
OPERATIONS = sorted(get_args(Operation))


def calls(tree):
    """Yield every call in a module, or in a part of it, as (dotted name, node)."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


SLEEPS = {"asyncio.sleep", "anyio.sleep", "self._sleep"}
YIELDS = {"asyncio.sleep(0)"}
CALLS = {path: calls(tree) for path, tree in TREES.items()}


def modules_that_call(*names):
    """Return the modules that call one of these."""
    return {path for path, called in CALLS.items() if {name for name, _ in called} & {*names}}


class TestTime:
    """Time is the event loop's, so that a clock that jumps can drive everything (DESIGN, 6)."""

    def test_only_named_modules_read_another_clock(self):
        """Durable jobs span processes, which share the wall clock; HTTP has dates (WIRE §1)."""
        assert modules_that_call(
            "time.time", "time.monotonic", "time.perf_counter", "time.time_ns", "time.sleep"
        ) == {
            *("cli/jobs.py", "durable/sqlite.py", "durable/heartbeat.py"),
            # Output continues where the loop does not.
            *("cli/live.py", "cli/running.py", "cli/writer.py"),
            *("durable/coordinator.py", "durable/operation.py"),
            *("cli/completion/values.py", "transport/pipeline.py"),
            "probe/recorder.py",  # compares the server's clock
        }

    def test_only_named_modules_read_the_date(self):
        """A request's date is signed, and a server's `Retry-After` can be a date (WIRE §1)."""
        assert modules_that_call("datetime.now", "datetime.utcnow", "date.today") == {
            *("cli/debug.py", "cli/watch.py"),
            "emulator/app.py",
            "emulator/cloud.py",
            "emulator/control/server.py",  # logs requests
            "emulator/in_memory.py",
            "transport/pipeline.py",
        }

    def test_only_named_modules_sleep_in_a_loop(self):
        """The hub polls for all: a loop with a sleep in it is a poll, and has its reason here."""
        found = {
            path
            for path, tree in TREES.items()
            if {name for name, _ in CALLS[path]} & SLEEPS
            for loop in ast.walk(tree)
            if isinstance(loop, ast.While | ast.For | ast.AsyncFor)
            # A sleep of no seconds only lets others run.
            if {name for name, call in calls(loop) if ast.unparse(call) not in YIELDS} & SLEEPS
        }
        assert found == {
            "bulk/health.py",  # checks VMs again during a soak
            "cli/jobs.py",  # shows workers again and again
            "cli/progress.py",  # draws frames
            "cli/live.py",  # polls for a command
            "durable/coordinator.py",  # a database sends no events
            "durable/heartbeat.py",  # a thread renews the lease
            "durable/job.py",
            "durable/worker.py",
            "emulator/app.py",  # sends a slow body
            "probe/cleaning.py",  # waits for a VM to appear, after a kill
            "readiness/prober.py",  # probes a VM again
            "tasks/vm_list.py",  # keeps the minimum interval between lists
            "writes/lookup.py",  # finds a create's VM, by lists that all creates share
            "transport/rate_limit.py",  # holds requests back
            "transport/pipeline.py",  # retries
        }

    def test_vms_are_read_by_named_modules_alone(self):
        """The hub reads states; each list is shared."""
        # A refused delete is checked once.
        assert modules_that_call("fetch_vm") == {"tasks/poller.py", "tasks/reads.py"}
        assert modules_that_call("self._vm_lists.poll") == {"tasks/list_poller.py"}
        assert modules_that_call("self._vm_lists.get") == {"writes/lookup.py", "writes/writes.py"}


class TestOutput:
    def test_only_the_command_line_prints(self):
        """A library has no terminal."""
        assert modules_that_call("print", "input", "pprint.pprint", "breakpoint") == {
            *("cli/__init__.py", "cli/emulator.py", "cli/streams.py"),
        }

    def test_loggers_are_named_like_their_modules(self):
        """So ``async_vmapi`` is the one parent logger; others' loggers are only silenced."""
        names = {
            (path, ast.unparse(call.args[0]) if call.args else "")
            for path, called in CALLS.items()
            for name, call in called
            if name.endswith(("getLogger", "logger_of"))
        }
        assert {(path, name) for path, name in names if name != "__name__"} == {
            ("telemetry/logs.py", "module"),
            ("cli/__init__.py", "'async_vmapi'"),
            ("cli/debug.py", "'async_vmapi'"),
            ("cli/durable.py", "'dbos'"),
            ("cli/running.py", "'async_vmapi.transport.pipeline'"),
            ("durable/worker.py", "'dbos'"),
        }
        assert not modules_that_call("logging.basicConfig", "logging.info", "logging.warning")

    def test_logging_calls_are_guarded(self):
        """An application's filter or handler may raise; a call in flight must not notice."""
        assert modules_that_call("logging.getLogger") == {
            "__init__.py",
            "cli/__init__.py",
            "cli/debug.py",
            *("cli/durable.py", "durable/worker.py"),  # silence others' loggers
            "cli/running.py",
            "telemetry/logs.py",
        }

    def test_log_records_have_fields(self):
        """A filter or a JSON formatter finds each value as an attribute."""
        bare = {
            (path, call.lineno)
            for path, called in CALLS.items()
            for name, call in called
            if re.fullmatch(r"_log\.(debug|info|warning|error|exception|critical)", name)
            and "extra" not in {keyword.arg for keyword in call.keywords}
        }
        assert not bare

    def test_log_fields_are_documented(self):
        """Each field has its line in docs/telemetry.md, and each line its field."""
        used = {
            node.value
            for path, tree in TREES.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"vmapi_[a-z_]+", node.value)
        }
        documented = set(re.findall(r"`(vmapi_[a-z_]+)`", (ROOT / "docs/telemetry.md").read_text()))
        assert used == documented

    def test_spans_and_metrics_are_documented(self):
        """Every name that telemetry uses."""
        text = (ROOT / "docs/telemetry.md").read_text()
        used = {
            node.value
            for node in ast.walk(TREES["telemetry/opentelemetry.py"])
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"(vmapi|http|url|server|error)\.[a-z_.]*[a-z_]", node.value)
        }
        metrics = {
            f"vmapi.client.{call.args[0].value}"
            for name, call in CALLS["telemetry/opentelemetry.py"]
            if name == "counter"
        }
        assert len(used) > 15
        assert len(metrics) == 2
        assert {name for name in used | metrics if f"`{name}`" not in text} == set()


class TestTasks:
    def test_every_task_is_referenced(self):
        """The event loop's reference is weak, so an unreferenced task can vanish half done."""
        for path, tree in TREES.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                    name = ast.unparse(node.value.func)
                    assert not name.endswith(("create_task", "ensure_future")), path

    def test_only_named_modules_start_threads(self):
        """Leases are renewed and output is written while the loop is blocked; or there is none."""
        starts = ("threading.Thread", "asyncio.to_thread", "ThreadPoolExecutor")
        assert modules_that_call(*starts) == {
            "emulator/saving.py",  # a write to a file takes long now and then
            "cli/completion/values.py",
            "cli/prompts.py",
            "cli/writer.py",
            "durable/heartbeat.py",
            *("durable/store.py", "durable/worker.py"),  # databases block
            "testing/server.py",
        }


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


class TestImports:
    @pytest.mark.programs
    def test_the_package_alone_loads_no_extra_and_no_emulator(self):
        """Unused parts cost no import time; nor does the version's metadata."""
        code = "import sys; from async_vmapi import Client; print(*sys.modules)"
        loaded = set(run(code).stdout.split())
        assert "async_vmapi.client" in loaded
        assert not loaded & {
            *("opentelemetry", "async_vmapi.otel", "dbos", "async_vmapi.durable", "typer", "rich"),
            *("platformdirs", "async_vmapi.emulator"),
        }
        assert "importlib.metadata" not in modules_that_import(PACKAGE / "__init__.py")

    @pytest.mark.programs
    def test_telemetry_without_its_extra_says_what_to_install(self):
        """Not just the name of a missing module."""
        code = "import sys; sys.modules['opentelemetry'] = None; import async_vmapi.otel"
        assert "pip install 'async-vmapi[otel]'" in run(code).stderr

    @pytest.mark.programs
    def test_nothing_is_printed_without_logging_set_up(self):
        """Not even a warning, which logging's last resort would write to stderr."""
        logger = "logging.getLogger('async_vmapi.writes.writes')"
        code = f"import logging, async_vmapi; {logger}.warning('!')"
        ended = run(code)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    @pytest.mark.programs
    def test_the_command_shows_warnings(self):
        """On a terminal there is no other place for them."""
        code = (
            "import logging, sys; sys.argv = ['async-vmapi', '--help']\n"
            "from async_vmapi.cli import main\n"
            "try: main()\n"
            "except SystemExit: logging.getLogger('async_vmapi.writes.writes').warning('left over')"
        )
        assert run(code).stderr == "left over\n"

    def test_the_emulator_shares_little_with_the_client(self):
        """Errors, the signing and a response's form; else both could be wrong in the same way."""
        shared = {
            name
            for path in (PACKAGE / "emulator").rglob("*.py")
            for name in modules_that_import(path)
            if name.startswith("async_vmapi") and not name.startswith("async_vmapi.emulator")
        }
        assert shared == {
            *("async_vmapi.errors", "async_vmapi.signing", "async_vmapi.transport.transport"),
            # What a provider was seen to do.
            "async_vmapi.facts",
        }

    @pytest.mark.parametrize(
        ("name", "fixed"),
        [
            # CVE-2026-59881, CVE-2026-69243, CVE-2026-69244
            ("aiohttp", "3.14.3"),
            # CVE-2026-63374, CVE-2026-64847
            ("anyio", "4.14.2"),
        ],
    )
    def test_minimum_versions_are_above_known_vulnerabilities(self, name, fixed):
        """`nox -s audit` looks for more of them, where it can."""
        needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        (minimum,) = (need.partition(">=")[2] for need in needs if need.startswith(f"{name}>="))
        assert [*map(int, minimum.split("."))] >= [*map(int, fixed.split("."))]

    def test_every_dependency_has_a_minimum(self):
        """It is what `nox -s minimum` installs."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = [need for extra in project["optional-dependencies"].values() for need in extra]
        for need in project["dependencies"] + extras:
            assert re.fullmatch(r"[a-z-]+>=[\d.]+(,<[\d.]+)?", need), need


def modules_that_import(path):
    """Return the names that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


class TestMap:
    @pytest.mark.parametrize("folder", [PACKAGE, ROOT / "tests"], ids=lambda path: path.name)
    def test_every_module_is_on_it(self, folder):
        """CONTRIBUTING.md names the module of each subject."""
        text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Architecture")[2]
        text = text.partition("\n## ")[0]
        for path in folder.iterdir():
            if path.name.startswith(("_", ".")) or path.name in {"py.typed", "conftest.py"}:
                continue
            if folder != PACKAGE:
                name = f"tests/{path.name}"
            else:
                name = path.name if path.is_file() else f"{path.name}/"
            assert f"`{name}`" in text, name

    def test_every_name_on_it_exists(self):
        """A wrong name is worse than none."""
        text = (ROOT / "CONTRIBUTING.md").read_text()
        table = re.findall(r"^\|.*\|$", text, re.MULTILINE)
        for name in re.findall(r"`([a-z_]+(?:\.py|/))`", "".join(table)):
            places = (ROOT / name, PACKAGE / name, *PACKAGE.rglob(name))
            assert any(place.exists() for place in places), name


@pytest.mark.parametrize("operation", OPERATIONS)
class TestOperations:
    """The places that know each operation, in the order of CONTRIBUTING.md."""

    def test_each_has_a_completion_rule(self, operation):
        """Without it a task could not be awaited."""
        assert operation in RULES

    def test_each_is_a_method_for_one_vm(self, operation):
        """A coroutine that returns a `Task`."""
        method = getattr(VirtualMachines, operation)
        assert inspect.iscoroutinefunction(method)

    def test_each_is_known_to_the_emulator(self, operation):
        """Its duration there can be set."""
        assert operation in get_args(Kind)
        assert hasattr(Settings(), operation)

    def test_each_is_a_bulk_operation(self, operation):
        """In memory and durably, with its arguments checked before anything is sent."""
        assert operation in SPECS
        assert inspect.iscoroutinefunction(getattr(bulk.BulkExecutor, operation))
        assert inspect.iscoroutinefunction(getattr(durable.Submission, operation))

    def test_each_is_a_command(self, operation):
        """For one VM and for a fleet."""
        for group in (cli_vms.app, cli_fleet.app):
            assert operation.replace("_", "-") in get_group(group).commands

    def test_no_place_knows_another(self, operation):
        """The places list the same operations."""
        assert set(RULES) == set(get_args(Kind)) == set(OPERATIONS)
        assert set(SPECS) == {*OPERATIONS, "rename"}


UNITS = {
    "ram": "MB",
    "wait_for": "inutes",
    "timeout": "econds",
    "connect_timeout": "econds",
    "reconcile_timeout": "econds",
    "cancel_grace": "econds",
    "max_staleness": "econds",
    "min_poll_interval": "econds",
    "max_poll_interval": "econds",
    "latency": "econds",
    "within": "econds",
    "elapsed": "econds",
    "retry_after": "econds",
    "max_response_size": "ytes",
    "size": "GB",
}


def documented():
    """Yield every public class, method and function, with its name."""
    for name in async_vmapi.__all__:
        found = getattr(async_vmapi, name)
        if not isinstance(found, type):
            continue
        yield name, found
        for attribute, value in vars(found).items():
            if attribute.startswith("_"):
                continue
            value = getattr(value, "__func__", getattr(value, "fget", value))
            if inspect.isfunction(value):
                yield f"{name}.{attribute}", value
    for attribute, value in vars(VirtualMachines).items():
        if inspect.isfunction(value) and not attribute.startswith("_"):
            yield f"VirtualMachines.{attribute}", value


class TestDocstrings:
    @pytest.mark.parametrize(
        ("name", "found"), list(documented()), ids=[name for name, _ in documented()]
    )
    def test_public_docstrings_have_units(self, name, found):
        """A number's docstring says of what, where its argument is described."""
        text = inspect.getdoc(found) or ""
        assert text.strip(), name
        entries = re.findall(r"^    (\w+): ((?:.+)(?:\n(?:     +.*)?)*)", text, re.MULTILINE)
        for argument, about in entries:
            if unit := UNITS.get(argument):
                assert re.search(unit, about), f"{name}: {argument}"
