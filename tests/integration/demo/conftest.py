"""A real Chromium, and stand-ins for the collector and inference that keep to their public interfaces."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.absent import skip_absent

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


# Not for the whole session: while Playwright's own event loop runs in this thread, no asynchronous test can.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as Debian packages it; skips where it is not installed."""
    path = shutil.which("chromium")
    if path is None:
        skip_absent("no chromium on this machine: `apt-get install chromium` brings it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def shots(request: pytest.FixtureRequest) -> Path:
    """Where screenshots go, to be looked at: reports/screenshots in the project."""
    folder = Path(request.config.rootpath) / "reports" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
