"""Operations per token against a count by hand, and every step says how many tokens it took."""

from dataclasses import replace

import pytest

from shared.models import flops
from shared.models.encoder import Encoder
from shared.models.finetune import Plan, Step, tune
from tests.support import tiny_bert

PLAN = Plan("lora", 3e-3, 32, 7, batch_size=16, lora_rank=4)


def test_operations_are_two_per_weight_and_token_and_direction(tiny: Encoder) -> None:
    model = tiny.trainable()
    config = model.config
    width, inner = config.hidden_size, config.intermediate_size
    matrices = config.num_hidden_layers * (4 * width**2 + 2 * width * inner)
    attention = 4 * config.num_hidden_layers * 10 * width
    assert flops.per_token(model, 10, full=True) == pytest.approx(3 * (2 * matrices + attention))
    assert flops.per_token(model, 10, full=False) == pytest.approx(2 * (2 * matrices + attention))


def test_a_cpus_peak_is_measured_and_not_looked_up() -> None:
    assert flops.peak("cpu") is None
    assert flops.measured_peak(size=64, tries=2) > 0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_says_how_many_tokens_and_operations_it_took(tiny: Encoder, method: str) -> None:
    texts, labels = tiny_bert.corpus(40)
    steps: list[Step] = []
    tune(tiny, {}, texts, labels, replace(PLAN, method=method), on_step=steps.append)  # type: ignore[arg-type]
    rows = tiny.tokenize(texts, max_tokens=32)
    assert sum(step.n_tokens for step in steps) == sum(map(len, rows))
    assert all(step.seconds > 0 and step.flops > 0 for step in steps)
    assert steps[0].flops / steps[0].n_tokens == pytest.approx(steps[-1].flops / steps[-1].n_tokens)
