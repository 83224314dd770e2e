"""A tiny encoder from a local directory, loaded once."""

from pathlib import Path

import pytest

from shared.models.encoder import Encoder
from tests.support import tiny_bert


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.make(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="session")
def tiny(tiny_directory: Path) -> Encoder:
    return Encoder.load(str(tiny_directory), device="cpu")
