"""Who serves: changed by compare-and-set only, and written down each time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from schemas.errors import Transient
from shared.registry import Aliases, Conflict, NotFound, Registry

from .conftest import LOOP, World, manifest_of, tensors_of


def test_a_new_loop_has_no_aliases(world: World) -> None:
    assert world.registry.aliases(LOOP) == Aliases()
    assert world.registry.log(LOOP) == []


def test_promoting_moves_the_champion_and_remembers_the_previous_one(world: World) -> None:
    world.champion()
    world.champion()
    assert world.registry.aliases(LOOP) == Aliases(champion="v2", previous="v1", epoch=2)
    entry = world.registry.log(LOOP)[-1]
    assert (entry.action, entry.actor, entry.reason, entry.version, entry.before, entry.after, entry.epoch) == \
        ("promoted", "test", "better", "v2", "v1", "v2", 2)
    assert entry.time_ms > 1_600_000_000_000


def test_promoting_the_champion_again_changes_nothing(world: World) -> None:
    world.champion()
    before = world.registry.log(LOOP)
    assert world.registry.promote(LOOP, "v1", actor="test", reason="again").epoch == 1
    assert world.registry.log(LOOP) == before


def test_an_unknown_version_cannot_be_promoted(world: World) -> None:
    world.champion()
    with pytest.raises(NotFound, match="v9"):
        world.registry.promote(LOOP, "v9", actor="test", reason="typo")
    assert world.registry.aliases(LOOP).champion == "v1"


def test_a_promotion_that_expects_an_older_epoch_is_refused(world: World) -> None:
    world.champion()
    world.publish()
    with pytest.raises(Conflict, match="epoch 1"):
        world.registry.promote(LOOP, "v2", actor="test", reason="late", expect_epoch=0)
    assert world.registry.promote(LOOP, "v2", actor="test", reason="now", expect_epoch=1).epoch == 2


def test_of_many_promotions_that_expect_the_same_epoch_one_wins(world: World) -> None:
    for _ in range(8):
        world.publish()
    barrier = Barrier(8)

    def attempt(number: int) -> bool:
        registry = Registry.connect(world.redis_url, world.artifacts)
        barrier.wait(timeout=10)
        try:
            registry.promote(LOOP, f"v{number}", actor=f"a{number}", reason="race", expect_epoch=0)
        except Conflict:
            return False
        finally:
            registry.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(1, 9)))
    assert won.count(True) == 1
    assert [entry.action for entry in world.registry.log(LOOP)].count("promoted") == 1
    assert world.registry.aliases(LOOP).champion == f"v{won.index(True) + 1}"


def test_a_pinned_loop_refuses_promotions_until_it_is_unpinned(world: World) -> None:
    world.champion()
    world.publish()
    assert world.registry.pin(LOOP, actor="op", reason="hold").pinned == "v1"
    with pytest.raises(Conflict, match="pinned to v1"):
        world.registry.promote(LOOP, "v2", actor="trainer", reason="better")
    assert world.registry.unpin(LOOP, actor="op", reason="go on").pinned is None
    assert world.registry.promote(LOOP, "v2", actor="trainer", reason="better").champion == "v2"


def test_a_forced_promotion_takes_the_pin_along(world: World) -> None:
    world.champion()
    world.publish()
    world.registry.pin(LOOP, actor="op", reason="hold")
    forced = world.registry.promote(LOOP, "v2", actor="op", reason="I know", force=True)
    assert (forced.champion, forced.pinned, forced.previous) == ("v2", "v2", "v1")


def test_pinning_another_version_makes_it_the_champion(world: World) -> None:
    world.champion()
    world.champion()
    pinned = world.registry.pin(LOOP, "v1", actor="op", reason="the good one")
    assert (pinned.champion, pinned.previous, pinned.pinned) == ("v1", "v2", "v1")


def test_rolling_back_goes_one_champion_back_and_holds_there(world: World) -> None:
    for _ in range(3):
        world.champion()
    back = world.registry.rollback(LOOP, actor="op", reason="worse")
    assert (back.champion, back.previous, back.pinned) == ("v2", "v1", "v2")
    with pytest.raises(Conflict):
        world.registry.promote(LOOP, "v3", actor="trainer", reason="again")
    further = world.registry.rollback(LOOP, actor="op", reason="still worse")
    assert (further.champion, further.previous, further.pinned) == ("v1", None, "v1")
    with pytest.raises(Conflict, match="no version to go to"):
        world.registry.rollback(LOOP, actor="op", reason="once more")
    assert [entry.action for entry in world.registry.log(LOOP)[-2:]] == ["rolled_back", "rolled_back"]


def test_canary_and_shadow_are_assigned_and_cleared(world: World) -> None:
    world.champion()
    world.publish()
    assert world.registry.assign(LOOP, "canary", "v2", actor="t", reason="try").canary == "v2"
    assert world.registry.log(LOOP)[-1].fields == {"alias": "canary"}
    assert world.registry.assign(LOOP, "canary", None, actor="t", reason="enough").canary is None
    with pytest.raises(NotFound):
        world.registry.assign(LOOP, "champion", "v2", actor="t", reason="no")


def test_a_decision_is_recorded_with_its_numbers_and_changes_no_alias(world: World) -> None:
    world.champion()
    world.registry.record(LOOP, "rejected", actor="gate", reason="worse by 0.02", version="v2",
                          fields={"difference": -0.02, "rule": "superior"})
    entry = world.registry.log(LOOP)[-1]
    assert (entry.action, entry.version, entry.epoch) == ("rejected", "v2", 1)
    assert entry.fields == {"difference": "-0.02", "rule": "superior"}
    assert world.registry.aliases(LOOP).epoch == 1


def test_a_follower_gets_every_entry_after_the_last_it_saw(world: World) -> None:
    world.champion()
    last = world.registry.last_entry_id(LOOP)
    assert world.registry.follow(LOOP, last, block_ms=1) == []
    world.champion()
    entries = world.registry.follow(LOOP, last, block_ms=1000)
    assert [entry.action for entry in entries] == ["published", "promoted"]


def test_a_waiting_follower_is_woken(world: World) -> None:
    world.champion()
    last = world.registry.last_entry_id(LOOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.again().follow, LOOP, last, block_ms=2000)
        world.registry.record(LOOP, "noted", actor="t", reason="wake up")
        assert [entry.action for entry in waiting.result(timeout=10)] == ["noted"]


def test_replicas_say_what_they_serve(world: World) -> None:
    world.registry.heartbeat(LOOP, "replica-1", "v1", "d" * 64, 1)
    world.registry.heartbeat(LOOP, "replica-1", "v2", "d" * 64, 2)
    [replica] = world.registry.replicas(LOOP)
    assert (replica.name, replica.version, replica.epoch) == ("replica-1", "v2", 2)


def test_redis_away_is_transient(world: World, free_port: int) -> None:
    away = Registry.connect(f"redis://127.0.0.1:{free_port}/0", world.artifacts)
    with pytest.raises(Transient):
        away.aliases(LOOP)
    with pytest.raises(Transient):
        away.next_version(LOOP)


def test_an_artifact_directory_that_cannot_be_written_is_transient_and_nothing_is_published(
        world: World, tmp_path: Path) -> None:
    blocked = tmp_path / "a file, not a directory"
    blocked.write_text("")
    registry = Registry.connect(world.redis_url, blocked)
    with pytest.raises(Transient, match="artifact directory"):
        registry.next_version(LOOP)
    with pytest.raises(Transient, match="artifact directory"):
        registry.publish(manifest_of("v1", tensors_of(1)), tensors_of(1))
    assert world.registry.versions(LOOP) == []
