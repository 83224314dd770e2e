"""Loop files: what is accepted, and how a wrong one is explained."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.loops import InvalidLoop, Seconds, parse

EXAMPLE = Path(__file__).parents[3] / "examples" / "loops" / "support-intents.toml"
TEXT = EXAMPLE.read_text() + """
[rollout]
canary = [0.05, 0.25, 1.0]
hold = "60s"
"""


def test_the_example_loop_reads_as_declared():
    loop = parse(TEXT, file="loop.toml")

    assert loop.name == "support-intents"
    assert loop.feedback["correction"].label == "properties.queue"
    assert loop.window_s == 7 * 86400
    assert loop.training.every == 10
    assert loop.rollout.canary == (0.05, 0.25, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ('name = "support-intents"', "", 1, "name", "is required"),
        ('name = "support-intents"', 'name = "Support Intents"', 2, "name", "lower-case"),
        ('task = "text-classification"', 'task = "poetry"', 3, "task", "text-classification"),
        ('text = "properties.text"', 'text = "text"', 8, "input.text", "path"),
        ('label = "properties.queue"', 'lable = "properties.queue"', 13, "feedback.correction.lable", "known here"),
        ('label = "properties.queue"', "", 10, "feedback.correction", "exactly one"),
        ('window = "7d"', 'window = "7 parsecs"', 14, "feedback.correction.window", "duration"),
        ("every_examples = 64", "every_examples = 0", 17, "training.every_examples", "at least 1"),
        ("replay = 3.0", 'replay = "three"', 20, "training.replay", "number"),
        ("confidence = 0.95", "confidence = 95", 24, "gate.confidence", "between"),
        ("confidence = 0.95", "window = 100001", 24, "gate.window", "between 10 and 100000"),
        ("canary = [0.05, 0.25, 1.0]", "canary = [0.5, 0.25]", 28, "rollout.canary", "ends with 1.0"),
        ("[gate]", "[gate", 22, "", "not TOML"),
    ],
)
def test_a_wrong_loop_file_is_explained_with_its_line_and_key(old, new, line, key, words):
    with pytest.raises(InvalidLoop) as caught:
        parse(TEXT.replace(old, new), file="loop.toml")

    assert (caught.value.line, caught.value.key) == (line, key)
    assert str(caught.value).startswith(f"loop.toml:{line}: {key}")
    assert words in str(caught.value)


def test_a_loop_without_feedback_is_refused_because_it_would_learn_nothing():
    with pytest.raises(InvalidLoop, match="nothing is learned"):
        parse('name = "x"')


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("2h", 7200), ("7d", 604800), ("1.5m", 90), ("1w", 604800)]
)
def test_durations_are_read_in_seconds(text, seconds):
    assert Seconds.parse(text) == seconds


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text):
    with contextlib.suppress(InvalidLoop):
        parse(text)
