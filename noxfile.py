import shutil
import sys
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
# The Python that nox runs on is one that this machine surely has.
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
MEASURED = OWN if OWN in PYTHONS else PYTHONS[0]
TESTS = nox.project.dependency_groups(PYPROJECT, "tests")
LINT = nox.project.dependency_groups(PYPROJECT, "lint")
DOCS = nox.project.dependency_groups(PYPROJECT, "docs")
TYPES = nox.project.dependency_groups(PYPROJECT, "types")
SOURCES = ("async_vmapi", "tests", "benchmarks", "docs", "noxfile.py")

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
# Every Python of the classifiers that this machine has; CI machines need not have them all.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "docs", "tests", "package"]


@nox.session
def lint(session: nox.Session) -> None:
    session.install(*LINT, ".[cli,durable]")
    session.run("ruff", "format", "--check", *SOURCES)
    session.run("ruff", "check", *SOURCES)
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def types(session: nox.Session) -> None:
    session.install(*TYPES, "-e", ".[cli,durable]")
    session.run("mypy", "--strict", "async_vmapi", "tests/typing")
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning, such as of a link that leads nowhere, is an error."""
    if shutil.which("dot") is None:
        session.error("the pictures need Graphviz; install its package, graphviz")
    session.install(*DOCS, ".[cli,durable]")
    target = Path(session.create_tmp()).resolve() / "html"
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-j", "2", "docs", str(target))
    session.log(f"to be read at {target / 'index.html'}")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests on one Python, with their coverage; on the others all but those of programs.

    Both take as long as all the rest; what programs do, the other tests do within a process.
    """
    session.install(*TESTS, "-e", ".[cli,durable]")
    chosen = ["-m", "not programs"]
    if session.python == MEASURED:
        session.run("coverage", "erase", silent=True)
        chosen = ["--cov", "--cov-report=term"]
    session.run(
        *("python", "-X", "dev", "-W", "error", "-m", "pytest"),
        *("-n", "auto", "--dist", "worksteal"),
        *chosen,
        *session.posargs,
    )


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel, and use the wheel in an environment that has nothing else."""
    session.install("build", "twine")
    work = Path(session.create_tmp()).resolve()
    dist, bare = work / "dist", work / "bare"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    (wheel,) = dist.glob("*.whl")
    session.run("python", "-m", "venv", "--clear", str(bare))
    python = str(bare / "bin" / "python")
    with session.chdir(work):
        session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
        session.run(python, "-c", "import async_vmapi, async_vmapi.emulator", external=True)
        # Without the extra, the command says what to install.
        session.run(python, "-m", "async_vmapi", external=True, success_codes=[1], silent=True)
        session.run(
            *(python, "-c", "import async_vmapi.durable"),
            external=True,
            success_codes=[1],
            silent=True,
        )
        session.run(python, "-m", "pip", "install", "--quiet", f"{wheel}[cli]", external=True)
        session.run(str(bare / "bin" / "async-vmapi"), "demo", external=True)
