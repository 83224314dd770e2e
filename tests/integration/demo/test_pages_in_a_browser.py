"""The report and the live page, as a person sees them."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.demo import page, report
from services.demo.live import LivePage
from tests.support.demo_runs import a_run

SIZES = {"desk": {"width": 1200, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture
def live_page() -> Iterator[tuple[str, Any]]:
    """The live page of a made-up run, served from a thread; its address, and how to end the run."""
    tally, _, _ = a_run()
    tally.phase = "learning live"
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    live = LivePage(tally)

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=30)

    address = wait(live.start(0))
    yield address, lambda: wait(live.stop("The report is in reports/demo.html."))
    wait(live.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=30)
    loop.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_report_fits_every_screen_in_light_and_dark(browser: Any, shots: Path, tmp_path: Path, size: str,
                                                        scheme: str):
    found = report.build(*a_run())
    file = tmp_path / "report.html"
    file.write_text(page.render(found, report.verdict(found)), encoding="utf-8")
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
    tab = context.new_page()
    faults = _listen(tab)
    tab.goto(file.as_uri())
    tab.screenshot(path=shots / f"report-{size}-{scheme}.png", full_page=size == "desk")
    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    assert tab.locator("svg path.line.live >> visible=true").bounding_box()["width"] > 200
    assert tab.locator("table tbody tr").count() == len(found["decisions"])
    assert _is_dark(tab) == (scheme == "dark")
    assert faults == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_live_page_shows_the_run_and_its_end(browser: Any, shots: Path, live_page: tuple[str, Any], size: str,
                                                 scheme: str):
    address, end = live_page
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
    tab = context.new_page()
    faults = _listen(tab)
    tab.goto(address)
    tab.locator("#chart path.line.live >> visible=true").wait_for()
    assert tab.locator("#done").inner_text() == "2,000"
    assert tab.locator("#recent").inner_text().endswith("%")
    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    end()
    tab.get_by_text("The report is in reports/demo.html.").wait_for()
    tab.screenshot(path=shots / f"live-{size}-{scheme}.png", full_page=size == "desk")
    assert tab.locator("#phase").inner_text() == "learning live"
    assert faults == []
    context.close()


def _listen(tab: Any) -> list[str]:
    """What goes wrong in a page: script errors, and requests that fail or leave the machine."""
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    tab.on("request", lambda sent: None if sent.url.startswith(("http://127.0.0.1", "file:", "data:"))
           else faults.append(sent.url))
    return faults


def _is_dark(tab: Any) -> bool:
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) < 3 * 128
