"""The command line, ``async-vmapi``. It needs the extra ``cli``."""

import logging
import sys

from async_vmapi.cli.streams import Streams, signals_raised

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what is missing for it."""
    with Streams() as streams, signals_raised():
        try:
            _call()
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        else:
            code = 0
        code = streams.settle(code)
    sys.exit(code)


def _call() -> None:
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
