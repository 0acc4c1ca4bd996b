"""The command line, ``async-vmapi``. Requires the ``cli`` extra."""

import logging
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; if a dependency is missing, print how to install it."""
    # Set by the functions of the shells, at each press of the completion key.
    if "_ASYNC_VMAPI_COMPLETE" in os.environ:
        from async_vmapi.cli.completion import answer

        answer.main()
        return
    from async_vmapi.cli.streams import Streams, signals_raised

    with Streams() as streams, signals_raised():
        try:
            _call()
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            code = 0
        code = streams.finish(code)
    sys.exit(code)


def _call() -> None:
    if logging.lastResort is not None:
        # Show warnings on the terminal.
        logging.getLogger("async_vmapi").addHandler(logging.lastResort)
    try:
        from async_vmapi.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"typer", "rich", "platformdirs", "tomlkit", "yaml"}:
            raise
        sys.exit(
            f"async-vmapi requires {package}, which is not installed; "
            "install it with: pip install 'async-vmapi[cli]'"
        )
