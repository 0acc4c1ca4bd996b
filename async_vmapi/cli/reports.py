"""Files of reports: the one that was asked for, and where a report goes that cannot be shown."""

import os
import tempfile
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from platformdirs import user_state_path

from async_vmapi.cli.running import say
from async_vmapi.report import BulkReport

__all__ = ["keep_report", "write_report"]


def write_report(path: Path, report: BulkReport) -> bool:
    """Write a report into a file, and return whether it is there; say why if it is not."""
    text = report.to_json()
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a pipe, or /dev/stderr
        else:
            _replace(path.resolve(), text)
    except OSError as error:
        say(f"{path} cannot be written: {error.strerror}")
        return False
    return True


def _replace(path: Path, text: str) -> None:
    # At once or not at all: it may be the report that this one goes on from.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        # The folder may be closed to us where the file is not.
        path.write_text(text, encoding="utf-8")


def keep_report(report: BulkReport) -> Path | None:
    """Write a report where nobody asked for it, closed to others; return where, if anywhere."""
    moment = time.strftime("%Y%m%dT%H%M%S")
    name = f"async-vmapi-{report.operation}-{moment}-{os.getpid()}.json"
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / name
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(report.to_json())
            return path
    return None


def _folders() -> Generator[Path]:
    yield user_state_path("async-vmapi", appauthor=False)
    yield Path.cwd()
    yield Path(tempfile.gettempdir())
