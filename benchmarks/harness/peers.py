"""Environments of the peers: each its own, pinned by hashes, made when first needed. None is a dependency of ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
CACHE = ROOT / ".cache" / "peers"


class PeerUnavailable(Exception):
    """A peer cannot run here; the message says which, why, and what would change that."""


def python_of(name: str, *, timeout_s: float = 900) -> Path:
    """Return the Python of a peer's environment, and install it if it is not there or its pins have changed.

    Reads ``benchmarks/peers/NAME/requirements.txt`` (versions and hashes) and writes ``.cache/peers/NAME``.

    Raises:
        PeerUnavailable: It cannot be installed here.
    """
    pins = PEERS / name / "requirements.txt"
    folder = CACHE / name
    python, stamp = folder / "bin" / "python", folder / "installed-requirements.txt"
    if stamp.exists() and stamp.read_bytes() == pins.read_bytes():
        return python
    print(f"installing {name} into {folder.relative_to(ROOT)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    environment = {**os.environ, "VIRTUAL_ENV": str(folder), "UV_PYTHON_DOWNLOADS": "never"}
    for command in ([_uv(), "venv", "--quiet", "--python", sys.executable, str(folder)],
                    [_uv(), "pip", "sync", "--quiet", "--require-hashes", str(pins)]):
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s,
                                  check=False)
        except subprocess.TimeoutExpired as exc:
            raise PeerUnavailable(f"{name}: not installed after {timeout_s:g} s") from exc
        if done.returncode:
            raise PeerUnavailable(f"{name}: cannot be installed here: {(done.stderr.strip() or '?')[-300:]}")
    stamp.write_bytes(pins.read_bytes())
    return python


def _uv() -> str:
    found = shutil.which("uv") or str(ROOT / ".venv-uv" / "bin" / "uv")
    if not Path(found).exists():
        raise PeerUnavailable("peers are installed by uv, which is not here: run `make setup`")
    return found
