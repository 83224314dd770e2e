"""A loop on a tiny encoder, with real Postgres and Redis, and a way to put examples in."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from schemas.loops import Gate, Loop, Seconds, Training, parse
from services.trainer.app import LoopTrainer, Options
from services.trainer.finetune import FineTune
from services.trainer.job import Folder
from services.trainer.store import Store
from shared import postgres
from shared.models.encoder import Encoder
from shared.registry import Registry
from tests.support import forks, tiny_bert
from tests.support.services import eventually

LOOP = "tiny"


class ForkedChild:
    """The fine-tune's process without the seconds that importing torch takes: a fork of one that has it already.

    Looks like the ``subprocess.Popen`` that stands in its place; the real command has a test of its own.
    """

    stdin = None

    def __init__(self, command: list[str], *, stdin: int, env: dict[str, str]) -> None:
        self._process = forks.start(fine_tune, command[-1], env)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        self._process.kill()
        self._process.join(10)


def fine_tune(folder: str, environ: dict[str, str]) -> None:
    """What the child's ``run`` does after it has read its settings."""
    from services.trainer import child
    from services.trainer.settings import Settings
    from shared import settings

    child.work(Path(folder), settings.read(Settings, environ))


@dataclass
class Bench:
    """One loop's surroundings.

    Attributes:
        n: How many examples were put in.
    """

    postgres_url: str
    redis_url: str
    artifacts: Path
    base: Encoder
    loop: Loop
    registry: Registry
    connection: postgres.Connection
    n: int = 0
    made: list[LoopTrainer] = field(default_factory=list)

    def put(self, texts: Sequence[str], labels: Sequence[str], *, subjects: Sequence[str] | None = None,
            keys: Sequence[str] | None = None, revision: int = 1, embed: bool = True) -> None:
        """Insert examples as the processor does, in one transaction, announced."""
        vectors = self.base.encode(texts, max_tokens=self.loop.max_tokens) if embed else None
        with self.connection.transaction():
            for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
                self.n += 1
                key = keys[i] if keys else f"pr_{self.n}"
                self.connection.execute(
                    "INSERT INTO predictions (id, loop, version, subject, event_time, scores, input, embedding, "
                    "encoder, arm, propensity) VALUES (%s, %s, 'v0', %s, now(), '{}', %s::json, %s, %s, 'champion', 1) "
                    "ON CONFLICT (id) DO NOTHING",
                    [key, LOOP, subjects[i] if subjects else f"s_{self.n}", json.dumps({"text": text}),
                     vectors[i].tobytes() if vectors is not None else b"", self.base.digest if embed else ""])
                self.connection.execute(
                    "INSERT INTO labels (loop, seq, prediction_id, revision, label, source, labelled_at) "
                    "VALUES (%s, %s, %s, %s, %s, 'f', now())", [LOOP, self.n, key, revision, label])
            self.connection.execute(f"NOTIFY ratchet_examples, '{LOOP}'")

    def trainer(self, loop: Loop | None = None, *, snapshot_every_s: float = 3600.0,
                start: Callable[..., Any] = ForkedChild) -> LoopTrainer:
        """A trainer that takes every step's update at once."""
        loop = loop or self.loop
        made = build(self.postgres_url, self.redis_url, self.artifacts, self.base, loop, self.registry,
                     snapshot_every_s=snapshot_every_s, start=start)
        self.made.append(made)
        return made

    def runs(self) -> list[tuple[object, ...]]:
        """(method, version, first_seq, last_seq, verdict) of every recorded decision, oldest first."""
        return self.connection.execute("SELECT method, version, first_seq, last_seq, gate->>'verdict' FROM "
                                       "training_runs WHERE loop = %s ORDER BY ended_at, last_seq", [LOOP]).fetchall()


def build(postgres_url: str, redis_url: str, artifacts: Path, base: Encoder, loop: Loop, registry: Registry, *,
          snapshot_every_s: float = 3600.0, start: Callable[..., Any] = ForkedChild) -> LoopTrainer:
    """A trainer as ``main.py`` builds it."""
    environ = {**os.environ, "RATCHET_ARTIFACTS_DIR": str(artifacts), "RATCHET_POSTGRES_URL": postgres_url,
               "RATCHET_REDIS_URL": redis_url, "RATCHET_DEVICE": "cpu", "PYTHONWARNINGS": "ignore",
               "PYTHONPATH": str(Path(__file__).parents[3])}
    directory = artifacts / loop.name / "trainer"
    return LoopTrainer(loop, base, store=Store(postgres_url, loop.name, text_path=loop.input.text), registry=registry,
                       finetune=FineTune(Folder(directory / "finetune"), n_processes=1, environ=environ,
                                         start=start),
                       encoders={base.digest: base},
                       options=Options(directory, update_every_s=0.0, snapshot_every_s=snapshot_every_s))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(str(tiny_bert.make(tmp_path_factory.mktemp("tiny") / "bert")), device="cpu")


@pytest.fixture
def tiny_loop(tiny_base: Encoder) -> Loop:
    declared = parse(tiny_bert.loop_file(LOOP, tiny_base.base.id))
    training = Training(method="analytic", projection=128, ridge=1.0, holdout=0.1, every_examples=50,
                        every=Seconds(0.001), learning_rate=3e-3, batch_size=16, lora_rank=4)
    return replace(declared, training=training, gate=Gate(window=200))


@pytest.fixture
def bench(postgres_url: str, redis_url: str, tmp_path: Path, tiny_base: Encoder, tiny_loop: Loop) -> Iterator[Bench]:
    registry = Registry.connect(redis_url, tmp_path / "artifacts")
    connection = postgres.connect(postgres_url, autocommit=True)
    made = Bench(postgres_url, redis_url, tmp_path / "artifacts", tiny_base, tiny_loop, registry, connection)
    yield made
    for trainer in made.made:
        trainer.close()
    connection.close()
    registry.close()


@pytest.fixture
def until() -> Callable[..., None]:
    """Repeat a step until a condition holds, with a deadline."""
    def wait(condition: Callable[[], object], step: Callable[[], object] = lambda: None, *, timeout_s: float = 60.0
             ) -> None:
        def holds() -> bool:
            if condition():
                return True
            step()
            return False

        eventually(holds, timeout_s=timeout_s, every_s=0.02)

    return wait
