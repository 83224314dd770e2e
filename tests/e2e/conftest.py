"""One whole stack per test class: starting it costs more than most tests."""

from collections.abc import Iterator

import pytest

from tests.support.app import App
from tests.support.running_stack import RunningStack
from tests.support.servers import data_dir
from tests.support.services import ROOT


@pytest.fixture(scope="class")
def stack() -> Iterator[RunningStack]:
    """The embedded stack with the example loop, up and ready."""
    with data_dir() as parent:
        (parent / "data").mkdir(mode=0o711)
        running = RunningStack((parent / "data").resolve(), ROOT / "examples" / "loops")
        try:
            running.up()
            yield running
        finally:
            running.ratchet("down", check=False)


@pytest.fixture(scope="class")
def app(stack: RunningStack) -> App:
    """A product app in front of it, which remembers all that it was answered."""
    return stack.app()
