"""Change the profiles file: atomically, one command at a time, for its owner only."""

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import tomlkit

from async_vmapi.cli.profile_file import DEFAULT, ProfileFile, exists, profiles_path, read

__all__ = ["current", "editing"]


def current() -> ProfileFile:
    """Return the file's content, which is empty if there is no file; raises like `read`."""
    path = profiles_path()
    return read(path) if exists(path) else ProfileFile(path, DEFAULT, {})


@contextmanager
def editing() -> Generator[tuple[ProfileFile, tomlkit.TOMLDocument]]:
    """Yield the file's content to change it, comments included, and write it afterwards."""
    folder = current().path.parent  # first reports what is wrong with it
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        file = current()
        content = tomlkit.document()
        if exists(file.path):
            content = tomlkit.parse(file.path.read_text(encoding="utf-8"))
        yield file, content
        _write(file.path.resolve(), tomlkit.dumps(content))


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Exclude other commands that change the file, as one would undo the other's change."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    """Replace a file; the new one is for its owner only from the start."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
