"""What a predict request asks, and what is answered and logged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Invalid
from services.inference.core import (
    MAX_INPUTS,
    MAX_TEXT_CHARS,
    Ask,
    PredictionIds,
    TooLarge,
    answer_of,
    asks_of,
    prediction_of,
)

LABELS = ("card", "rate", "top_up")


def test_one_input_and_a_list_of_inputs_are_understood() -> None:
    assert asks_of({"text": "a", "user_id": "u1"}, "text") == [Ask("a", "u1")]
    assert asks_of({"inputs": [{"text": "a"}, {"text": "b", "user_id": 7}]}, "text") == [Ask("a"), Ask("b", "7")]


def test_the_text_has_the_name_that_the_loop_gives_it_or_is_called_text() -> None:
    assert asks_of({"message": "a"}, "message") == [Ask("a")]
    assert asks_of({"text": "a"}, "message") == [Ask("a")]
    assert asks_of({"message": "a", "text": "b"}, "message") == [Ask("a")]


@pytest.mark.parametrize(("body", "code", "path"), [
    ([], "not_an_object", ""),
    ({}, "missing_field", "message"),
    ({"message": 3}, "wrong_type", "message"),
    ({"message": "nul \0"}, "nul_character", "message"),
    ({"message": "a", "user_id": ["u"]}, "wrong_type", "user_id"),
    ({"message": "a", "user_id": True}, "wrong_type", "user_id"),
    ({"inputs": []}, "wrong_type", "inputs"),
    ({"inputs": {"message": "a"}}, "wrong_type", "inputs"),
    ({"inputs": ["a"]}, "wrong_type", "inputs.0"),
    ({"inputs": [{"message": "a"}, {}]}, "missing_field", "inputs.1.message"),
    ({"inputs": [{"message": None}]}, "wrong_type", "inputs.0.message"),
])
def test_a_wrong_body_is_refused_with_its_place(body: object, code: str, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        asks_of(body, "message")
    assert (caught.value.code, caught.value.path) == (code, path)


def test_too_much_is_refused_as_too_large() -> None:
    with pytest.raises(TooLarge):
        asks_of({"inputs": [{"text": "a"}] * (MAX_INPUTS + 1)}, "text")
    with pytest.raises(TooLarge):
        asks_of({"text": "a" * (MAX_TEXT_CHARS + 1)}, "text")


@given(st.lists(st.integers(0, 2**47), min_size=1, max_size=50))
def test_ids_never_repeat_and_grow_whatever_the_clock_does(times_ms: list[int]) -> None:
    new_id = PredictionIds(lambda n: bytes(n))
    ids = [new_id(now_ms) for now_ms in times_ms]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert all(len(one) == 35 and one.startswith("pr_") for one in ids)


def test_more_ids_in_a_millisecond_than_the_counter_holds_still_differ() -> None:
    new_id = PredictionIds(lambda n: bytes(n))
    assert len({new_id(1) for _ in range(70_000)}) == 70_000


def test_the_likeliest_label_is_the_answer_and_the_first_of_equals() -> None:
    def label(*scores: float) -> str | None:
        return answer_of("pr_1", "v1", LABELS, np.array(scores, np.float32), np.zeros(2, np.float32)).label

    assert label(0.1, 0.7, 0.2) == "rate"
    assert label(0.4, 0.2, 0.4) == "card"
    assert answer_of("pr_1", "v0", (), np.zeros(0, np.float32), np.zeros(2, np.float32)).label is None


def test_the_log_has_the_likeliest_scores_and_the_embedding_as_it_was() -> None:
    labels = tuple(f"l{i}" for i in range(9))
    scores = np.linspace(0.3, 0.01, 9, dtype=np.float32)
    embedding = np.array([0.5, -1.25], np.float32)
    answer = answer_of("pr_1", "v3", labels, scores, embedding)
    logged = prediction_of(answer, loop="loop", field="message", text="hi", subject="s_1", encoder="e", now_ms=12)
    assert list(logged.scores) == ["l0", "l1", "l2", "l3", "l4"]
    assert (logged.id, logged.version, logged.label, logged.time_ms) == ("pr_1", "v3", "l0", 12)
    assert (logged.input, logged.subject, logged.encoder) == ({"message": "hi"}, "s_1", "e")
    np.testing.assert_array_equal(np.frombuffer(logged.embedding, "<f4"), embedding)
