"""Fine-tunes: they learn, they resume where they were killed, a seed makes them repeatable, ranks share the work."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from shared.models.analytic import RidgeHead, projection
from shared.models.encoder import Encoder
from shared.models.finetune import Plan, Step, class_weights, tune
from shared.models.ranks import Ranks
from tests.support import forks, tiny_bert

LORA = Plan("lora", 3e-3, 32, 7, epochs=2, batch_size=16, lora_rank=4, checkpoint_every=3)
FULL = Plan("full", 3e-2, 32, 7, epochs=2, batch_size=16, checkpoint_every=3)


class Killed(Exception):
    """Stands for a SIGKILL between two steps."""


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("plan", [LORA, FULL], ids=["lora", "full"])
def test_one_batch_is_overfitted(tiny: Encoder, plan: Plan) -> None:
    texts, labels = tiny_bert.corpus(16)
    steps: list[Step] = []
    tune(tiny, {}, texts, labels, replace(plan, epochs=40), on_step=steps.append)
    assert len(steps) == steps[0].total == 40
    assert steps[-1].loss < 0.05 < steps[0].loss


def test_a_tuned_encoder_makes_a_better_head(tiny: Encoder) -> None:
    texts, labels = tiny_bert.corpus(200, hard=0.85)
    new_texts, new_labels = tiny_bert.corpus(200, seed=1, hard=0.85)

    def accuracy(encoder: Encoder) -> float:
        head = RidgeHead(projection(encoder.dim, 128, 1), ridge=1.0)
        head.add(encoder.encode(texts, max_tokens=32), labels)
        scores = np.maximum(encoder.encode(new_texts, max_tokens=32) @ head.projection, 0) @ head.weights()
        return float(np.mean([head.labels[i] == label for i, label in zip(scores.argmax(1), new_labels, strict=True)]))

    adapter = tune(tiny, {}, texts, labels, replace(FULL, epochs=6))
    assert accuracy(tiny.adapted(adapter)) > accuracy(tiny) + 0.05


@pytest.mark.parametrize("plan", [LORA, FULL], ids=["lora", "full"])
def test_killed_and_resumed_it_ends_as_if_it_had_not_been(tmp_path: Path, plan: Plan) -> None:
    base = Encoder.load(str(tiny_bert.make(tmp_path / "bert", dropout=0.1)), device="cpu")
    texts, labels = tiny_bert.corpus(50)
    whole = tune(base, {}, texts, labels, plan)
    numbers: list[int] = []

    def kill_at(number: int) -> object:
        def on_step(step: Step) -> None:
            numbers.append(step.number)
            if step.number == number:
                raise Killed
        return on_step

    checkpoint = tmp_path / "checkpoint.safetensors"
    for number in (2, 5, 7):
        with pytest.raises(Killed):
            tune(base, {}, texts, labels, plan, checkpoint=checkpoint, on_step=kill_at(number))
    resumed = tune(base, {}, texts, labels, plan, checkpoint=checkpoint, on_step=kill_at(-1))
    same(whole, resumed)
    assert numbers == [1, 2, 1, 2, 3, 4, 5, 4, 5, 6, 7, 7, 8]


def test_a_damaged_checkpoint_only_costs_the_steps(tiny: Encoder, tmp_path: Path) -> None:
    texts, labels = tiny_bert.corpus(50)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\x08\0\0\0")
    same(tune(tiny, {}, texts, labels, LORA),
         tune(tiny, {}, texts, labels, LORA, checkpoint=tmp_path / "checkpoint.safetensors"))


def test_equal_seeds_give_equal_weights_and_others_do_not(tiny: Encoder) -> None:
    texts, labels = tiny_bert.corpus(40)
    first, second = (tune(tiny, {}, texts, labels, LORA) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    other = tune(tiny, {}, texts, labels, replace(LORA, seed=8))
    assert any(np.abs(first[name] - other[name]).max() > 1e-4 for name in first)


def test_the_base_is_not_touched_and_the_adapter_is_what_was_trained(tiny: Encoder) -> None:
    texts, labels = tiny_bert.corpus(40)
    before = {name: p.clone() for name, p in tiny._model.named_parameters()}
    adapter = tune(tiny, {}, texts, labels, LORA)
    for name, p in tiny._model.named_parameters():
        assert torch.equal(p, before[name]), name
    assert tiny.adapted(adapter).digest != tiny.digest
    assert all(name.startswith("adapter.") for name in adapter)


def test_training_goes_on_from_the_present_adapter(tiny: Encoder) -> None:
    texts, labels = tiny_bert.corpus(60)
    losses: list[list[float]] = []
    adapter: dict[str, np.ndarray] = {}
    for _ in range(2):
        losses.append([])
        adapter = tune(tiny, adapter, texts, labels, replace(LORA, epochs=6),
                       on_step=lambda step, kept=losses[-1]: kept.append(step.loss))
    assert losses[1][0] < losses[0][0]


def test_lora_on_a_fully_tuned_encoder_keeps_its_weights(tiny: Encoder) -> None:
    texts, labels = tiny_bert.corpus(40)
    full = tune(tiny, {}, texts, labels, FULL)
    both = tune(tiny, full, texts, labels, LORA)
    assert set(full) < set(both)
    tiny.adapted(both)


def test_rare_labels_weigh_more_within_bounds() -> None:
    weights = class_weights(np.array([0] * 100 + [1] * 4))
    assert weights.mean() == pytest.approx(1.0)
    assert 1.5 < weights[-1] / weights[0] <= 16


def _share(rank: int, port: int, directory: str, out: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks = Ranks.join(device="cpu")
    base = Encoder.load(directory, device="cpu")
    save_file(tune(base, {}, *tiny_bert.corpus(40), LORA, ranks=ranks), f"{out}/{rank}.safetensors")
    ranks.leave()


def test_two_processes_end_where_one_does(tiny: Encoder, tiny_directory: Path, tmp_path: Path, free_port: int) -> None:
    alone = tune(tiny, {}, *tiny_bert.corpus(40), LORA)
    processes = [forks.start(_share, rank, free_port, str(tiny_directory), str(tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank in (0, 1):
        together = load_file(tmp_path / f"{rank}.safetensors")
        assert set(together) == set(alone)
        for name in alone:
            np.testing.assert_allclose(together[name], alone[name], atol=2e-4, err_msg=name)
