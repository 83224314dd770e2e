"""How well the analytic head learns a stream: ``python benchmarks/learning.py``; results in docs/learning.md.

Plays Banking77 in shuffled order, starting without labels. A message is answered before its label is learned, and the
label takes effect only some messages later, as it does through the real loop at 50 messages a second. Needs
``../shared/data/banking77``; embeddings are computed once and kept in ``.cache/learning``.
"""

import argparse
import csv
import gzip
import sys
import time
from pathlib import Path

import numpy as np

from schemas.loops import Training
from services.trainer.examples import is_held_out
from shared.models.analytic import RidgeHead, features, projection
from shared.models.encoder import Encoder
from shared.models.finetune import Plan, tune

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "banking77"
MAX_TOKENS = 128
# Messages answered between two updates: half a second at 50 messages a second.
STEP = 25


def read() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(text, label) of the stream and of the test set."""
    with gzip.open(DATA / "train.csv.gz", "rt", encoding="utf-8", newline="") as file:
        stream = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    with (DATA / "test.csv").open(encoding="utf-8", newline="") as file:
        return stream, [(row["text"], row["category"]) for row in csv.DictReader(file)]


def embed(encoder: Encoder, name: str, texts: list[str]) -> np.ndarray:
    """Embeddings (N, D), from the cache when this encoder made them before."""
    path = ROOT / ".cache" / "learning" / f"{name}-{encoder.digest[:16]}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    began = time.monotonic()
    vectors = encoder.encode(texts, max_tokens=MAX_TOKENS)
    print(f"embedded {len(texts)} texts of {name} in {time.monotonic() - began:.0f} s", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors)
    return vectors


def right(head: RidgeHead, vectors: np.ndarray, labels: list[str]) -> np.ndarray:
    """Whether each answer is right, (B,) bool."""
    if not head.labels:
        return np.zeros(len(labels), bool)
    best = (features(vectors, head.projection) @ head.weights()).argmax(axis=1)
    return np.array([head.labels[i] == label for i, label in zip(best, labels, strict=True)])


def play(stream: np.ndarray, labels: list[str], test: np.ndarray, test_labels: list[str], *, width: int, ridge: float,
         holdout: float, delay: int, seed: int) -> dict[str, float]:
    """Answer, then learn ``delay`` messages later; returns shares of right answers and update times in ms."""
    head = RidgeHead(projection(stream.shape[1], width, seed), ridge=ridge)
    order = np.random.default_rng(1).permutation(len(labels))
    hits, learned, spent = np.zeros(len(labels), bool), 0, []
    for start in range(0, len(labels), STEP):
        now = order[start:start + STEP]
        hits[start:start + STEP] = right(head, stream[now], [labels[i] for i in now])
        known = max(learned, start + STEP - delay)
        rows = [int(i) for i in order[learned:known] if not is_held_out("", f"pr_{i}", holdout, seed)]
        learned = known
        if rows:
            began = time.perf_counter()
            head.add(stream[rows], [labels[i] for i in rows])
            head.weights()
            spent.append(1000 * (time.perf_counter() - began))
    return {"overall": float(hits.mean()), "first_2000": float(hits[:2000].mean()),
            "last_2000": float(hits[-2000:].mean()), "test": float(right(head, test, test_labels).mean()),
            "update_ms": float(np.median(spent)), "update_ms_p95": float(np.percentile(spent, 95))}


def main() -> None:
    """Print one line per setting."""
    declared = Training()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--projection", type=int, nargs="*", default=[declared.projection])
    parser.add_argument("--ridge", type=float, nargs="*", default=[declared.ridge])
    parser.add_argument("--holdout", type=float, default=declared.holdout)
    parser.add_argument("--delay", type=int, default=60, help="messages until a label takes effect")
    parser.add_argument("--lora", type=int, default=0, metavar="N",
                        help="compare the head on the base with that after a LoRA fine-tune on N examples, instead")
    chosen = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"there is no {DATA}")
    stream, test = read()
    texts, labels = [list(part) for part in zip(*stream, strict=True)]
    test_texts, test_labels = [list(part) for part in zip(*test, strict=True)]
    base = Encoder.load("minilm")
    if chosen.lora:
        compare(base, texts, labels, test_texts, test_labels, chosen.lora, declared)
        return
    vectors, test_vectors = embed(base, "stream", texts), embed(base, "test", test_texts)
    for width in chosen.projection:
        for ridge in chosen.ridge:
            found = play(vectors, labels, test_vectors, test_labels, width=width, ridge=ridge, holdout=chosen.holdout,
                         delay=chosen.delay, seed=declared.seed)
            print(f"M={width} ridge={ridge:g} holdout={chosen.holdout:g} delay={chosen.delay}: "
                  + " ".join(f"{name} {value:.4f}" if value <= 1 else f"{name} {value:.0f}"
                             for name, value in found.items()), flush=True)


def compare(base: Encoder, texts: list[str], labels: list[str], test_texts: list[str], test_labels: list[str], n: int,
            declared: Training) -> None:
    """Print the test accuracy of the head on the base and on a LoRA fine-tune, both from the same n examples."""
    rows = np.random.default_rng(1).permutation(len(labels))[:n]
    chosen, own = [texts[i] for i in rows], [labels[i] for i in rows]
    began = time.monotonic()
    adapter = tune(base, {}, chosen, own, Plan("lora", declared.learning_rate, MAX_TOKENS, declared.seed,
                                               declared.epochs, declared.batch_size, declared.lora_rank))
    print(f"tuned on {n} examples in {time.monotonic() - began:.0f} s", file=sys.stderr)
    for name, encoder in (("base", base), ("lora", base.adapted(adapter))):
        head = RidgeHead(projection(encoder.dim, declared.projection, declared.seed), ridge=declared.ridge)
        head.add(encoder.encode(chosen, max_tokens=MAX_TOKENS), own)
        print(f"{name} after {n}: test "
              f"{right(head, embed(encoder, 'test', test_texts), test_labels).mean():.4f}", flush=True)


if __name__ == "__main__":
    main()
