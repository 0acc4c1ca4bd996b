"""Shared by the tests of the command line."""

import pytest

from .programs import SETTINGS, Program, emulator_in_thread


@pytest.fixture
def cloud():
    """A cloud over HTTP in which everything happens almost at once."""
    with emulator_in_thread(settings=SETTINGS, seed=1) as emulator:
        yield emulator


@pytest.fixture
def reachable_cloud():
    """The same; VMs get addresses of this host, some time after they are online."""
    settings = SETTINGS.changed(network="127.0.0.0/8", address=0.3)
    with emulator_in_thread(settings=settings, seed=1) as emulator:
        yield emulator


@pytest.fixture
def program(cloud, tmp_path):
    """The command with a profile of the cloud."""
    with Program(cloud, tmp_path) as program:
        yield program
