"""What a test does when the machine lacks something that it needs."""

import os
from typing import NoReturn

import pytest


def skip_absent(reason: str) -> NoReturn:
    """Skip, in CI too: the machine does not have a tool."""
    pytest.skip(reason)


def skip_broken(reason: str) -> NoReturn:
    """Skip on a developer's machine, and fail where CI is set: the tool is there, but did not bring what is needed."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"with CI set this must work: {reason}")
    pytest.skip(reason)
