"""The loop's stages add up to its loop time, whatever their order; the capacity model finds the line it is given."""

import pytest

from benchmarks import growth_model
from benchmarks.growth_model import Cost, Point
from benchmarks.loop_load import Answered, Heard
from benchmarks.loop_stages import BEFORE, STAGES, first_answers, trip


def test_the_stages_after_the_acceptance_sum_to_the_loop_time() -> None:
    ends = dict(zip(STAGES, [0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4], strict=True))
    found = trip(0.0, ends)
    assert found.loop_s == pytest.approx(1.4 - 0.3)
    assert sum(took for name, took in found.stages_s.items() if name not in BEFORE) == pytest.approx(found.loop_s)


def test_a_stage_that_ended_before_the_one_before_it_took_no_time_and_the_sum_stays() -> None:
    ends = dict(zip(STAGES, [0.1, 0.2, 0.6, 0.4, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.15, 1.4], strict=True))
    found = trip(0.0, ends)
    assert (found.stages_s["begun"], found.stages_s["committed"], found.stages_s["asked"]) == (0.0, 0.0, 0.0)
    assert found.loop_s == pytest.approx(1.4 - 0.6)


def test_the_first_answer_is_that_of_the_first_version_to_answer_that_had_learned_so_much() -> None:
    versions = {"v1": {"cut": 10.0}, "v2": {"cut": 30.0}, "v3": {"cut": 20.0}}
    heard = Heard(answers=[Answered("v0", 0.0, 0.1), Answered("v2", 2.0, 2.1), Answered("v1", 1.0, 1.1),
                           Answered("v3", 3.0, 3.1), Answered("v2", 4.0, 4.1)])
    assert first_answers(heard, versions) == [(10, ("v1", 1.0, 1.1)), (30, ("v2", 2.0, 2.1))]


def test_the_model_finds_what_a_batch_and_an_item_cost() -> None:
    loads = [(2.5, 50), (25, 480), (90, 5000)]
    found = growth_model.fit(0.05, [Point(b, i, 0.05 + 1e-3 * b + 2e-5 * i) for b, i in loads])
    assert (found.idle, found.batch, found.item) == (0.05, pytest.approx(1e-3), pytest.approx(2e-5))


def test_no_cost_is_below_zero() -> None:
    found = growth_model.fit(0.0, [Point(1, 10, 0.02), Point(10, 200, 0.19), Point(100, 5000, 1.7)])
    assert found.item == 0.0
    assert found.batch == pytest.approx(0.0187, rel=0.1)


def test_what_a_million_events_need_follows_from_batches_and_items_alone() -> None:
    found = growth_model.needs({"inference": Cost(0.1, 0.05, 0.005)}, {"inference": (2_000, 20_000)},
                               cores_per_machine=16, busy=0.5)
    assert (found["inference"].items_per_s, found["inference"].cores, found["inference"].machines) == (20_000, 200, 25)
