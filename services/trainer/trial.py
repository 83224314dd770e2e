"""A finished fine-tune, ready to be compared with the present generation at the same cut."""

from dataclasses import dataclass

import numpy as np

from schemas.errors import Permanent
from schemas.loops import Loop
from services.trainer.core import Learner, Scorer
from services.trainer.gate import Pairs
from services.trainer.job import ADAPTER, CHAMPION, RESULT, Folder, Job, Result
from services.trainer.publisher import Generation
from services.trainer.reading import Reader, Shape
from services.trainer.schedule import method
from services.trainer.snapshots import Snapshots
from services.trainer.store import Store
from shared.logs import Log
from shared.models.encoder import Encoder

_log = Log("ratchet.trainer")


def job_for(loop: Loop, generation: Generation, cut: int, *, since: int) -> Job:
    """The next fine-tune of a generation, from all examples up to a cut."""
    t = loop.training
    return Job(loop=loop.name, text_path=loop.input.text, base=loop.base, encoder=generation.encoder.digest,
               generation=generation.number + 1, method=method(t), since=since, cut=cut, replay=t.replay,
               learning_rate=t.learning_rate, epochs=t.epochs, batch_size=t.batch_size, lora_rank=t.lora_rank,
               seed=t.seed, projection=t.projection, ridge=t.ridge, holdout=t.holdout, max_tokens=loop.max_tokens,
               window=loop.gate.window)


@dataclass(frozen=True)
class Trial:
    """Both generations at one cut, and the new one caught up.

    Attributes:
        learner: The new generation's, caught up with examples after the cut.
        at_cut: The new generation's head at the cut.
        champion: The present generation's head at the cut.
    """

    job: Job
    result: Result
    generation: Generation
    learner: Learner
    at_cut: Scorer
    champion: Scorer
    fresh: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: Folder, base: Encoder, shape: Shape, present: Learner) -> "Trial | None":
        """Read a finished job; None when it does not belong to the present generation or loop any more."""
        job, result = folder.job(), folder.result()
        if job is None or result is None or job.encoder != present.encoder:
            return None
        try:
            adapter, tensors = folder.get(ADAPTER), folder.get(RESULT)
            encoder = base.adapted(adapter)
            champion_head = folder.get(CHAMPION)["head"]
        except Permanent as exc:
            _log.warning("fine_tune_unreadable", loop=job.loop, reason=str(exc))
            return None
        held = Snapshots(folder.path).load(result.snapshot, fingerprint=shape.fingerprint(encoder))
        if held is None or encoder.digest != result.encoder:
            return None
        learner = shape.restored(*held)
        projection = learner.head.projection
        settings: dict[str, float | str] = {
            "finetune_method": job.method, "finetune_since": float(job.since), "finetune_cut": float(job.cut),
            "finetune_examples": float(result.n_tuned), "learning_rate": job.learning_rate,
            "epochs": float(job.epochs), "batch_size": float(job.batch_size), "lora_rank": float(job.lora_rank),
            "replay": job.replay, "finetune_seed": float(job.seed + job.generation)}
        return cls(job, result, Generation(job.generation, encoder, adapter, settings), learner,
                   Scorer(None, encoder.digest, projection, tensors["head"], tuple(result.labels), job.cut),
                   Scorer(None, job.encoder, projection, champion_head, folder.labels(CHAMPION), job.cut),
                   {key: vector for (_, key, _), vector in zip(result.fresh, tensors["fresh"], strict=True)})

    def pairs(self, store: Store, reader: Reader, present: Learner) -> Pairs:
        """Both heads on the examples after the cut and on the hold-out, each with its own encoder's embeddings.

        Args:
            reader: The present generation's; embeds what serving did not.
        """
        mine = {e.key: e.embedding for e in self.learner.held_out} | self.fresh
        rows = sorted(store.before(list(mine), upto=2**62).values(), key=lambda row: row.seq)[-self.job.window:]
        held = {e.key: e.embedding for e in present.held_out}
        vectors = reader.embed([row for row in rows if row.prediction_id not in held])
        theirs = {row.prediction_id: vectors[row.seq] for row in rows if row.seq in vectors} | held
        rows = [row for row in rows if row.prediction_id in theirs]
        labels = [row.label for row in rows]
        if not rows:
            return Pairs([], np.zeros(0, bool), np.zeros(0, bool))
        ours = self.at_cut.scores(np.stack([mine[row.prediction_id] for row in rows]))
        old = self.champion.scores(np.stack([theirs[row.prediction_id] for row in rows]))
        return Pairs(labels, self.champion.right(old, labels), self.at_cut.right(ours, labels))
