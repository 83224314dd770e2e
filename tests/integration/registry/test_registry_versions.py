"""Publishing and reading versions: whole or not at all, checked at every read."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from schemas.manifest import Manifest
from shared.registry import Conflict, Corrupt, NotFound, blobs
from shared.registry.blobs import ref

from .conftest import LOOP, World, manifest_of, tensors_of

Flip = Callable[[bytes, int], bytes]


def test_a_published_version_reads_back_equal(world: World) -> None:
    manifest = world.publish(seed=1)
    assert world.again().manifest(LOOP, "v1") == manifest
    read = world.again().tensors(manifest)
    assert {name: array.tobytes() for name, array in read.items()} == \
        {name: array.tobytes() for name, array in tensors_of(1).items()}
    assert list(world.registry.tensors(manifest, ["head.weight"])) == ["head.weight"]


def test_a_tensor_larger_than_a_chunk_is_stored_in_chunks_of_one_mebibyte_at_most(world: World) -> None:
    tensors = {"head.weight": np.arange(700_000, dtype=np.float32)}
    manifest = manifest_of(world.registry.next_version(LOOP), tensors)
    world.registry.publish(manifest, tensors)
    lengths = [world.client.strlen(key) for key in world.client.scan_iter("*:blob:*")]
    assert len(lengths) == 3
    assert max(lengths) == 1 << 20
    np.testing.assert_array_equal(world.registry.tensors(manifest)["head.weight"], tensors["head.weight"])


def test_a_tensor_that_is_stored_already_is_not_sent_again(world: World) -> None:
    first, second = world.publish(seed=1), world.publish(seed=2)
    shared = first.tensors["projection.weight"].sha256
    assert second.tensors["projection.weight"].sha256 == shared
    assert len(list(world.client.scan_iter("*:blob:*"))) == 3
    assert len(list(world.artifacts.rglob("*.safetensors"))) == 3


def test_only_what_is_not_stored_is_packed_and_hashed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish(seed=1)
    packed: list[tuple[int, ...]] = []
    pack = blobs.pack
    manifest = manifest_of(world.registry.next_version(LOOP), tensors_of(2))
    monkeypatch.setattr(blobs, "pack", lambda array: (packed.append(array.shape), pack(array))[1])
    world.registry.publish(manifest, tensors_of(2))
    assert packed == [tensors_of(2)["head.weight"].shape]
    world.client.flushdb()
    world.registry.restore()
    np.testing.assert_array_equal(world.registry.tensors(manifest)["projection.weight"],
                                  tensors_of(2)["projection.weight"])


def test_publishing_twice_is_publishing_once(world: World) -> None:
    manifest = world.publish(seed=1)
    world.registry.publish(manifest, tensors_of(1))
    assert [entry.action for entry in world.registry.log(LOOP)] == ["published"]
    assert [found.version for found in world.registry.versions(LOOP)] == ["v1"]


def test_another_manifest_under_a_taken_name_is_refused(world: World) -> None:
    manifest = world.publish(seed=1)
    with pytest.raises(Conflict, match="another version v1"):
        world.registry.publish(msgspec.structs.replace(manifest, seed=99), tensors_of(1))
    assert world.registry.manifest(LOOP, "v1") == manifest


def test_tensors_that_are_not_those_of_the_manifest_are_refused(world: World) -> None:
    manifest = manifest_of("v1", tensors_of(1))
    with pytest.raises(Corrupt, match="tensor head"):
        world.registry.publish(manifest, tensors_of(2))
    with pytest.raises(Corrupt, match="names"):
        world.registry.publish(manifest, {"head.weight": tensors_of(1)["head.weight"]})
    assert world.registry.versions(LOOP) == []


def test_version_names_are_never_handed_out_twice_by_many_processes_at_once(world: World) -> None:
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: world.again().next_version(LOOP), range(40)))
    assert sorted(names, key=lambda name: int(name[1:])) == [f"v{n}" for n in range(1, 41)]


def test_an_unpublished_version_name_is_not_handed_out_again_after_redis_was_emptied(world: World) -> None:
    world.publish()
    world.registry.next_version(LOOP)
    world.client.flushdb()
    assert world.registry.next_version(LOOP) == "v3"


def test_an_unknown_version_is_not_found(world: World) -> None:
    world.publish()
    for name in ("v7", "latest", "v", "../v1", "v1 "):
        with pytest.raises(NotFound):
            world.registry.manifest(LOOP, name)
    with pytest.raises(NotFound, match="no-such"):
        world.registry.tensors(world.registry.manifest(LOOP, "v1"), ["no-such"])


@pytest.mark.parametrize("bit", [3, 400, 800, 3000])
def test_a_flipped_bit_in_redis_is_seen_and_the_durable_copy_is_used(world: World, flip: Flip, bit: int) -> None:
    manifest = world.publish(seed=1)
    for key in list(world.client.scan_iter("*:blob:*")):
        world.client.set(key, flip(world.client.get(key), bit))
    for name, array in world.registry.tensors(manifest).items():
        np.testing.assert_array_equal(array, tensors_of(1)[name])


@pytest.mark.parametrize("bit", [3, 400, 800, 3000])
def test_a_flipped_bit_in_both_copies_is_refused(world: World, flip: Flip, bit: int) -> None:
    manifest = world.publish(seed=1)
    for key in list(world.client.scan_iter("*:blob:*")):
        world.client.set(key, flip(world.client.get(key), bit))
    for path in world.artifacts.rglob("*.safetensors"):
        path.write_bytes(flip(path.read_bytes(), bit + 1))
    with pytest.raises(Corrupt, match="damaged"):
        world.registry.tensors(manifest)


def test_a_truncated_tensor_is_refused_and_so_is_a_missing_one(world: World) -> None:
    manifest = world.publish(seed=1)
    for key in list(world.client.scan_iter("*:blob:*")):
        world.client.set(key, world.client.get(key)[:-5])
    for path in world.artifacts.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(Corrupt):
        world.registry.tensors(manifest)
    for path in world.artifacts.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(Corrupt, match="not in the artifact directory"):
        world.registry.tensors(manifest)


def test_any_flipped_bit_of_a_manifest_is_seen(world: World, flip: Flip) -> None:
    manifest = world.publish(seed=1)
    key = next(iter(world.client.scan_iter("*:manifest:*")))
    stored = world.client.get(key)
    path = world.artifacts / LOOP / "manifests" / "v1.json"
    rng = np.random.default_rng(3)
    for bit in rng.integers(0, len(stored) * 8, size=60):
        world.client.set(key, flip(stored, int(bit)))
        assert world.registry.manifest(LOOP, "v1") == manifest  # the durable copy
    path.write_bytes(flip(stored, 800))
    with pytest.raises(Corrupt):
        world.registry.manifest(LOOP, "v1")


def test_a_blob_with_a_right_digest_but_another_shape_is_refused(world: World) -> None:
    tensors = tensors_of(1)
    manifest = world.publish(seed=1)
    lying = msgspec.structs.replace(ref(tensors["head.weight"]), shape=(3, 16))
    liar = msgspec.structs.replace(manifest, tensors={**manifest.tensors, "head.weight": lying})
    with pytest.raises(Corrupt, match="as its manifest says"):
        world.registry.tensors(liar)


_PUBLISHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import numpy as np
import msgspec
from schemas.manifest import Manifest
from shared.registry import Registry
registry = Registry.connect(sys.argv[1], Path(sys.argv[2]))
manifest = msgspec.json.decode(sys.stdin.buffer.readline(), type=Manifest)
from shared.registry.blobs import ref
print("ready", flush=True)
for seed in range(10_000):
    tensors = {"head.weight": np.random.default_rng(seed).normal(size=(700, 700)).astype(np.float32)}
    version = registry.next_version(manifest.loop)
    registry.publish(msgspec.structs.replace(manifest, version=version,
                     tensors={"head.weight": ref(tensors["head.weight"])}), tensors)
"""


@pytest.mark.parametrize("delay_s", [0.01, 0.035, 0.06, 0.085])
def test_a_kill_in_the_middle_of_a_publish_leaves_no_half_version(world: World, delay_s: float) -> None:
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", _PUBLISHER, world.redis_url, str(world.artifacts), str(root)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as stdin, process.stdout as stdout:
        stdin.write(msgspec.json.encode(manifest_of("v1", tensors_of(1))) + b"\n")
        stdin.flush()
        assert stdout.readline() == b"ready\n"
        killed = threading.Timer(delay_s, os.kill, (process.pid, signal.SIGKILL))
        killed.start()
        assert process.wait(timeout=60) == -signal.SIGKILL
    _assert_whole(world, world.registry.versions(LOOP, limit=-1))
    world.client.flushdb()
    world.registry.restore()
    _assert_whole(world, world.registry.versions(LOOP, limit=-1))
    assert world.champion().version not in ("", None)


def _assert_whole(world: World, manifests: list[Manifest]) -> None:
    for manifest in manifests:
        assert world.registry.tensors(manifest)["head.weight"].shape == (700, 700)
