"""A made-up run of the demo, as the product app and the stores would have seen it."""

import random

from schemas.manifest import BaseRef, GateDecision, Golden, Interval, Manifest, SeqRange
from services.demo.accounts import Accounts, Run
from services.demo.messages import Message
from services.demo.metrics import Answer
from services.demo.report import Played
from services.demo.tally import Tally


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def gate(verdict: str = "accepted", n: int = 300) -> GateDecision:
    champion, candidate = Interval(0.81, 0.77, 0.85, n), Interval(0.83, 0.79, 0.87, n)
    return GateDecision(
        verdict=verdict, rule="non-inferior", metric="accuracy", confidence=0.95, champion=champion,  # type: ignore[arg-type]
        candidate=candidate, difference=Interval(0.02, -0.004, 0.044, n),
        reason=f"on {n} unseen examples the candidate is 2.0 points better than the champion & no label <forgot> much")


def manifest(version: str, n_examples: int, *, generation: int = 0, created_ms: int = 1) -> Manifest:
    return Manifest(
        loop="support-intents", version=version, task="text-classification", generation=generation,
        method="lora" if generation else "analytic", created_ms=created_ms, parent=None, base=BaseRef("minilm", "0"),
        encoder="e", tokenizer="t", max_tokens=128, tensors={}, labels=["a", "b"],
        examples=[SeqRange(1, n_examples)], n_examples=n_examples, seed=17, code_version="0", gate=gate(),
        golden=Golden([], [], 0.0))


def a_run(n_messages: int = 2000, *, every: int = 40, lag: int = 45, rate: float = 50.0, seed: int = 5
          ) -> tuple[Tally, Played, Accounts]:
    """A run in which a version comes every few messages, learns what was told ``lag`` messages before, and improves."""
    rng, clock = random.Random(seed), Clock()
    tally = Tally(n_messages, clock)
    messages = [Message(f"text {i}", "a", f"customer-{i % 100}") for i in range(n_messages)]
    manifests: list[Manifest] = []
    version, learned = "v0", 0
    for index in range(n_messages):
        clock.now_s = index / rate + 0.02
        if index >= lag and (index - lag) % every == 0:
            learned = max(1, index - lag)
            version = f"v{len(manifests) + 1}"
            manifests.append(manifest(version, learned, generation=int(index > n_messages * 0.6)))
        skill = 0.0 if version == "v0" else 0.92 - 0.7 * (0.995 ** learned)
        label = None if version == "v0" else ("a" if rng.random() < skill else "b")
        tally.answered(Answer(index, clock.now_s, f"pr_{index}", version, label, messages[index].label), 0.012, 0.0)
        clock.now_s += 0.01
        tally.accepted(f"pr_{index}", f"ev_{index}")
        if index == n_messages // 10:
            tally.static_version = version
        if index >= n_messages // 10:
            tally.static_flags[index] = rng.random() < 0.55
    tally.phase = "done"
    played = Played(
        data="a made-up inbox", rate=rate, seed=seed, n_users=100, frozen_place=n_messages // 10, frozen_fault="",
        test_flags=[rng.random() < 0.9 for _ in range(200)], test_versions=[version] * 200, probes=[], drained=True,
        drain_s=1.4, stream_s=n_messages / rate, started_with=None,
        rss_bytes={"collector": 95 << 20, "inference": 610 << 20})
    runs = [Run(m.version, m.method, 1, 1, m.n_examples, m.gate) for m in manifests]
    runs.append(Run("", "lora", 1, 1, n_messages, gate("rejected")))
    seqs = {f"pr_{i}": i + 1 for i in range(n_messages)}
    return tally, played, Accounts(n_messages, n_messages, n_messages, seqs, frozenset(), manifests, runs)
