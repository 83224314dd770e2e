"""The live page: one page and one stream of server-sent events on 127.0.0.1, nothing from outside."""

import asyncio
import json
from contextlib import suppress
from importlib import resources
from typing import Any

from aiohttp import web

from services.demo.charts import Line, Mark, accuracy
from services.demo.metrics import rolling, thin
from services.demo.tally import Tally

_EVERY_S = 0.5
_POINTS = 240
_FORBID = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
_HEADERS = {"Content-Security-Policy": _FORBID, "Cache-Control": "no-store"}


def page() -> str:
    """The live page, its style sheet inside."""
    files = resources.files("services.demo")
    style = (files / "page.css").read_text(encoding="utf-8")
    return (files / "live.html").read_text(encoding="utf-8").replace("/* style */", style)


def picture(tally: Tally) -> str:
    """The plot of the run so far, as SVG."""
    flags = dict.fromkeys(range(len(tally.answers) + tally.unanswered), False)
    flags |= {answer.index: answer.correct for answer in tally.answers}
    so_far: list[tuple[int, float]] = []
    total = 0
    for n, place in enumerate(sorted(flags), start=1):
        total += flags[place]
        if n >= 10:
            so_far.append((place, total / n))
    static = thin(rolling(tally.static_flags, tally.window), _POINTS)
    estimate = tally.static_accuracy()
    if not static and estimate is not None:
        static = [(tally.frozen_place, estimate), (max(flags), estimate)]
    return accuracy(
        [Line("never updated after the first tenth", "frozen" if tally.static_flags else "frozen estimate", static),
         Line("all so far", "overall", thin(so_far, _POINTS)),
         Line(f"last {tally.window} messages", "live", thin(rolling(flags, tally.window), _POINTS))],
        marks(tally.first_place, tally.generations), tally.total)


def marks(first_place: dict[str, int], generations: dict[str, int]) -> list[Mark]:
    """A mark for each version where it first answered; the first of each fine-tuned generation is labelled."""
    found: list[Mark] = []
    seen = {0}
    for version, place in sorted(first_place.items(), key=lambda item: item[1]):
        generation = generations.get(version, 0)
        found.append(Mark(place, "" if generation in seen else f"fine-tune {generation}"))
        seen.add(generation)
    return found


def message(tally: Tally, *, over: bool, end: str) -> dict[str, Any]:
    """What the page is told: texts by element id, the plot, the share done, and whether this is the last."""
    now = tally.snapshot()
    loop = "–" if now.loop_p50_s is None else f"{now.loop_p50_s:.2f} s"
    return {
        "texts": {
            "phase": now.phase,
            "recent": _percent(now.recent), "recent-name": f"right, of the last {now.window}",
            "static": _percent(now.static),
            "static-name": f"right, had it stayed {now.static_version}{' (about)' if now.static_is_estimate else ''}"
            if now.static_version else "right, if never updated",
            "done": f"{now.done:,}", "rate": f"of {now.total:,} messages, {now.rate:.0f} a second",
            "version": now.version,
            "versions": f"answers now, after {now.swaps:,} swaps",
            "loop": loop,
            "loop-name": f"from feedback to an answer that learned it{' (about)' if now.loop_is_estimate else ''}",
            "failed": f"{now.failed:,}", "end": end,
        },
        "chart": picture(tally), "progress": now.done / max(now.total, 1), "failing": now.failed > 0, "over": over,
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


class LivePage:
    """Serves the page while the demo runs.

    Args:
        tally: What to show.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._runner: web.AppRunner | None = None
        self._over = asyncio.Event()
        self._end = ""
        self._watchers: set[asyncio.Task[Any]] = set()

    async def start(self, port: int) -> str:
        """Start serving; returns the page's address. A taken port is replaced by a free one."""
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/live", self._stream)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except OSError:
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def stop(self, end: str = "") -> None:
        """Send the last figures with a closing sentence to everyone who watches, then stop serving."""
        self._end = end
        self._over.set()
        if self._watchers:
            await asyncio.wait(self._watchers, timeout=2)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=page(), content_type="text/html", headers=_HEADERS)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await answer.prepare(request)
        task = asyncio.current_task()
        if task is not None:
            self._watchers.add(task)
            task.add_done_callback(self._watchers.discard)
        with suppress(ConnectionError):
            over = False
            while not over:
                over = self._over.is_set()
                data = json.dumps(message(self._tally, over=over, end=self._end))
                await answer.write(f"data: {data}\n\n".encode())
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._over.wait(), _EVERY_S)
        return answer
