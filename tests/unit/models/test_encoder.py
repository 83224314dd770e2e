"""The encoder: a base from a directory or the package, digests, batching, adapters."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import Permanent
from shared.models import weights
from shared.models.encoder import Encoder, choose_device
from tests.support import tiny_bert

TEXTS = ["card", "my card is blocked", "", "please help me with my loan " * 6, "unknownword ✓ 漢字", "cash cash cash"]


def adapter_for(encoder: Encoder, *, seed: int = 0, module: str = "encoder.layer.0.attention.self.query"
                ) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    name = f"adapter.base_model.model.{module}"
    return {"adapter.scale": np.array([2.0], np.float32),
            f"{name}.lora_A.weight": rng.standard_normal((4, encoder.dim)).astype(np.float32),
            f"{name}.lora_B.weight": rng.standard_normal((encoder.dim, 4)).astype(np.float32)}


def test_embeddings_have_unit_length_and_the_encoders_dimension(tiny: Encoder) -> None:
    vectors = tiny.encode(TEXTS, max_tokens=32)
    assert vectors.shape == (len(TEXTS), tiny.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_batching_and_order_change_no_answer(tiny: Encoder) -> None:
    texts, _ = tiny_bert.corpus(70)
    together = tiny.encode(texts, max_tokens=32)
    np.testing.assert_allclose(np.concatenate([tiny.encode([t], max_tokens=32) for t in texts]), together, atol=1e-5)
    np.testing.assert_allclose(tiny.encode(texts[::-1], max_tokens=32)[::-1], together, atol=1e-5)


def test_no_texts_give_no_rows(tiny: Encoder) -> None:
    assert tiny.encode([], max_tokens=32).shape == (0, tiny.dim)


def test_encoding_is_pure(tiny: Encoder) -> None:
    before = tiny.encode(TEXTS, max_tokens=32)
    tiny.trainable()
    tiny.adapted(adapter_for(tiny)).encode(TEXTS, max_tokens=32)
    np.testing.assert_array_equal(tiny.encode(TEXTS, max_tokens=32), before)


def test_a_long_text_is_cut_at_max_tokens(tiny: Encoder) -> None:
    rows = tiny.tokenize(["card " * 100, "card"], max_tokens=16)
    assert [len(row) for row in rows] == [16, 3]


def test_threads_may_share_one_encoder(tiny: Encoder) -> None:
    texts, _ = tiny_bert.corpus(40)
    expected = tiny.encode(texts, max_tokens=32)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(tiny.encode(texts, max_tokens=32))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_the_digest_follows_the_weights_and_the_tokenizer(tiny: Encoder, tiny_directory: Path, tmp_path: Path) -> None:
    same = Encoder.load(str(shutil.copytree(tiny_directory, tmp_path / "same")), device="cpu")
    assert (same.digest, same.tokenizer_digest) == (tiny.digest, tiny.tokenizer_digest)
    other = Encoder.load(str(tiny_bert.make(tmp_path / "other", seed=1)), device="cpu")
    assert other.digest != tiny.digest
    assert other.tokenizer_digest == tiny.tokenizer_digest
    changed = shutil.copytree(tiny_directory, tmp_path / "changed")
    vocabulary = (changed / "vocab.txt").read_text()
    (changed / "vocab.txt").write_text(vocabulary.replace("card", "cart"))
    assert weights.find(str(changed)).tokenizer_sha256 != tiny.tokenizer_digest


def test_an_adapter_changes_the_answers_and_shares_unchanged_weights(tiny: Encoder) -> None:
    adapted = tiny.adapted(adapter_for(tiny))
    assert adapted.digest != tiny.digest
    assert adapted.base == tiny.base
    assert not adapted.is_base
    assert np.abs(adapted.encode(TEXTS, max_tokens=32) - tiny.encode(TEXTS, max_tokens=32)).max() > 1e-3
    shared = [a.data_ptr() == b.data_ptr() for a, b in zip(tiny._model.parameters(), adapted._model.parameters(),
                                                           strict=True)]
    assert shared.count(False) == 1


def test_an_adapter_merges_to_what_peft_computes(tiny: Encoder) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.utils import set_peft_model_state_dict

    from shared.models.encoder import pooled

    adapter = adapter_for(tiny)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["encoder.layer.0.attention.self.query"])
    reference = get_peft_model(tiny.trainable(), config).eval()
    set_peft_model_state_dict(reference, {name.removeprefix("adapter."): torch.from_numpy(array)
                                          for name, array in adapter.items() if name != "adapter.scale"})
    rows = tiny.tokenize(TEXTS, max_tokens=32)
    with torch.inference_mode():
        expected = pooled(reference, *tiny.pad(rows)).numpy()
    np.testing.assert_allclose(tiny.adapted(adapter).encode(TEXTS, max_tokens=32), expected, atol=1e-5)


@pytest.mark.parametrize("broken", ["module", "shape", "pair", "empty"])
def test_an_adapter_that_does_not_fit_is_refused(tiny: Encoder, broken: str) -> None:
    adapter = adapter_for(tiny, module="encoder.layer.9.nothing" if broken == "module"
                          else "encoder.layer.0.attention.self.query")
    b_name = next(name for name in adapter if "lora_B" in name)
    if broken == "shape":
        adapter[b_name] = adapter[b_name][:-1]
    if broken == "pair":
        del adapter[b_name]
    if broken == "empty":
        adapter = {"adapter.scale": adapter["adapter.scale"]}
    with pytest.raises(Permanent, match="adapter"):
        tiny.adapted(adapter)


def test_a_full_fine_tunes_tensors_replace_the_bases(tiny: Encoder) -> None:
    name = "encoder.layer.0.attention.self.query.weight"
    weight = np.zeros((tiny.dim, tiny.dim), np.float32)
    adapted = tiny.adapted({f"encoder.{name}": weight})
    assert not adapted._model.get_parameter(name).any()
    on_top = tiny.adapted({f"encoder.{name}": weight, **adapter_for(tiny)})
    lora = adapter_for(tiny)
    b, a = (next(v for k, v in lora.items() if part in k) for part in ("lora_B", "lora_A"))
    np.testing.assert_allclose(on_top._model.get_parameter(name).numpy(), 2.0 * b @ a, rtol=1e-5, atol=1e-5)


def test_a_directory_without_weights_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Permanent, match=r"lacks \*.safetensors, a tokenizer"):
        Encoder.load(str(tmp_path))


def test_a_pickled_model_is_never_read(tiny_directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_directory, tmp_path / "pickled")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(Permanent, match="safetensors"):
        Encoder.load(str(copy))


def test_a_truncated_weight_file_is_refused(tiny_directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_directory, tmp_path / "cut")
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:len(data) // 2])
    with pytest.raises(Permanent, match="cannot be loaded"):
        Encoder.load(str(copy))


def test_a_name_that_is_no_base_is_refused() -> None:
    with pytest.raises(Permanent, match="neither 'minilm', nor a directory, nor a Hugging Face id"):
        Encoder.load("no such/thing/here")


def test_a_device_that_is_not_here_is_refused() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(Permanent, match="RATCHET_DEVICE"):
        choose_device("tpu")


def test_a_hugging_face_id_loads_from_the_local_cache_without_a_network(tiny_directory: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_directory, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    script = ("from shared.models import weights; from schemas.errors import Transient\n"
              "found = weights.find('someone/tiny'); print(found.sha256)\n"
              "try: weights.find('someone/else')\n"
              "except Transient as exc: print('transient')\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True,
                          env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"})
    assert done.stdout.split() == [weights.find(str(tiny_directory)).sha256, "transient"]


def test_the_packaged_encoder_knows_which_texts_are_alike() -> None:
    encoder = Encoder.load("minilm", device="cpu")
    assert encoder.dim == 384
    a, b, c = encoder.encode(["my card has not arrived", "where is the card I ordered?", "what a lovely sunset"],
                             max_tokens=64)
    assert a @ b > 0.6 > a @ c + 0.3
