"""Learning quality on the same streams: Ratchet, River, Vowpal Wabbit, and retraining in batch.

A step of examples is answered before its labels are learned, by every contestant alike. Embeddings are computed once
(``.cache/learning``), given to everyone who wants them, and their time is reported apart. By default the first 1,500
rows of each stream; ``--full`` takes all, Ratchet's fine-tunes and full retraining included, and hours on a small
machine. Needs the data sets; each learner of a peer runs in that peer's own environment, and its best one counts.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import streams
from benchmarks.harness import Bench, PeerUnavailable
from schemas.loops import Training
from services.trainer.reading import Shape
from services.trainer.schedule import Started, is_due
from services.trainer.tuning import sample
from shared.models.analytic import features
from shared.models.encoder import Encoder, limit_threads
from shared.models.finetune import Plan, tune

ROUNDS = 1
STEP = 25
_TESTS = 5
PEERS = {"river": ("naive_bayes", "softmax_on_tfidf", "softmax_on_embeddings"),
         "vowpalwabbit": ("text", "text_hinge", "embeddings", "text_and_embeddings")}
# River's dictionaries cost 30 ms an example with 77 labels and 384 numbers: in --full only.
_SLOW = {"softmax_on_embeddings"}
FIGURES = (("prequential", "%", "higher", "answered right before learning"),
           ("test", "%", "higher", "right on the test set at the end"),
           ("forgetting", "points", "lower", "mean loss of a label's recall from its best"),
           ("cpu", "s", "lower", "CPU time, embeddings apart"))


@dataclass(frozen=True)
class Played:
    """A stream with embeddings and labels as numbers."""

    stream: streams.Stream
    n_labels: int
    train: np.ndarray
    train_labels: list[int]
    test: np.ndarray
    test_labels: list[int]
    embedded_s: float

    @property
    def tested_after(self) -> list[int]:
        """After how many examples the test set is answered."""
        return [len(self.train_labels) * i // _TESTS for i in range(1, _TESTS + 1)]

    def figures(self, answers: Sequence[int], tested: Sequence[Sequence[int]], cpu_s: float) -> dict[str, float]:
        """What is reported of one contestant."""
        truth = np.array(self.test_labels)
        hits = [np.asarray(answer) == truth for answer in tested]
        recalls = np.array([[hit[truth == label].mean() for label in np.unique(truth)] for hit in hits])
        lost = recalls.max(axis=0) - recalls[-1]
        return {"prequential": 100 * float(np.mean(np.asarray(answers) == np.array(self.train_labels))),
                "test": 100 * float(hits[-1].mean()), "forgetting": 100 * float(lost.mean()), "cpu": cpu_s}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's options."""
    parser.add_argument("--data", type=Path, default=streams.DATA, help="the data sets (default: %(default)s)")
    parser.add_argument("--streams", nargs="*", default=list(streams.STREAMS), choices=list(streams.STREAMS),
                        metavar="STREAM", help="which (default: all): " + ", ".join(streams.STREAMS))
    parser.add_argument("--examples", type=int, default=1500, metavar="N", help="rows of each (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="all rows, fine-tunes, slow learners, full retraining")
    parser.add_argument("--lora", action="store_true", help="with Ratchet's fine-tunes")
    parser.add_argument("--projection", type=int, default=0, metavar="M",
                        help="random features (default: the loop's, or 1,500 without --full)")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Play every stream to every contestant."""
    if not options.data.is_dir():
        bench.note(f"not measured: there is no {options.data}; name the data sets' folder with --data")
        return
    limit_threads(1)
    encoder = Encoder.load("minilm", device="cpu")
    declared = Training(projection=options.projection or (Training().projection if options.full else 1500))
    for name in options.streams:
        played = prepared(name, options, encoder)
        short = {"banking77_by_class": "by_class", "twitter_financial_sentiment": "twitter",
                 "cfpb_payday_2023": "cfpb"}.get(name, name)
        for figure, unit, better, title in FIGURES:
            bench.figure(f"{short}_{figure}", unit, better=better, title=f"{name}: {title}")  # type: ignore[arg-type]
        contestants = {**ours(played, encoder, declared, options), **theirs(played, bench, options),
                       "batch, every 250": lambda played=played: batch(played, 250)}
        if options.full:
            contestants["full retraining, once"] = lambda played=played: retrained(played, encoder)
        bench.alternate({who: lambda measure=measure, short=short: {f"{short}_{k}": v for k, v in measure().items()}
                         for who, measure in contestants.items()})
        bench.note(f"{name}: {len(played.train_labels)} examples, {len(played.test_labels)} to test on, "
                   f"{played.n_labels} labels; embeddings {played.embedded_s:.1f} s of CPU, the same for all")
        for peer in PEERS:
            bench.bar(f"{short}_prequential", at_least=1.0, against=peer)
            bench.bar(f"{short}_test", at_least=1.0, against=peer)
        if options.full:
            bench.bar(f"{short}_test", at_least=0.99, against="full retraining, once")
    bench.note("River's and Vowpal Wabbit's figures are those of whichever of their learners had the best prequential "
               "accuracy on that stream: " + "; ".join(f"{peer}: {', '.join(names)}" for peer, names in PEERS.items()))


def prepared(name: str, options: argparse.Namespace, encoder: Encoder) -> Played:
    """Read a stream and embed it."""
    stream = streams.load(name, options.data, None if options.full else options.examples)
    data_set = name.removesuffix("_by_class")
    train, each_s = streams.embed(encoder, data_set, [text for text, _ in stream.train])
    test, _ = streams.embed(encoder, data_set, [text for text, _ in stream.test])
    labels = sorted({label for _, label in (*stream.train, *stream.test)})
    number = {label: i for i, label in enumerate(labels)}
    return Played(stream, len(labels), train, [number[label] for _, label in stream.train], test,
                  [number[label] for _, label in stream.test], each_s * len(train))


def ours(played: Played, encoder: Encoder, declared: Training,
         options: argparse.Namespace) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Ratchet: the head alone, or with the fine-tunes that its schedule asks for."""
    if options.lora or options.full:
        return {"ratchet": lambda: learned(played, encoder, declared, fine_tunes=True),
                "ratchet, head alone": lambda: learned(played, encoder, declared, fine_tunes=False)}
    return {"ratchet": lambda: learned(played, encoder, declared, fine_tunes=False)}


def learned(played: Played, base: Encoder, declared: Training, *, fine_tunes: bool) -> dict[str, float]:
    """The trainer's head and its schedule. A fine-tune is taken over at once; its time counts, its embeddings too."""
    shape = Shape.of(declared, max_tokens=streams.MAX_TOKENS, window=1000)
    head, encoder, started, n_tuned = shape.learner(base).head, base, Started(), 0
    adapter: dict[str, np.ndarray] = {}
    train, test, texts = played.train, played.test, [text for text, _ in played.stream.train]
    answers: list[int] = []
    tested: list[list[int]] = []
    spent = 0.0
    for start in range(0, len(train), STEP):
        end = min(start + STEP, len(train))
        began = time.process_time()
        answers += _answers(head, train[start:end])
        head.add(train[start:end], [str(label) for label in played.train_labels[start:end]])
        if fine_tunes and is_due(declared, started, now_ms=2**50, n_learned=end, n_labels=len(head.labels)):
            rows = [seq - 1 for seq in sample(since=started.cut, cut=end, replay=declared.replay, seed=declared.seed)]
            n_tuned += 1
            plan = Plan("lora", declared.learning_rate, streams.MAX_TOKENS, declared.seed + n_tuned, declared.epochs,
                        declared.batch_size, declared.lora_rank)
            adapter = tune(base, adapter, [texts[i] for i in rows],
                           [str(played.train_labels[i]) for i in rows], plan)
            encoder, started = base.adapted(adapter), Started(0, end, end)
            head = shape.learner(encoder).head
            head.add(encoder.encode(texts[:end], max_tokens=streams.MAX_TOKENS),
                     [str(label) for label in played.train_labels[:end]])
        spent += time.process_time() - began
        if encoder is not base and started.cut == end:
            # Serving embeds by the new encoder from here on: the same cost as before, so it is not counted.
            train = np.concatenate([train[:end], encoder.encode(texts[end:], max_tokens=streams.MAX_TOKENS)]) \
                if end < len(texts) else train
            test = encoder.encode([text for text, _ in played.stream.test], max_tokens=streams.MAX_TOKENS)
        if any(start < at <= end for at in played.tested_after):
            tested.append(_answers(head, test))
    return played.figures(answers, tested, spent)


def _answers(head: object, vectors: np.ndarray) -> list[int]:
    labels = head.labels  # type: ignore[attr-defined]
    if not labels:
        return [-1] * len(vectors)
    weights = head.weights()  # type: ignore[attr-defined]
    best = (features(vectors, head.projection) @ weights).argmax(axis=1)  # type: ignore[attr-defined]
    return [int(labels[i]) for i in best]


def theirs(played: Played, bench: Bench, options: argparse.Namespace) -> dict[str, Callable[[], Mapping[str, float]]]:
    """The peers, each by its best learner on this stream."""
    def best(peer: str) -> Mapping[str, float]:
        python = bench.peer(peer)
        names = [name for name in PEERS[peer] if options.full or name not in _SLOW]
        found = {name: _played_by(python, peer, name, played) for name in names}
        name = max(found, key=lambda name: found[name]["prequential"])
        bench.note(f"{played.stream.name}: {peer}'s best is {name}; all: " + ", ".join(
            f"{other} {figures['prequential']:.1f} / {figures['test']:.1f} %" for other, figures in found.items()))
        return found[name]

    return {peer: lambda peer=peer: best(peer) for peer in PEERS}  # type: ignore[misc]


def _played_by(python: Path, peer: str, learner: str, played: Played) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        told: dict[str, object] = {"learner": learner, "n_labels": played.n_labels, "step": STEP,
                                   "dim": played.train.shape[1], "tested_after": played.tested_after}
        for part, rows, vectors, labels in (("train", played.stream.train, played.train, played.train_labels),
                                            ("test", played.stream.test, played.test, played.test_labels)):
            vectors.astype("<f4").tofile(Path(folder, part))
            told[part] = {"texts": [text for text, _ in rows], "labels": labels, "vectors": str(Path(folder, part))}
        Path(folder, "play.json").write_text(json.dumps(told), encoding="utf-8")
        script = streams.ROOT / "benchmarks" / "peers" / peer / "learn.py"
        done = subprocess.run([str(python), str(script), str(Path(folder, "play.json"))], capture_output=True,
                              text=True, check=False)
    if done.returncode:
        raise PeerUnavailable(f"{peer} {learner} failed: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    answers = [-1 if answer is None else answer for answer in found["answers"]]
    tested = [[-1 if answer is None else answer for answer in part] for part in found["tested"]]
    return played.figures(answers, tested, found["cpu_s"])


def batch(played: Played, every: int) -> dict[str, float]:
    """Logistic regression on the embeddings, from the start on everything so far, every so many examples."""
    answers: list[int] = []
    tested: list[list[int]] = []
    spent, weights = 0.0, None
    train, test = _with_one(played.train), _with_one(played.test)
    targets = torch.tensor(played.train_labels)
    for start in range(0, len(train), STEP):
        end = min(start + STEP, len(train))
        began = time.process_time()
        answers += [-1] * (end - start) if weights is None else (train[start:end] @ weights).argmax(1).tolist()
        if end // every > start // every or end == len(train):
            weights = _logistic(train[:end], targets[:end], played.n_labels)
        spent += time.process_time() - began
        if any(start < at <= end for at in played.tested_after):
            tested.append([-1] * len(test) if weights is None else (test @ weights).argmax(1).tolist())
    return played.figures(answers, tested, spent)


def _with_one(vectors: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1))


def _logistic(vectors: torch.Tensor, targets: torch.Tensor, n_labels: int) -> torch.Tensor:
    weights = torch.zeros((vectors.shape[1], n_labels), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        # As strong as scikit-learn's C = 10.
        value = torch.nn.functional.cross_entropy(vectors @ weights, targets, reduction="sum") \
            + 0.05 * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()


def retrained(played: Played, base: Encoder) -> dict[str, float]:
    """The whole network fine-tuned from the start for three epochs on everything, once, at the end."""
    began = time.process_time()
    texts = [text for text, _ in played.stream.train]
    adapter = tune(base, {}, texts, [str(label) for label in played.train_labels],
                   Plan("full", 3e-4, streams.MAX_TOKENS, 17, 3))
    encoder = base.adapted(adapter)
    weights = _logistic(_with_one(encoder.encode(texts, max_tokens=streams.MAX_TOKENS)),
                        torch.tensor(played.train_labels), played.n_labels)
    spent = time.process_time() - began
    test = encoder.encode([text for text, _ in played.stream.test], max_tokens=streams.MAX_TOKENS)
    found = played.figures([-1] * len(texts), [(_with_one(test) @ weights).argmax(1).tolist()], spent)
    return {name: found[name] for name in ("test", "cpu")}
