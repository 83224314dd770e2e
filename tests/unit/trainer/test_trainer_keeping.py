"""Snapshots of the sums: what happens when the disk does not take them."""

from pathlib import Path

import numpy as np
import pytest

from schemas.errors import Transient
from services.trainer.core import Learner
from services.trainer.examples import Change, Embedded
from services.trainer.keeping import Keeper
from services.trainer.store import Progress
from shared.models.analytic import RidgeHead


class Progresses:
    """A store that keeps the progress in memory."""

    def __init__(self) -> None:
        self.saved: list[Progress] = []

    def save(self, progress: Progress) -> None:
        self.saved.append(progress)


def learner(n_examples: int) -> Learner:
    made = Learner(RidgeHead(np.eye(4, 6, dtype=np.float32), ridge=1.0), encoder="e", window=5)
    for seq in range(1, n_examples + 1):
        made.absorb([Change(Embedded(seq, f"p{seq}", "a", np.ones(4, np.float32)), None, False)], cursor=seq)
    return made


def test_a_snapshot_that_the_disk_refuses_is_said_once_and_tried_again(tmp_path: Path) -> None:
    folder, store, now_ms = tmp_path / "trainer", Progresses(), 0
    folder.touch()  # a file where the folder should be
    keeper = Keeper(folder, store, now_ms=lambda: now_ms)  # type: ignore[arg-type]
    target = learner(3)

    def tend() -> None:
        keeper.tend(target, "f", Progress(), every_s=1.0)
        keeper._pool.submit(lambda: None).result()

    now_ms = 2000
    tend()
    with pytest.raises(Transient, match="no snapshot can be written"):
        tend()
    tend()  # goes on
    assert store.saved == []

    folder.unlink()
    now_ms = 4000
    tend()
    tend()
    assert [progress.cursor for progress in store.saved] == [3]
    assert [file.name for file in folder.iterdir()] == [f"learner-{store.saved[0].snapshot}.safetensors"]
