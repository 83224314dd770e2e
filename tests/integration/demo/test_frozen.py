"""The never-updated version, asked with the code that serves and a real encoder."""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

from schemas.manifest import BaseRef
from services.demo.frozen import Frozen, NeverUpdated, labels_of
from services.demo.messages import Message, read
from services.demo.metrics import NO_VERSION, Answer
from services.demo.stack import Stores
from services.demo.tally import Tally
from tests.support.demo_runs import Clock, manifest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
NOWHERE = Stores("postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1/0", Path("/nonexistent"))


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    """A version that learned 200 messages of the small corpus."""
    from shared.models.analytic import RidgeHead, projection
    from shared.models.encoder import Encoder

    encoder = Encoder.load("minilm", device="cpu")
    messages = read(EXAMPLES / "support-messages.csv", "text", "queue")[::4][:200]
    weight = projection(encoder.dim, 500, 1)
    head = RidgeHead(weight, ridge=10.0)
    head.add(encoder.encode([m.text for m in messages], max_tokens=64), [m.label for m in messages])
    made = msgspec.structs.replace(
        manifest("v1", 200), labels=list(head.labels), encoder=encoder.digest, tokenizer=encoder.tokenizer_digest,
        base=BaseRef("minilm", encoder.base.sha256), max_tokens=64)
    return Frozen(made, {"projection.weight": weight, "head.weight": head.weights()})


def test_embeddings_that_were_logged_and_those_made_now_give_the_same_answers(frozen: Frozen):
    from shared.models.encoder import Encoder

    texts = [m.text for m in read(EXAMPLES / "support-messages-test.csv", "text", "queue")[:40]]
    logged = Encoder.load("minilm", device="cpu").encode(texts, max_tokens=64).astype("<f4")
    model = frozen.load()
    made = labels_of(model, texts, [None] * len(texts))
    given = labels_of(model, texts, [row.tobytes() for row in logged])
    mixed = labels_of(model, texts, [row.tobytes() if place % 3 else None for place, row in enumerate(logged)])
    assert made == given == mixed


def test_the_frozen_version_answers_like_a_model_and_not_by_chance(frozen: Frozen):
    messages = read(EXAMPLES / "support-messages-test.csv", "text", "queue")
    labels = labels_of(frozen.load(), [m.text for m in messages], [None] * len(messages))
    assert np.mean([label == m.label for label, m in zip(labels, messages, strict=True)]) > 0.4


async def test_frozen_before_any_label_it_is_wrong_about_everything():
    tally = Tally(20, Clock())
    asked = NeverUpdated("support-intents", NOWHERE, [Message("t", "a", "u")] * 20, tally)
    for index in range(20):
        asked.saw(Answer(index, 0.0, f"pr_{index}", NO_VERSION, None, "a"))
    await asked.ask()
    assert list(tally.static_flags) == list(range(2, 20))
    assert not any(tally.static_flags.values())
    assert asked.fault == ""


async def test_when_its_weights_cannot_be_read_it_says_so_and_the_run_goes_on():
    tally = Tally(10, Clock())
    asked = NeverUpdated("support-intents", NOWHERE, [Message("t", "a", "u")] * 10, tally)
    asked.saw(Answer(1, 0.0, "pr_1", "v3", "a", "a"))
    await asked.ask()
    assert asked.fault
    assert tally.static_flags == {}


def test_a_frozen_version_cannot_be_changed(frozen: Frozen):
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.manifest = manifest("v2", 1)  # type: ignore[misc]
