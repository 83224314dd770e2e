"""Plays a stream to an online learner in its own environment: answers a step, then learns it. Standard library only.

``python LEARNER.py PLAY.json`` writes one line of JSON to standard output. The play names texts, labels, embeddings
(float32, one row per text), the steps' size, and after which rows the test set is answered, off the clock.
"""

import array
import json
import sys
import time
from pathlib import Path


class Row:
    """One example: its text, its embedding (D floats) and its label, as an integer."""

    __slots__ = ("label", "text", "vector")

    def __init__(self, text, vector, label):
        self.text, self.vector, self.label = text, vector, label


def play(learners):
    """Run the learner that the play asks for.

    Args:
        learners: By name, a function of the number of labels that returns ``predict(row)`` and ``learn(row)``.
    """
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows, test = _rows(told["train"], told["dim"]), _rows(told["test"], told["dim"])
    predict, learn = learners[told["learner"]](told["n_labels"])
    answers, tested, spent = [], [], 0.0
    for start in range(0, len(rows), told["step"]):
        step = rows[start:start + told["step"]]
        began = time.process_time()
        answers += [predict(row) for row in step]
        for row in step:
            learn(row)
        spent += time.process_time() - began
        if any(start < at <= start + len(step) for at in told["tested_after"]):
            tested.append([predict(row) for row in test])
    json.dump({"answers": answers, "tested": tested, "cpu_s": spent}, sys.stdout)


def _rows(told, dim):
    data = array.array("f", Path(told["vectors"]).read_bytes())
    return [Row(text, data[i * dim:(i + 1) * dim].tolist(), label)
            for i, (text, label) in enumerate(zip(told["texts"], told["labels"], strict=True))]
