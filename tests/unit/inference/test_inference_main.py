"""What inference refuses to start with."""

import socket
from pathlib import Path

import pytest

from services.inference import main
from tests.support.services import ROOT


def test_a_taken_port_is_one_line_that_names_its_variable_before_anything_else_starts(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for built in ("FrameProducer", "Follower"):
        monkeypatch.setattr(main, built, None)  # a call of it would fail
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        for name, value in {"RATCHET_PSEUDONYM_KEY": "k" * 16, "RATCHET_INFER_KEYS": "app:key",
                            "RATCHET_ARTIFACTS_DIR": str(tmp_path), "RATCHET_INFERENCE_PORT": str(port),
                            "RATCHET_LOOPS_DIR": str(ROOT / "examples" / "loops")}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main.run()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ratchet inference: cannot listen on 127.0.0.1:{port}: ")
    assert "RATCHET_INFERENCE_PORT" in line
