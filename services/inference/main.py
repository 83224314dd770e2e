"""Builds inference from its settings, and runs it until it is told to stop."""

import os
import secrets
import socket
import sys
from functools import partial

from schemas.errors import Permanent
from schemas.loops import InvalidLoop
from schemas.topics import Topics
from services.inference import app, metrics
from services.inference.access import Access
from services.inference.batching import Batcher
from services.inference.bodies import Bodies
from services.inference.core import PredictionIds
from services.inference.following import Follower
from services.inference.loading import Loader
from services.inference.prediction_log import PredictionLog
from services.inference.predictor import Predictor
from services.inference.serving import ServedLoop
from services.inference.settings import Settings
from shared import loops, serving, settings
from shared.kafka import FrameProducer
from shared.logs import Log, set_up
from shared.models.encoder import choose_device, limit_threads
from shared.pseudonym import Pseudonymiser
from shared.registry import Registry

_log = Log("ratchet.inference")
# The log may be asked to hold its bound twice: here, and in the producer for what is under way.
_ACK_TIMEOUT_S = 5.0
_FLUSH_S = 10.0
_MAX_WORKERS = 4


def run() -> None:
    """Serve until SIGTERM or SIGINT; answers what is under way and flushes the prediction log before it returns.

    A wrong setting or loop file, or a port that is taken, prints one line and exits with status 2.
    """
    try:
        chosen = settings.read(Settings)
        declared = loops.load(chosen.loops_dir)
        opened = serving.listen(chosen.at.host, chosen.at.port, "RATCHET_INFERENCE_PORT")
    except (Permanent, InvalidLoop) as exc:
        print(f"ratchet inference: {exc}", file=sys.stderr)
        raise SystemExit(2) from exc
    set_up(chosen.log_level)
    _log.info("starting", **settings.shown(chosen))
    n_workers, n_threads = _shared_out(chosen.n_threads or len(os.sched_getaffinity(0)), chosen.device)
    limit_threads(n_threads)
    served = {name: ServedLoop(loop) for name, loop in declared.items()}
    for name in served:  # a loss that never happened reads 0, not nothing
        for counter in (metrics.lost, metrics.swaps, metrics.refused, metrics.predictions):
            counter.labels(name)
    topics = Topics(chosen.kafka.topic_prefix)
    producer = FrameProducer(chosen.kafka.bootstrap, [topics.predictions], client_id="ratchet-inference",
                             max_bytes_in_flight=2 * chosen.log_max_bytes, ack_timeout_s=_ACK_TIMEOUT_S,
                             fail_fast=False)
    log = PredictionLog(producer, topics.predictions, max_bytes=chosen.log_max_bytes,
                        on_lost=partial(_count_lost, served))
    registry = Registry.connect(chosen.registry.redis_url, chosen.registry.artifacts_dir)
    loader = Loader(registry, device=chosen.device)
    replica = chosen.replica or f"{socket.gethostname()}:{chosen.at.port}"
    followers = [Follower(loop, registry, loader, replica=replica, in_use=lambda: [
        version for loop in served.values() if loop.lineup for version in loop.lineup.loaded.values()])
        for loop in served.values()]
    batcher = Batcher(max_batch=chosen.max_batch, max_waiting=chosen.max_waiting, max_wait_s=chosen.max_wait_s,
                      n_workers=n_workers, observe=_observe)
    predictor = Predictor(served, batcher, log, Pseudonymiser(chosen.pseudonym_key),
                          new_id=PredictionIds(secrets.token_bytes))
    access = Access(chosen.infer_keys, chosen.operate_keys)
    built = app.build(predictor, batcher, access, Bodies(chosen.max_request_bytes), max_batch=chosen.max_batch,
                      log_fault=producer.fault)
    for follower in followers:
        follower.start()
    try:
        # Without the producer's thread every further prediction would be answered and lost until somebody looks.
        serving.serve(built, opened, doom=lambda: "" if producer.alive() else producer.fault())
    except Permanent as exc:
        _log.error("inference_must_restart", fault=str(exc))
        sys.exit(1)
    finally:
        for follower in followers:
            follower.stop()
        log.close(_FLUSH_S)
        registry.close()
    _log.info("stopped", pid=os.getpid())


def _shared_out(n_cores: int, device: str) -> tuple[int, int]:
    """Return how many forward passes run at a time, and with how many threads each."""
    n_workers = 1 if choose_device(device) == "cuda" else min(n_cores, _MAX_WORKERS)
    return n_workers, n_cores // n_workers


def _observe(n_texts: int, duration_s: float) -> None:
    metrics.batch_texts.observe(n_texts)
    metrics.batch_s.observe(duration_s)


def _count_lost(served: dict[str, ServedLoop], loop: str, n: int) -> None:
    served[loop].n_lost += n
    metrics.lost.labels(loop).inc(n)


if __name__ == "__main__":
    run()
