"""The trainer as its own process: settings, health, metrics, an orderly end."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.integration.trainer.conftest import LOOP, Bench
from tests.support import tiny_bert
from tests.support.services import ROOT, ServiceProcess

Until = Callable[..., None]


def declare(directory: Path, base: str) -> Path:
    directory.mkdir()
    (directory / "tiny.toml").write_text(
        tiny_bert.loop_file(LOOP, base) + '[training]\nmethod = "analytic"\nprojection = 128\n')
    return directory


def test_it_learns_shows_its_metrics_and_ends_in_order(bench: Bench, start: Callable[..., ServiceProcess],
                                                       until: Until, tmp_path: Path) -> None:
    env = {"RATCHET_POSTGRES_URL": bench.postgres_url, "RATCHET_REDIS_URL": bench.redis_url, "RATCHET_DEVICE": "cpu",
           "RATCHET_ARTIFACTS_DIR": str(bench.artifacts),
           "RATCHET_LOOPS_DIR": str(declare(tmp_path / "loops", bench.base.base.id))}
    trainer = start("trainer", env)
    bench.put(*tiny_bert.corpus(40))
    until(lambda: bench.registry.aliases(LOOP).champion)
    metrics = trainer.get("/metrics")[1].decode()
    assert f'ratchet_trainer_gate_verdicts_total{{loop="{LOOP}",rule="first",verdict="accepted"}} 1.0' in metrics
    assert f'ratchet_trainer_promotions_total{{loop="{LOOP}"}} 1.0' in metrics
    assert trainer.get("/health/live")[0] == 200
    trainer.stop()
    assert '"event":"stopped"' in trainer.log
    assert list((bench.artifacts / LOOP / "trainer").glob("learner-*.safetensors"))


def test_a_taken_port_ends_it_with_one_line_that_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "RATCHET_ARTIFACTS_DIR": str(tmp_path),
               "RATCHET_POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/none",
               "RATCHET_LOOPS_DIR": str(declare(tmp_path / "loops", "minilm")),
               "RATCHET_TRAINER_PORT": str(taken.getsockname()[1])}
        done = subprocess.run([sys.executable, "-m", "services.trainer.main"], env=env, capture_output=True, text=True,
                              timeout=60, check=False)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    port = env["RATCHET_TRAINER_PORT"]
    assert told == [f"ratchet trainer: cannot listen on 127.0.0.1:{port}: Address already in use; choose another port "
                    "by RATCHET_TRAINER_PORT"]


def test_wrong_settings_end_it_with_one_line_and_status_2(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RATCHET_DEVICE": "abacus", "RATCHET_ARTIFACTS_DIR": str(tmp_path),
           "RATCHET_POSTGRES_URL": ""}
    done = subprocess.run([sys.executable, "-m", "services.trainer.main"], env=env, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "RATCHET_DEVICE" in done.stderr
    assert "RATCHET_POSTGRES_URL" in done.stderr
