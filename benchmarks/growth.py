"""Cost of each stage at load ×1, ×10 and ×100: CPU, memory, bytes; and a capacity model, checked at loads between.

Starts a stack of its own. Load ×1 is 50 events a second of users' activity, in Segment batches of 20 at every load, and
0.3 messages a second that are predicted and corrected. Each stage's CPU is fitted as a part when idle, a part per batch
(frame, transaction, forward pass, version) and a part per item to ×1, ×10 and ×100; the model then
predicts ×3 and ×30 from what was counted there, and what 1,000,000 events a second need. Fine-tunes are off: they come
when the examples have grown by half, and would land in one load by chance.
"""

import argparse
import asyncio
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks import growth_model, loop_load
from benchmarks.growth_model import Cost, Point
from benchmarks.harness import Bench
from benchmarks.loop_stack import LOOP, LOOPS, Running, running
from services.demo.messages import Message
from services.demo.product import Client
from shared import postgres

ROUNDS = 1
FIT, CHECK = (1, 10, 100), (3, 30)
_EVENTS_PER_S, _MESSAGES_PER_S = 50.0, 0.3
_BATCH = 20  # analytics libraries send so many at once; more users are more requests, not larger ones
_REST_S = 4.0  # what came before has been learned by then: a trainer that still learns is not idle
_TARGET_PER_S, _CORES, _BUSY = 1_000_000, 16, 0.6
# What each stage handles: batches, and items in them.
DRIVERS = {"collector": ("records", "events"), "kafka": ("records", "items"), "processor": ("transactions", "items"),
           "postgres": ("transactions", "items"), "inference": ("passes", "predictions"),
           "trainer": ("versions", "examples"), "redis": ("versions", "examples")}
# One loop makes at most so many, whatever comes: the trainer's least time between two updates.
_VERSIONS_PER_S = 2.0
_COUNTERS = {
    "records": ("processor", "ratchet_processor_records_total"),
    "transactions": ("processor", "ratchet_processor_commit_seconds_count"),
    "events": ("processor", "ratchet_processor_events_total"),
    "predictions": ("processor", "ratchet_processor_predictions_total"),
    "examples": ("processor", "ratchet_processor_joined_total"),
    "passes": ("inference", "ratchet_inference_batch_seconds_count"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=12, help="of each load (default: %(default)s)")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Measure every load on one stack, fit, check, predict."""
    for name in DRIVERS:
        bench.figure(f"{name}_cpu", "ms/s", better="lower", title=f"{name} CPU")
        bench.figure(f"{name}_each", "µs", better="lower", title=f"{name} CPU per {_one(DRIVERS[name][1])}")
        bench.figure(f"{name}_mb", "MB", better="lower", title=f"{name} memory")
    for name, title in (("http", "HTTP request bytes per event"), ("log", "Kafka log bytes per item"),
                        ("wal", "Postgres WAL bytes per item"), ("table", "Postgres table bytes per item"),
                        ("version", "bytes kept for ever per version")):
        bench.figure(f"{name}_bytes", "B", better="lower", title=title)
    bench.figure("cpu_error", "%", better="lower", title="model's error, all stages together")
    for name in (*_COUNTERS, "versions"):
        bench.figure(f"{name}_per_s", "/s", title=name)
    used: dict[int, Used] = {}
    with tempfile.TemporaryDirectory() as folder, running(print, loops_dir=_analytic(Path(folder))) as stack:
        stream = loop_load.messages()
        asyncio.run(loop_load.play(stack.at, stream, per_s=10, seconds=8))
        _settle(stack)
        time.sleep(_REST_S)
        for _ in range(bench.rounds):
            idle = _measure(stack, stream, 0, options.seconds / 2)
            for times in sorted(FIT + CHECK):
                used[times] = _measure(stack, stream, times, options.seconds)
                bench.record(f"ratchet at ×{times}", used[times].figures())
    costs = {name: growth_model.fit(idle.point(name).cores, [used[times].point(name) for times in FIT])
             for name in DRIVERS}
    bench.note("What a stage costs: " + "; ".join(
        f"{name} {1000 * cost.idle:.0f} ms/s when idle, {1e6 * cost.batch:,.0f} µs per {_one(DRIVERS[name][0])}, "
        f"{1e6 * cost.item:,.1f} µs per {_one(DRIVERS[name][1])}" for name, cost in costs.items()) + ".")
    _check(bench, costs, used)
    _predict(bench, costs, used[max(FIT)])


def _one(plural: str) -> str:
    return plural.removesuffix("es") if plural.endswith("sses") else plural.removesuffix("s")


def _analytic(folder: Path) -> Path:
    declared = (LOOPS / f"{LOOP}.toml").read_text()
    (folder / f"{LOOP}.toml").write_text(declared.replace('"analytic+lora"', '"analytic"'))
    return folder


@dataclass(frozen=True)
class Used:
    """What a load used.

    Attributes:
        per_s: What was counted, a second; items are events and predictions.
        n_bytes: That went over HTTP, into Kafka's log, Postgres's log and tables, and the registry.
    """

    seconds: float
    per_s: Mapping[str, float]
    cpu_s: Mapping[str, float]
    memory_mb: Mapping[str, float]
    n_bytes: Mapping[str, float]

    def point(self, stage: str) -> Point:
        """As the model has it."""
        batches, items = DRIVERS[stage]
        return Point(self.per_s[batches], self.per_s[items], self.cpu_s[stage] / self.seconds)

    def figures(self) -> dict[str, float]:
        """As the report has them."""
        found = {f"{name}_per_s": self.per_s[name] for name in (*_COUNTERS, "versions")}
        for name, (_, driver) in DRIVERS.items():
            found[f"{name}_cpu"] = 1000 * self.cpu_s[name] / self.seconds
            if self.per_s[driver]:
                found[f"{name}_each"] = 1e6 * self.cpu_s[name] / self.seconds / self.per_s[driver]
            found[f"{name}_mb"] = self.memory_mb[name]
        for name, driver in (("http", "events"), ("log", "items"), ("wal", "items"), ("table", "items"),
                             ("version", "versions")):
            if self.per_s[driver]:
                found[f"{name}_bytes"] = self.n_bytes[name] / self.seconds / self.per_s[driver]
        return found


def _measure(stack: Running, stream: Iterator[Message], times: int, seconds: float) -> Used:
    before, began_s = _look(stack), time.monotonic()
    n_http = asyncio.run(_play(stack, stream, times, seconds)) if times else 0.0
    if not times:
        time.sleep(seconds)
    _settle(stack)
    took_s = time.monotonic() - began_s
    after = _look(stack)
    moved = {name: after[name] - before[name] for name in after}
    per_s = {name: moved[name] / took_s for name in (*_COUNTERS, "versions")}
    per_s["items"] = per_s["events"] + per_s["predictions"]
    return Used(took_s, per_s, {name: moved[f"cpu {name}"] for name in DRIVERS},
                {name: rss / 1e6 for name, rss in stack.rss_bytes().items()},
                {"http": n_http, **{name: moved[f"bytes {name}"] for name in ("log", "wal", "table", "version")}})


def _look(stack: Running) -> dict[str, float]:
    with postgres.connect(stack.stores.postgres_url, name="ratchet-bench", autocommit=True) as connection:
        row = connection.execute(
            "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn, pg_database_size(current_database()),"
            " (SELECT count(version) FROM training_runs)").fetchone() or (0, 0, 0)
    scraped = {service: stack.scrape(service) for service in ("processor", "inference")}
    return {**{name: scraped[service].get(metric, 0.0) for name, (service, metric) in _COUNTERS.items()},
            "versions": float(row[2]),
            "bytes log": float(stack.disk_bytes("kafka/**/ratchet.*/*.log")),
            "bytes wal": float(row[0]), "bytes table": float(row[1]),
            "bytes version": float(stack.disk_bytes(f"artifacts/{LOOP}/manifests/*")
                                   + stack.disk_bytes(f"artifacts/{LOOP}/journal.jsonl")),
            **{f"cpu {name}": used for name, used in stack.cpu_s().items()}}


def _settle(stack: Running, *, timeout_s: float = 30) -> None:
    """Wait until the processor has stored everything."""
    ends_s = time.monotonic() + timeout_s
    while stack.scrape("processor").get("ratchet_processor_lag_records", 0) and time.monotonic() < ends_s:
        time.sleep(0.1)


async def _play(stack: Running, stream: Iterator[Message], times: int, seconds: float) -> float:
    """Send a load; returns how many bytes the bodies of the activity's requests had."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        client = Client(http, stack.at, lambda what: None)
        messages = asyncio.create_task(
            loop_load.play(stack.at, stream, per_s=_MESSAGES_PER_S * times, seconds=seconds))
        per_s = _EVENTS_PER_S * times
        n_bytes, began_s = 0, time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for turn in range(round(per_s * seconds / _BATCH)):
                if (early_s := began_s + turn * _BATCH / per_s - time.monotonic()) > 0:
                    await asyncio.sleep(early_s)
                batch = [_activity(turn * _BATCH + place) for place in range(_BATCH)]
                n_bytes += len(msgspec.json.encode(batch))
                tasks.create_task(client.tell(batch))
        await messages
        return float(n_bytes)


def _activity(number: int) -> dict[str, Any]:
    """A page view of about half a kilobyte, as analytics.js sends it."""
    return {"type": "track", "event": "Item Viewed", "userId": f"customer-{number % 997:05}",
            "messageId": f"bench-{uuid.uuid4()}", "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "context": {"library": {"name": "analytics.js", "version": "2.11.1"}, "locale": "en-GB",
                        "page": {"path": f"/items/{number % 500}", "referrer": "", "search": "",
                                 "title": "An item", "url": f"https://shop.example/items/{number % 500}"}},
            "properties": {"item_id": f"sku-{number % 500}", "price": 9.9, "position": number % 10, "list": "search"}}


def _check(bench: Bench, costs: Mapping[str, Cost], used: Mapping[int, Used]) -> None:
    for times in CHECK:
        predicted = {name: cost.cores(used[times].point(name).batches_per_s, used[times].point(name).items_per_s)
                     for name, cost in costs.items()}
        measured = {name: used[times].point(name).cores for name in costs}
        off = 100 * abs(sum(predicted.values()) / sum(measured.values()) - 1)
        bench.record(f"model at ×{times}", {"cpu_error": off})
        bench.note(f"×{times}, not used for the fit: CPU predicted / measured, ms/s: " + ", ".join(
            f"{name} {1000 * predicted[name]:.0f} / {1000 * measured[name]:.0f}" for name in costs)
            + f"; together {1000 * sum(predicted.values()):.0f} / {1000 * sum(measured.values()):.0f}.")


def _predict(bench: Bench, costs: Mapping[str, Cost], most: Used) -> None:
    loads = {}
    for name, (batches, items) in DRIVERS.items():
        point, per_s = most.point(name), most.per_s[items] / most.per_s["events"] * _TARGET_PER_S
        # As many items in a batch as at the greatest load measured; more load would put more in.
        loads[name] = (_VERSIONS_PER_S if batches == "versions" else per_s * point.batches_per_s / point.items_per_s,
                       per_s)
    needed = growth_model.needs(costs, loads, cores_per_machine=_CORES, busy=_BUSY)
    bench.note(f"{_TARGET_PER_S:,} events a second of this mix, cores at full use, and machines of {_CORES} cores kept "
               f"{_BUSY:.0%} busy: " + "; ".join(
                   f"{name} {loads[name][0]:,.0f} {DRIVERS[name][0]}/s with {need.items_per_s:,.0f} "
                   f"{DRIVERS[name][1]}: {need.cores:,.1f} cores, {need.machines:,.1f} machines"
                   for name, need in needed.items())
               + f"; together {sum(need.machines for need in needed.values()):,.0f} machines.")
