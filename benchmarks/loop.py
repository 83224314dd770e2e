"""From feedback accepted to the first answer by a version that learned it, at three loads, and where the time goes.

Starts a stack of its own, as `ratchet demo` does, and plays messages through the public HTTP interfaces, open loop:
each is one question to inference and, on the answer, one feedback to the collector; both are events. What each stage
took is read afterwards from what the platform records: received_at, Kafka's record time, learnable_at, Postgres's
commit time, training_runs, the registry's log, inference's version_swapped. On more load than the machine can carry it
shows what is refused and how, that nothing accepted is lost, and how long the loop needs to catch up.
"""

import argparse
import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from benchmarks import loop_limits, loop_load, loop_stages
from benchmarks.harness import Bench
from benchmarks.loop_queues import Queues, caught_up_s, watch
from benchmarks.loop_stack import Running, running
from services.demo.messages import Message

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

ROUNDS = 1
_WARM_UP_PER_S, _WARM_UP_S = 20.0, 8.0
_CATCH_UP_S = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rates", type=float, nargs="*", default=[10, 100, 1000], metavar="N",
                        help="events a second, half of them predictions, half feedback (default: 10 100 1000)")
    parser.add_argument("--seconds", type=float, default=25, help="of load at each rate (default: %(default)s)")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Play each load in turn on one stack."""
    _declare(bench)
    found: dict[str, loop_stages.Found] = {}
    with running(print) as stack:
        stream = loop_load.messages()
        warm_up = asyncio.run(loop_load.play(stack.at, stream, per_s=_WARM_UP_PER_S, seconds=_WARM_UP_S))
        n_told = len(warm_up.told)
        for _ in range(bench.rounds):
            for rate in options.rates:
                name = f"ratchet at {rate:g} events/s"
                heard, queues, trips, caught_s = _play(stack, stream, rate / 2, options.seconds, n_told)
                n_told += len(heard.told)
                found[name] = trips
                _report(bench, name, heard, queues, trips, caught_s)
        limits = loop_limits.measure(stack, next(stream).text)
    limit_s = sum(limits.values())
    bench.record("one flush per hop and one forward pass", {"p50_s": limit_s})
    bench.note("The physical limit of one round: " + ", ".join(
        f"{title} {limits[name] * 1000:.1f} ms" for name, title in loop_limits.LIMITS.items())
        + f"; together {limit_s * 1000:.0f} ms. " + ", ".join(
        f"{name[len('ratchet at '):]}: p50 is {trips.percentile(0.5) / limit_s:.0f} × that"
        for name, trips in found.items() if trips.trips) + ".")
    bench.bar("p50_s", contestant="ratchet at 100 events/s", at_most=0.8)
    bench.bar("p95_s", contestant="ratchet at 100 events/s", at_most=2.0)
    bench.plot(_waterfall({name: trips.around(0.4, 0.6) for name, trips in found.items() if trips.trips}), "waterfall")


def _declare(bench: Bench) -> None:
    for name, unit, title in (
            ("p50_s", "s", "loop time p50"), ("p95_s", "s", "loop time p95"), ("answer_p95_ms", "ms", "answer p95"),
            ("refused", "%", "questions refused with 503"), ("errors", "", "other failures"),
            ("lost", "", "accepted feedback without example"), ("catch_up_s", "s", "caught up after")):
        bench.figure(name, unit, better="lower", title=title)
    bench.figure("carried", "events/s", title="answered and accepted")


def _play(stack: Running, stream: Iterator[Message], per_s: float, seconds: float,
          n_before: int) -> tuple[loop_load.Heard, Queues, loop_stages.Found, float | None]:
    async def load() -> tuple[loop_load.Heard, float | None]:
        heard = await loop_load.play(stack.at, stream, per_s=per_s, seconds=seconds)
        # Somebody must ask for a version to answer: the last feedback has its loop time too.
        asking = asyncio.create_task(loop_load.keep_asking(stack.at, stream, heard))
        caught_s = await asyncio.to_thread(caught_up_s, stack, n_before + len(heard.told), timeout_s=_CATCH_UP_S)
        await asyncio.sleep(0.3)
        asking.cancel()
        return heard, caught_s

    with watch(stack) as queues:
        heard, caught_s = asyncio.run(load())
    return heard, queues, loop_stages.trace(stack, heard), caught_s


def _report(bench: Bench, name: str, heard: loop_load.Heard, queues: Queues, trips: loop_stages.Found,
            caught_s: float | None) -> None:
    seconds = heard.ended_s - heard.began_s
    n_503 = heard.refusals["predict 503"]
    figures = {"carried": heard.n_events / seconds, "refused": 100 * heard.n_refused / max(heard.n_asked, 1),
               "errors": sum(heard.refusals.values()) - n_503 - heard.refusals["collect 503"],
               "lost": trips.n_lost,
               "answer_p95_ms": 1000 * loop_stages.percentile([a.answered_s - a.asked_s for a in heard.answers], 0.95)}
    if trips.trips:
        figures |= {"p50_s": trips.percentile(0.5), "p95_s": trips.percentile(0.95)}
    if caught_s is not None:
        figures["catch_up_s"] = caught_s
    bench.record(name, figures)
    if trips.trips:
        stages = trips.around(0.4, 0.6)
        bench.note(f"{name}: where the median goes: " + ", ".join(
            f"{loop_stages.STAGES[stage]} {1000 * took_s:.0f} ms" for stage, took_s in stages.items()) + ".")
    bench.note(f"{name}: cores: " + ", ".join(f"{who} {cores:.2f}" for who, cores in queues.cores().items())
               + "; at most: " + ", ".join(f"{what} {most:,.0f}" for what, most in queues.most.items())
               + "; memory at first and at most, MB: "
               + ", ".join(f"{who} {first:.0f}–{most:.0f}" for who, (first, most) in queues.rss_mb.items())
               + (f"; refused: {dict(heard.refusals)}" if heard.refusals else "") + ".")


def _waterfall(loads: Mapping[str, Mapping[str, float]]) -> "Plot":
    from matplotlib.figure import Figure

    names = list(loop_stages.STAGES)
    plot = Figure(figsize=(8.4, 1.2 + 2.9 * len(loads)), layout="constrained")
    panels = plot.subplots(len(loads), 1, squeeze=False)[:, 0]
    for axes, (load, stages) in zip(panels, loads.items(), strict=True):
        zero_s = sum(stages[name] for name in loop_stages.BEFORE)
        at_s = -zero_s
        for place, name in enumerate(names):
            before = name in loop_stages.BEFORE
            axes.barh(place, 1000 * stages[name], left=1000 * at_s, height=0.72,
                      color="#9aa5b1" if before else "#0b6e4f")
            at_s += stages[name]
            axes.annotate(f" {1000 * stages[name]:.0f} ms", (1000 * at_s, place), va="center", fontsize=8)
        axes.set_yticks(range(len(names)), [loop_stages.STAGES[name] for name in names], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(-1150 * zero_s, 1120 * at_s)
        axes.axvline(0, color="#333", lw=0.8)
        axes.set_title(f"{load}: {1000 * at_s:.0f} ms for the median feedback", loc="left", fontsize=10)
    panels[-1].set_xlabel("ms since the collector accepted the feedback")
    return plot
