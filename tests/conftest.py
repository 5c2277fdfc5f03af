"""What every test may rely on: `@pytest.mark.root` runs as root only, and a missing tool is a failure under CI."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from hypothesis import settings

from prerequisites import cannot_run

pytest_plugins = ("lab_fixture",)

settings.register_profile("oakestra", deadline=None, print_blob=True)
settings.load_profile("oakestra")  # machines are shared and noisy: how long an example takes says nothing


def pytest_configure() -> None:
    # a shell that starts the tests in the background lets them, and so whatever they start, ignore it
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        cannot_run("needs root rights")


@pytest.fixture(scope="session")
def need_program() -> object:
    """A function that gives the path of a program, or ends the test saying which package has it."""

    def find(name: str, package: str) -> str:
        path = shutil.which(name)
        if path is None:
            cannot_run(f"{name} is missing: apt-get install {package}")
            raise AssertionError
        return path

    return find


@pytest.fixture(scope="session")
def need_mosquitto() -> None:
    """Ends the test where there is no MQTT broker to start."""
    if shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/usr/bin") is None:
        cannot_run("mosquitto is missing: apt-get install mosquitto")
