"""Processor: events a second from Kafka to committed, joined rows, against quixstreams, bytewax, and COPY alone.

A pair is a prediction (with an embedding of 384 floats) and its feedback: two events. The topics are filled before, in
frames of 100; every run reads all of them into a database of its own, on the same Kafka and Postgres. What counts is
what is committed, from the first commit to the last. The peers write the same join and features, with inserts that step
over what is there, which makes of their at-least-once delivery once (``benchmarks/peers/pairs.py``). The ceiling stores
both topics without joining them.

``--backlog 1000000`` and ``--grown 10000000`` measure Ratchet alone: as it works off a long backlog, and beside tables
that hold so many examples already.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.harness import Bench
from benchmarks.processor_growth import forget, grow
from benchmarks.processor_rig import Moment, Site

ROUNDS = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--pairs", type=int, default=40_000, help="pairs in the topics (default: %(default)s)")
    parser.add_argument("--lag", type=int, default=5_000, metavar="PAIRS",
                        help="by how much feedback comes after its prediction (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="these contestants and no others")
    parser.add_argument("--backlog", type=int, metavar="EVENTS", help="work off so many events, once, and nothing else")
    parser.add_argument("--grown", type=int, metavar="EXAMPLES",
                        help="compare empty tables with tables of so many examples, and nothing else")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Measure all contestants in turn."""
    bench.figure("rate", "events/s", title="joined events")
    bench.figure("cpu", "µs", better="lower", title="CPU of the workers per event")
    bench.figure("postgres_cpu", "µs", better="lower", title="CPU of Postgres per event")
    bench.figure("rss", "MB", better="lower", title="greatest memory of a worker")
    with Site.open() as site:
        if options.backlog:
            backlog(site, bench, options.backlog // 2, options.lag)
        elif options.grown:
            grown(site, bench, options.grown, options.pairs, options.lag)
        else:
            compare(site, bench, options)


def compare(site: Site, bench: Bench, options: argparse.Namespace) -> None:
    """Run Ratchet, its peers and the ceiling in turn."""
    site.fill(options.pairs, options.lag)

    def peer(name: str) -> Mapping[str, float]:
        return site.measure(lambda url: site.peer(bench.peer(name), f"{name}/join.py", url))

    contestants: dict[str, Callable[[], Mapping[str, float]]] = {
        "ratchet": lambda: site.measure(lambda url: site.workers(url, 1)),
        "ratchet, 2 workers": lambda: site.measure(lambda url: site.workers(url, 2)),
        "quixstreams": lambda: peer("quixstreams"),
        "bytewax": lambda: peer("bytewax"),
        "ceiling": lambda: site.measure(
            lambda url: site.peer(Path(sys.executable), "bare/apart.py", url), joined=False),
    }
    bench.alternate({name: run for name, run in contestants.items() if not options.only or name in options.only})
    bench.bar("rate", at_least=30_000)
    bench.bar("rate", at_least=1.0, against="quixstreams")
    bench.bar("rate", at_least=1.0, against="bytewax")
    bench.note(f"{options.pairs} pairs, feedback {options.lag} pairs behind its prediction; fsync and synchronous "
               "commit on. The ceiling is kafka-python and COPY of events and predictions, without a join, features or "
               "anything exactly once")
    bench.plot_bars("rate")
    bench.plot_bars("cpu")


def backlog(site: Site, bench: Bench, n_pairs: int, lag: int) -> None:
    """Work off a long backlog once; how fast at its beginning and end, and how the memory grows."""
    bench.figure("end_rate", "", title="last fifth / first fifth, events/s")
    bench.figure("memory_growth", "", better="lower", title="memory at the end / after a fifth")
    site.fill(n_pairs, lag)

    def once() -> Mapping[str, float]:
        course: list[Moment] = []
        figures = site.measure(lambda url: site.workers(url, 1), course=course)
        n_frames = course[-1].n_frames
        start, early, late = (next(m for m in course if m.n_frames >= n_frames * share) for share in (0.02, 0.2, 0.8))
        first, last = ((b.n_frames - a.n_frames) / (b.at_s - a.at_s) for a, b in ((start, early), (late, course[-1])))
        return {**figures, "end_rate": last / first, "memory_growth": course[-1].rss / early.rss}

    bench.alternate({"ratchet": once}, rounds=1)
    bench.bar("rate", at_least=30_000)
    bench.bar("end_rate", at_least=0.8)
    bench.bar("memory_growth", at_most=1.1)


def grown(site: Site, bench: Bench, n_examples: int, n_pairs: int, lag: int) -> None:
    """Compare empty tables with grown ones."""
    site.fill(n_pairs, lag)
    large = f"ratchet, {n_examples:,} examples"
    with site.database() as grown_url:
        started_s = time.perf_counter()
        grow(grown_url, n_examples)
        bench.note(f"growing took {time.perf_counter() - started_s:.0f} s")

        def again() -> Mapping[str, float]:
            # The same ids once more would be known: what the last run brought is taken back.
            forget(grown_url)
            return site.measure(lambda url: site.workers(url, 1), url=grown_url)

        bench.alternate({"ratchet": lambda: site.measure(lambda url: site.workers(url, 1)), large: again})
    for cost in ("cpu", "postgres_cpu"):
        bench.bar(cost, contestant=large, at_most=1.2, against="ratchet")
