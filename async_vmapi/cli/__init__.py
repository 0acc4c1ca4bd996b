"""The command line, ``async-vmapi``. It needs the extra ``cli``."""

import io
import logging
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what is missing for it."""
    for stream in (sys.stdout, sys.stderr):
        # A label that the terminal cannot show must not end what is under way.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        # Warnings are the user's, and a terminal has nowhere else to tell them.
        logging.getLogger("async_vmapi").addHandler(logging.lastResort)
    try:
        from async_vmapi.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"typer", "rich", "platformdirs"}:
            raise
        sys.exit(
            f"async-vmapi needs {package}, which is not installed; "
            "install the command line with: pip install 'async-vmapi[cli]'"
        )
