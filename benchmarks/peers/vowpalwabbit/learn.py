"""Vowpal Wabbit's online classifiers, played a stream: see ``playing.py``."""

import re
import sys
from pathlib import Path

from vowpalwabbit import Workspace

sys.path.insert(0, str(Path(__file__).parents[1]))
import playing

_WORD = re.compile(r"[^\W_]+|[^\w\s]", re.UNICODE)


def _text(row):
    words = (word if word not in ":|" else "_" for word in _WORD.findall(row.text.lower()))
    return "|t " + " ".join(words)


def _vector(row):
    return "|e " + " ".join(f"{i}:{value:.5f}" for i, value in enumerate(row.vector))


def _one(options, *parts):
    def start(n_labels):
        model = Workspace(f"--oaa {max(2, n_labels)} --quiet -b 22 {options}")

        def line(row):
            return " ".join(part(row) for part in parts)

        def predict(row):
            return int(model.predict(line(row))) - 1

        def learn(row):
            model.learn(f"{row.label + 1} {line(row)}")
        return predict, learn
    return start


LEARNERS = {
    "text": _one("--loss_function logistic --ngram t2", _text),
    "text_hinge": _one("--loss_function hinge --ngram t2", _text),
    "embeddings": _one("--loss_function logistic", _vector),
    "text_and_embeddings": _one("--loss_function logistic --ngram t2", _text, _vector),
}

if __name__ == "__main__":
    playing.play(LEARNERS)
