import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
# The newest that this machine has, where one can see which it has.
NEWEST = ([p for p in PYTHONS if shutil.which(f"python{p}")] or PYTHONS)[-1]
# The Python that nox runs on is one that this machine surely has.
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
MEASURED = OWN if OWN in PYTHONS else PYTHONS[0]
TESTS = nox.project.dependency_groups(PYPROJECT, "tests")
LINT = nox.project.dependency_groups(PYPROJECT, "lint")
DOCS = nox.project.dependency_groups(PYPROJECT, "docs")
BENCHMARKS = nox.project.dependency_groups(PYPROJECT, "benchmarks")
TYPES = nox.project.dependency_groups(PYPROJECT, "types")
EXTRAS = ".[cli,durable,otel]"
SOURCES = (
    *("async_vmapi", "pytest_async_vmapi.py"),
    *("tests", "examples", "benchmarks", "docs", "noxfile.py"),
)
TYPED = ("async_vmapi", "pytest_async_vmapi.py", "tests/typing", "examples")

NEEDS = (
    *PYPROJECT["project"]["dependencies"],
    *(n for extra in PYPROJECT["project"]["optional-dependencies"].values() for n in extra),
)
OLDEST = [re.sub(r"^([\w-]+)>=([\d.]+).*", r"\1==\2", need) for need in NEEDS]

# Built once, by `release`, for every Python of `installed`.
DIST = Path(".nox/dist").resolve()
# What somebody does first with the package, and what is easily left out of it.
USE = """
import asyncio, importlib.metadata, importlib.resources
import async_vmapi, async_vmapi.emulator

async def main():
    cloud = async_vmapi.emulator.CloudAPI()
    async with async_vmapi.Client.in_memory(cloud) as client:
        assert await client.regions.list() and await client.vms.list() == []

asyncio.run(main())
assert importlib.metadata.version("async-vmapi") == async_vmapi.__version__
assert (importlib.resources.files("async_vmapi") / "py.typed").is_file()
"""
# What uses the dependencies, and not what the package decides by itself: that is the same with all.
MINIMUM = (
    *(f"tests/unit/test_{name}.py" for name in ("codec", "models", "report", "emulator_api")),
    *(f"tests/http/test_{name}.py" for name in ("client", "transport", "emulator", "telemetry")),
    *(f"tests/simulation/test_{name}.py" for name in ("pace", "telemetry")),
    *("tests/cli/test_cli.py", "tests/durable/test_moments.py"),
)
CAMPAIGNS = (
    *(
        f"tests/simulation/test_{name}.py"
        for name in (
            *("bulk_properties", "fuzz", "hub", "lost_creates", "model", "polling", "readiness"),
            *("stale_reads", "writes"),
        )
    ),
    "tests/unit/test_snapshot.py",
    "tests/cli/test_emulator_state.py",
)

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
# Every Python of the classifiers that this machine has; CI machines need not have them all.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = [
    "lint",
    "types",
    "docs",
    "tests",
    "pythons",
    "minimum",
    "audit",
    "release",
    "installed",
]


@nox.session
def lint(session: nox.Session) -> None:
    session.install(*LINT, EXTRAS)
    session.run("ruff", "format", "--check", *SOURCES)
    session.run("ruff", "check", *SOURCES)
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def types(session: nox.Session) -> None:
    session.install(*TYPES, "pytest", "fastapi", "uvicorn", "-e", EXTRAS)
    session.run("mypy", "--strict", *TYPED)
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning, such as of a link that leads nowhere, is an error."""
    if shutil.which("dot") is None:
        session.error("the pictures need Graphviz; install its package, graphviz")
    session.install(*DOCS, EXTRAS)
    target = Path(session.create_tmp()).resolve() / "html"
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-j", "2", "docs", str(target))
    session.log(f"to be read at {target / 'index.html'}")


@nox.session(python=MEASURED)
def tests(session: nox.Session) -> None:
    """All tests on one Python, with their coverage."""
    session.install(*TESTS, "-e", EXTRAS)
    session.run("coverage", "erase", silent=True)
    run_tests(session, "--cov", "--cov-report=term")


@nox.session(python=[python for python in PYTHONS if python != MEASURED])
def pythons(session: nox.Session) -> None:
    """The unit tests on the other Pythons; on the oldest and the newest all but those of programs.

    What programs do, the other tests do within a process.
    """
    session.install(*TESTS, "-e", EXTRAS)
    # Also asyncio's debug mode, which takes a quarter more time.
    session.env["PYTHONDEVMODE"] = "1"
    chosen = () if session.python in (PYTHONS[0], NEWEST) else ("tests/unit",)
    run_tests(session, "-m", "not programs", *chosen)


def run_tests(session: nox.Session, *chosen: str) -> None:
    """Run tests; a warning is an error.

    Those of programs and durable jobs mostly wait, so there are two processes for each core.
    """
    session.run(
        *("python", "-W", "error", "-m", "pytest"),
        *("-n", str(2 * (os.cpu_count() or 2)), "--dist", "worksteal"),
        *chosen,
        *session.posargs,
        # Each process compiles all modules again where none is to be cached.
        env={"PYTHONDONTWRITEBYTECODE": None},
    )


@nox.session(python=PYTHONS[0])
def minimum(session: nox.Session) -> None:
    """The tests that use each dependency, with the oldest version of it that is allowed.

    The tests' own tools are the newest.
    """
    oldest = Path(session.create_tmp()) / "oldest.txt"
    oldest.write_text("\n".join(OLDEST))
    session.install(*TESTS, "-e", EXTRAS, "--constraint", str(oldest.resolve()))
    # The oldest anyio's plugin imports what the newest pytest warns of; nothing here uses it.
    run_tests(session, *("-p", "no:anyio"), *("-m", "not programs"), *MINIMUM)
    # Options that are read from the environment, by the command itself.
    run_tests(session, *("-p", "no:anyio"), "tests/cli/test_jobs.py")


@nox.session(python=MEASURED)
def campaign(session: nox.Session) -> None:
    """Run every case of what the tests run a tenth of; to be run before a release."""
    session.install(*TESTS, "-e", EXTRAS)
    session.env["VMAPI_CAMPAIGN"] = "1"
    run_tests(session, *CAMPAIGNS)


@nox.session
def audit(session: nox.Session) -> None:
    """Look for known holes in the oldest dependencies that are allowed, and in the newest.

    Where they cannot be looked up, for want of a network, it says so and fails nothing.
    """
    session.install(EXTRAS)
    installed = session.run(
        "python", "-m", "pip", "freeze", "--exclude", "async-vmapi", silent=True
    )
    session.install("pip-audit")
    folder = Path(session.create_tmp()).resolve()
    for name, pins in (("oldest", OLDEST), ("newest", str(installed).split("\n"))):
        pinned, report = folder / f"{name}.txt", folder / f"{name}.json"
        pinned.write_text("\n".join(pins))
        report.unlink(missing_ok=True)
        session.run(
            *("pip-audit", "--requirement", str(pinned), "--no-deps", "--disable-pip"),
            *("--format", "json", "--output", str(report), "--progress-spinner", "off"),
            *("--timeout", "10"),
            success_codes=[0, 1],
            silent=True,
        )
        text = report.read_text() if report.exists() else ""
        found = json.loads(text)["dependencies"] if text.strip() else []
        # Also where a mirror knows packages, and nothing of their holes.
        known = [one for one in found if "vulns" in one]
        if not known:
            session.warn(f"the {name} dependencies could not be looked up here: NOT AUDITED")
            continue
        holes = [f"{d['name']} {d['version']}: {v['id']}" for d in known for v in d["vulns"]]
        if holes:
            session.error(f"known holes in the {name} dependencies: {', '.join(holes)}")
        session.log(f"no known hole in {len(known)} of the {len(found)} {name} dependencies")


@nox.session
def release(session: nox.Session) -> None:
    """Build what is published: sdist, wheel, and the list of all that they bring along (SBOM).

    They are built twice: anybody who builds them from the same commit gets the same bytes.
    """
    session.install(*PYPROJECT["build-system"]["requires"], "build", "cyclonedx-bom", "twine")
    commit = session.run(
        *("git", "log", "-1", "--format=%ct"), external=True, silent=True, log=False
    )
    session.env["SOURCE_DATE_EPOCH"] = str(commit).strip()
    again, bare = (Path(session.create_tmp()).resolve() / name for name in ("again", "bare"))
    for folder in (DIST, again, bare):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (DIST, again):
        session.run(
            *("python", "-m", "build", "--no-isolation", "--outdir", str(folder)), silent=True
        )
    for file in DIST.iterdir():
        if file.read_bytes() != (again / file.name).read_bytes():
            session.error(f"{file.name} differs from one build to the next")
    session.run("twine", "check", "--strict", *map(str, DIST.iterdir()))
    (wheel,) = DIST.glob("*.whl")
    # Nothing else is in there: not pip, and not the tools of this session.
    session.run("python", "-m", "venv", "--without-pip", str(bare))
    session.run(
        *("python", "-m", "pip", "--python", str(bare), "install", "--quiet"),
        f"{wheel}[cli,durable,otel]",
    )
    bill = DIST / f"{wheel.name.partition('-py3')[0]}.cdx.json"
    session.run(
        *("cyclonedx-py", "environment", "--output-reproducible", "-o", str(bill)),
        *("--pyproject", "pyproject.toml", "--mc-type", "library", str(bare)),
    )
    # It does not find a version that is in the code.
    content = json.loads(bill.read_text())
    content["metadata"]["component"]["version"] = wheel.name.split("-")[1]
    bill.write_text(json.dumps(content, indent=2) + "\n")
    for file in sorted(DIST.iterdir()):
        session.log(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file}")


@nox.session(python=PYTHONS)
def installed(session: nox.Session) -> None:
    """Use the sdist, then the wheel, in an environment that has nothing else."""
    if not DIST.exists():
        session.error("there is nothing to install yet: nox -s release installed")
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    session.chdir(session.create_tmp())
    session.install("--quiet", str(sdist))
    session.run("python", "-I", "-W", "error", "-c", USE)
    session.install("--quiet", "--force-reinstall", "--no-deps", str(wheel))
    session.run("python", "-I", "-W", "error", "-c", USE)
    # Without the extras, they say what to install.
    session.run("python", "-m", "async_vmapi", success_codes=[1], silent=True)
    for extra in ("durable", "otel"):
        code = f"import async_vmapi.{extra}"
        session.run("python", "-c", code, success_codes=[1], silent=True)
    session.install("--quiet", f"{wheel}[cli]")
    # pytest finds the fixtures by itself.
    session.install("--quiet", "pytest")
    # Not this repository's settings, which are above it.
    Path("pytest.ini").write_text("[pytest]\n")
    Path("test_plugin.py").write_text("def test_it(vm_client, vm_server): pass\n")
    session.run("python", "-m", "pytest", "-q", "test_plugin.py", silent=True)
    if session.python == MEASURED:
        session.run("async-vmapi", "demo")
    else:
        session.run("async-vmapi", "--help", silent=True)


@nox.session
def benchmark(session: nox.Session) -> None:
    """Run one of `benchmarks/`, where the peers are too: ``nox -s benchmark -- peers --small``."""
    names = sorted(path.stem for path in Path("benchmarks").glob("*.py") if path.stem != "results")
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"which one? nox -s benchmark -- {{{','.join(names)}}} [OPTIONS]")
    name, *options = session.posargs
    session.install(*BENCHMARKS, "-e", EXTRAS)
    session.run("python", f"benchmarks/{name}.py", *options)
