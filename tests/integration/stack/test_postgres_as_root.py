"""Postgres below folders that only root may pass through, as in a clone under /root."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from schemas.errors import Permanent
from services.stack import passage, postgres
from services.stack.process import Child
from services.stack.redis import new_password
from shared.ports import free_port
from tests.support.servers import data_dir
from tests.support.services import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has this trouble")


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that nobody but root may pass through."""
    with data_dir() as folder:
        folder.chmod(0o700)
        yield folder


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files."""
    with data_dir() as folder:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        yield folder


def test_it_runs_and_no_permission_of_a_folder_above_is_changed(closed: Path, temporary: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    tree = postgres.binaries().parent
    package = tree.parent
    shutil.copytree(tree, closed / package.name / tree.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(package.with_name(package.name + ".libs"), closed / (package.name + ".libs"))
    monkeypatch.setattr(postgres, "binaries", lambda: closed / package.name / tree.name / "bin")
    (closed / "data").mkdir()
    server = postgres.Postgres(closed / "data" / "postgres", free_port(), new_password(), closed / "postgres.log")
    for _ in range(2):  # the second time finds its data
        server.prepare(print)
        child = Child(server.command())
        try:
            eventually(lambda: server.fault() is None)
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
                connection.execute("INSERT INTO kept VALUES (1)")
                connection.execute("VACUUM")
                found = connection.execute("SELECT count(*) FROM kept").fetchone()
        finally:
            child.stop()
    assert found == (2,)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_copy_of_the_programs_is_mended_but_not_used_when_somebody_else_made_it(
        closed: Path, temporary: Path) -> None:
    (closed / "pg" / "bin").mkdir(parents=True)
    (closed / "pg" / "bin" / "postgres").write_text("#!/bin/sh\n")
    copy = passage.programs(closed / "pg", ["bin"], "pg")
    assert copy.parent == temporary
    assert passage.programs(closed / "pg", ["bin"], "pg") == copy
    (copy / "bin" / "postgres").unlink()
    assert (passage.programs(closed / "pg", ["bin"], "pg") / "bin" / "postgres").is_file()
    os.chown(copy, 65534, 65534)
    with pytest.raises(Permanent, match="was not made by Ratchet"):
        passage.programs(closed / "pg", ["bin"], "pg")


def test_where_there_is_no_such_way_the_folder_to_name_is_named(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "OWN_FOLDER", Path("/nonexistent"))
    with pytest.raises(Permanent, match="--data-dir or RATCHET_DATA_DIR"):
        passage.own_name(closed / "data")
