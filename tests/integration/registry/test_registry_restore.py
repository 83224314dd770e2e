"""The durable copy: an emptied Redis comes back as it was, and old weights go without taking others along."""

from collections.abc import Callable

import pytest
import redis

from schemas.errors import Permanent
from shared.registry import Bounds, NotFound, Registry
from shared.registry.artifacts import Artifacts

from .conftest import LOOP, World, manifest_of, tensors_of


def _everything(client: redis.Redis) -> dict[bytes, object]:
    """What Redis holds, except the counter and what the restore itself writes."""
    found: dict[bytes, object] = {}
    for key in client.scan_iter("*"):
        kind = client.type(key)
        if kind == b"string" and not key.endswith(b":counter"):
            found[key] = client.get(key)
        elif kind == b"zset":
            found[key] = client.zrange(key, 0, -1, withscores=True)
        elif kind == b"set":
            found[key] = client.smembers(key)
    return found


def test_an_emptied_redis_is_restored_as_it_was(world: World) -> None:
    for _ in range(3):
        world.champion()
    world.registry.rollback(LOOP, actor="op", reason="worse")
    world.registry.record(LOOP, "rejected", actor="gate", reason="no", version="v4")
    before, log, aliases = _everything(world.client), world.registry.log(LOOP), world.registry.aliases(LOOP)
    world.client.flushdb()
    [report] = world.registry.restore()
    assert (report.n_versions, report.n_blobs, report.n_entries, report.champion) == (3, 4, len(log), "v2")
    assert report.damaged == {}
    assert _everything(world.client) == before
    assert world.registry.log(LOOP)[:-1] == log
    assert world.registry.log(LOOP)[-1].action == "restored"
    now = world.registry.aliases(LOOP)
    assert (now.champion, now.previous, now.pinned) == (aliases.champion, aliases.previous, aliases.pinned)
    assert now.epoch == aliases.epoch + 1
    assert world.registry.next_version(LOOP) == "v4"


def test_an_old_copy_of_redis_is_brought_up_to_date(world: World) -> None:
    world.champion()
    world.registry.pin(LOOP, actor="op", reason="hold")
    old = {key: world.client.dump(key) for key in world.client.scan_iter("*")}
    world.registry.unpin(LOOP, actor="op", reason="go on")
    newest = world.champion()
    log, epoch = world.registry.log(LOOP), world.registry.aliases(LOOP).epoch
    world.client.flushdb()
    for key, value in old.items():
        world.client.restore(key, 0, value)

    [report] = world.registry.restore()
    assert (report.champion, report.epoch) == (newest.version, epoch + 1)
    assert world.registry.aliases(LOOP).pinned is None
    assert world.registry.log(LOOP)[:-1] == log
    assert sorted(world.registry.tensors(newest)) == sorted(newest.tensors)


def test_a_damaged_epoch_changes_nothing_and_is_restored(world: World) -> None:
    world.champion()
    epoch, key = world.registry.aliases(LOOP).epoch, f"{{ratchet:{LOOP}}}:aliases"
    world.client.hset(key, "epoch", "NaN")
    with pytest.raises(Permanent, match="the epoch is damaged"):
        world.registry.pin(LOOP, actor="op", reason="hold")
    world.registry.restore()
    assert world.registry.aliases(LOOP).epoch == epoch + 1
    assert world.registry.aliases(LOOP).champion == "v1"


def test_restoring_twice_or_a_whole_redis_changes_nothing(world: World) -> None:
    world.champion()
    world.client.flushdb()
    world.registry.restore(LOOP)
    log = world.registry.log(LOOP)
    [report] = world.registry.restore(LOOP)
    assert (report.n_blobs, report.n_entries, report.champion) == (0, 0, "v1")
    assert world.registry.log(LOOP) == log


def test_a_follower_misses_nothing_over_a_restore(world: World) -> None:
    world.champion()
    last = world.registry.last_entry_id(LOOP)
    world.client.flushdb()
    world.registry.restore()
    world.champion()
    assert [entry.action for entry in world.registry.follow(LOOP, last, block_ms=10)] == \
        ["restored", "published", "promoted"]


def test_an_emptied_loop_is_restored_before_it_is_changed(world: World) -> None:
    world.champion()
    world.client.flushdb()
    version = world.publish().version
    assert version == "v2"
    aliases = world.registry.promote(LOOP, version, actor="t", reason="better")
    assert (aliases.champion, aliases.previous, aliases.epoch) == ("v2", "v1", 3)


def test_one_loop_is_restored_without_touching_another(world: World) -> None:
    world.champion()
    world.publish(loop="other")
    world.client.flushdb()
    world.registry.restore("other")
    assert [manifest.version for manifest in world.registry.versions("other")] == ["v1"]
    assert world.registry.aliases(LOOP).champion is None


def test_entries_that_a_killed_process_did_not_write_down_are_written_by_the_next(world: World) -> None:
    world.champion()
    journal = world.artifacts / LOOP / "journal.jsonl"
    whole = journal.read_bytes()
    for cut in (whole.index(b"\n") + 1, whole.index(b"\n") + 30):
        journal.write_bytes(whole[:cut])
        world.registry.record(LOOP, "noted", actor="t", reason="alive")
        good, _ = Artifacts(world.artifacts).journal(LOOP)
        assert [line.entry["action"] for line in good][:3] == ["published", "promoted", "noted"]


@pytest.mark.parametrize("bit", [0, 77, 500, 1000])
def test_a_damaged_journal_line_costs_that_line_only(world: World, flip: Callable[[bytes, int], bytes],
                                                     bit: int) -> None:
    for _ in range(3):
        world.champion()
    journal = world.artifacts / LOOP / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([flip(lines[0], bit), *lines[1:]]))
    world.client.flushdb()
    [report] = world.registry.restore()
    assert list(report.damaged) == [f"{LOOP}/journal.jsonl"]
    assert (report.champion, report.n_entries) == ("v3", 5)


def test_a_damaged_artifact_is_reported_and_the_rest_restored(world: World) -> None:
    first = world.champion(seed=1)
    world.champion(seed=2)
    path = Artifacts(world.artifacts).blob_path(LOOP, first.tensors["head.weight"].sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    world.client.flushdb()
    [report] = world.registry.restore()
    assert list(report.damaged) == [f"{LOOP}/blobs/{first.tensors['head.weight'].sha256}"]
    assert report.champion == "v2"
    assert set(world.registry.tensors(world.registry.manifest(LOOP, "v2"))) == set(tensors_of(2))


def test_collecting_keeps_what_may_still_serve(world: World) -> None:
    for _ in range(6):
        world.champion()
    world.registry.heartbeat(LOOP, "slow", "v2", "d" * 64, 2)
    assert world.registry.collect(LOOP, keep=1) == 3
    for version in ("v2", "v5", "v6"):
        assert world.registry.tensors(world.registry.manifest(LOOP, version))
    assert len(list(world.artifacts.rglob("*.safetensors"))) == 4
    assert len(list(world.client.scan_iter("*:blob:*"))) == 4
    assert [manifest.version for manifest in world.registry.versions(LOOP)] == [f"v{n}" for n in range(6, 0, -1)]
    assert world.registry.collect(LOOP, keep=1) == 0


def test_a_version_without_weights_is_neither_promoted_nor_rolled_back_to(world: World) -> None:
    for _ in range(4):
        world.champion()
    world.registry.collect(LOOP, keep=1)
    with pytest.raises(NotFound, match="collected"):
        world.registry.promote(LOOP, "v1", actor="op", reason="old times")
    world.client.flushdb()
    world.registry.restore()
    with pytest.raises(NotFound, match="collected"):
        world.registry.pin(LOOP, "v2", actor="op", reason="old times")
    assert world.registry.rollback(LOOP, actor="op", reason="worse").champion == "v3"


def test_a_restore_from_an_empty_directory_restores_nothing(world: World) -> None:
    assert Registry.connect(world.redis_url, world.artifacts / "none").restore() == []


def test_redis_keeps_the_newest_manifests_and_log_entries_and_the_directory_all(world: World) -> None:
    for _ in range(8):
        world.champion()
    world.registry.pin(LOOP, "v2", actor="op", reason="the good one")
    journal = (world.artifacts / LOOP / "journal.jsonl")
    bounded = world.again(bounds=Bounds(n_manifests=3, n_entries=5))
    assert bounded.collect(LOOP, keep=2) == 5
    assert [found.version for found in bounded.versions(LOOP)] == ["v8", "v7", "v6", "v2"]
    assert [entry.action for entry in bounded.log(LOOP)] == ["published", "promoted", "published", "promoted", "pinned"]
    assert journal.read_bytes().count(b"\n") == 17
    kept = _everything(world.client)
    assert bounded.manifest(LOOP, "v3").version == "v3"
    with pytest.raises(NotFound, match="collected"):
        bounded.promote(LOOP, "v3", actor="op", reason="old times")
    with pytest.raises(NotFound, match="no version v9"):
        bounded.promote(LOOP, "v9", actor="op", reason="typo")
    world.client.flushdb()
    [report] = bounded.restore()
    assert (report.n_versions, report.n_entries, report.champion) == (4, 5, "v2")
    assert _everything(world.client) == kept
    assert bounded.manifest(LOOP, "v3").version == "v3"
    assert bounded.collect(LOOP, keep=2) == 0
    assert len(bounded.log(LOOP)) == 5
    assert journal.read_bytes().count(b"\n") == 18


def test_a_manifest_that_a_killed_publish_left_is_no_version_though_others_were_trimmed(world: World) -> None:
    for _ in range(4):
        world.champion()
    bounded = world.again(bounds=Bounds(n_manifests=1, n_entries=5))
    bounded.collect(LOOP, keep=1)
    version = bounded.next_version(LOOP)
    Artifacts(world.artifacts).put_manifest(manifest_of(version, tensors_of(9)))
    with pytest.raises(NotFound):
        bounded.manifest(LOOP, version)


@pytest.mark.parametrize("write", ["publish", "record", "pin"])
def test_a_redis_that_is_emptied_just_before_a_write_is_restored_first(world: World, write: str,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    world.champion()
    ensure, emptied = Registry.ensure, []

    def looked_then_emptied(registry: Registry, loop: str) -> None:
        ensure(registry, loop)
        if not emptied:
            emptied.append(world.client.flushdb())

    monkeypatch.setattr(Registry, "ensure", looked_then_emptied)
    if write == "publish":
        world.publish()
    elif write == "record":
        world.registry.record(LOOP, "noted", actor="t", reason="alive")
    else:
        world.registry.pin(LOOP, actor="op", reason="hold")
    assert world.registry.aliases(LOOP).champion == "v1"
    for manifest in world.registry.versions(LOOP):
        assert len(world.registry.tensors(manifest)) == 2
    assert [entry.action for entry in world.registry.log(LOOP)][:3] == ["published", "promoted", "restored"]


def test_the_directory_drops_the_oldest_manifests_but_never_one_that_may_serve(world: World) -> None:
    for _ in range(9):
        world.champion()
    world.registry.pin(LOOP, "v2", actor="op", reason="the good one")
    world.registry.assign(LOOP, "shadow", "v3", actor="op", reason="to compare")
    world.registry.heartbeat(LOOP, "replica", "v4", "d" * 64, 1)
    bounded = world.again(bounds=Bounds(n_manifests=2, n_archived=3))
    bounded.collect(LOOP, keep=2)
    kept = ["v2", "v3", "v4", "v7", "v8", "v9"]
    assert sorted(path.stem for path in (world.artifacts / LOOP / "manifests").glob("v*.json")) == kept
    assert (bounded.aliases(LOOP).champion, bounded.aliases(LOOP).previous) == ("v2", "v9")
    with pytest.raises(NotFound, match="no version v5"):
        bounded.manifest(LOOP, "v5")
    world.client.flushdb()
    [report] = bounded.restore()
    assert report.champion == "v2"
    for version in ("v2", "v3", "v8", "v9"):
        bounded.tensors(bounded.manifest(LOOP, version))
    assert bounded.rollback(LOOP, actor="op", reason="back").champion == "v9"
