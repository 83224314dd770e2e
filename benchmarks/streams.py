"""The labelled text streams that learning is measured on, and their embeddings, computed once."""

import csv
import gzip
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from shared.models.encoder import Encoder

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
CACHE = ROOT / ".cache" / "learning"
MAX_TOKENS = 128
# Texts after which the file is written, so that an interrupted run loses little.
_CHUNK = 500

Rows = list[tuple[str, str]]
T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """What is answered and then learned, in this order, and what is only tested on: (text, label) pairs."""

    name: str
    train: Rows
    test: Rows

    def cut(self, n: int) -> "Stream":
        """The first ``n`` rows, and half as many of the test set."""
        return Stream(self.name, self.train[:n], self.test[:n // 2])


def banking77(data: Path) -> Stream:
    """Banking77, 77 intents, shuffled."""
    return Stream("banking77", _shuffled(_csv(data / "banking77/train.csv.gz", "text", "category"), 1),
                  _shuffled(_csv(data / "banking77/test.csv", "text", "category"), 2))


def banking77_by_class(data: Path, n: int | None = None) -> Stream:
    """Banking77, one label after the other: no label ever comes back."""
    whole = banking77(data)
    rows = whole.train if n is None else whole.train[:n]
    labels = _shuffled(sorted({label for _, label in whole.train}), 3)
    return Stream("banking77_by_class", sorted(rows, key=lambda row: labels.index(row[1])), whole.test)


def goemotions(data: Path) -> Stream:
    """GoEmotions in four groups: rows whose labels are all of one group."""
    groups = {"positive": "0,1,4,5,8,13,15,17,18,20,21,23", "negative": "2,3,9,10,11,12,14,16,19,24,25",
              "ambiguous": "6,7,22,26", "neutral": "27"}
    group = {int(number): name for name, numbers in groups.items() for number in numbers.split(",")}

    def rows(path: Path) -> Rows:
        found = []
        for line in _text(path).splitlines():
            text, numbers, _ = line.split("\t")
            names = {group[int(number)] for number in numbers.split(",")}
            if len(names) == 1:
                found.append((text, names.pop()))
        return found

    return Stream("goemotions", _shuffled(rows(data / "goemotions/train.tsv.gz"), 1),
                  _shuffled(rows(data / "goemotions/test.tsv.gz"), 2))


def twitter_financial_sentiment(data: Path) -> Stream:
    """Tweets about shares: bearish, bullish or neutral."""
    folder = data / "twitter_financial_sentiment"
    return Stream("twitter_financial_sentiment", _shuffled(_csv(folder / "sent_train.csv.gz", "text", "label"), 1),
                  _shuffled(_csv(folder / "sent_valid.csv", "text", "label"), 2))


def cfpb_payday_2023(data: Path) -> Stream:
    """Consumer complaints in the order of their dates; the label is the issue. The last fifth is the test set."""
    file = io.StringIO(_text(data / "cfpb_payday_2023/complaints.csv.gz"), newline="")
    found = sorted(csv.DictReader(file),
                   key=lambda row: (datetime.strptime(row["Date received"], "%m/%d/%y"), row["Complaint ID"]))
    rows = [(row["Consumer complaint narrative"], row["Issue"]) for row in found]
    end = len(rows) * 4 // 5
    return Stream("cfpb_payday_2023", rows[:end], rows[end:])


STREAMS: dict[str, Callable[[Path], Stream]] = {make.__name__: make for make in (
    banking77, banking77_by_class, goemotions, twitter_financial_sentiment, cfpb_payday_2023)}


def load(name: str, data: Path, n: int | None) -> Stream:
    """A stream, at most ``n`` rows of it; None for all."""
    if name == "banking77_by_class":
        whole = banking77_by_class(data, n)
    else:
        whole = STREAMS[name](data)
    return whole if n is None else whole.cut(n)


def embed(encoder: Encoder, data_set: str, texts: Sequence[str]) -> tuple[np.ndarray, float]:
    """Embeddings (N, D) float32, and the CPU seconds per text when they were made; kept in ``.cache/learning``."""
    path = CACHE / f"{data_set}-{encoder.digest[:16]}.npz"
    found: dict[str, np.ndarray] = {}
    spent_s = 0.0
    if path.is_file():
        with np.load(path, allow_pickle=False) as held:
            found, spent_s = dict(zip(held["keys"].tolist(), held["vectors"], strict=True)), float(held["spent_s"])
    keys = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
    for part in (list(missing)[start:start + _CHUNK] for start in range(0, len(missing), _CHUNK)):
        began = time.process_time()
        made = encoder.encode([missing[key] for key in part], max_tokens=MAX_TOKENS)
        spent_s += time.process_time() - began
        found |= zip(part, made, strict=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(path.with_suffix(".part.npz"), keys=list(found), vectors=np.stack([*found.values()]), spent_s=spent_s)
        path.with_suffix(".part.npz").replace(path)
    return np.stack([found[key] for key in keys]), spent_s / len(found)


def _csv(path: Path, text: str, label: str) -> Rows:
    return [(row[text], row[label]) for row in csv.DictReader(io.StringIO(_text(path), newline=""))]


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def _shuffled(rows: Sequence[T], seed: int) -> list[T]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
