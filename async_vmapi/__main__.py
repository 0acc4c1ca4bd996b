"""Run the command line with ``python -m async_vmapi``."""

from async_vmapi.cli import main

main()
