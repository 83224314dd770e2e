"""The other servers of the inference benchmark: each in its own environment, with our model and its own batching."""

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import Bench, PeerUnavailable
from benchmarks.inference_load import Endpoint
from shared.ports import HOST, free_port

HERE = Path(__file__).resolve().parent / "peers"
_START_S = 120.0


def _infer(shape: list[int]) -> Callable[[str], object]:
    return lambda text: {"inputs": [{"name": "text", "shape": shape, "datatype": "BYTES", "data": [text]}]}


_ASKED: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "mlserver": ("/v2/models/support/infer", _infer([1])),
    "litserve": ("/predict", lambda text: {"text": text}),
    "kserve": ("/v1/models/support:predict", lambda text: {"instances": [text]}),
    "bentoml": ("/predict", lambda text: {"texts": [text]}),
    "ray": ("/", lambda text: {"text": text}),
    "triton": ("/v2/models/support/infer", _infer([1, 1])),
}
NAMES = tuple(_ASKED)
PYTHON = tuple(name for name in NAMES if name != "triton")


@dataclass(frozen=True)
class Running:
    """A server, halted while another is measured: some use the processor even when nobody asks."""

    name: str
    endpoint: Endpoint
    pid: int

    def go_on(self) -> None:
        """Let it run."""
        self._tell(signal.SIGCONT)

    def halt(self) -> None:
        """Stop its clock."""
        self._tell(signal.SIGSTOP)

    def end(self) -> None:
        """End it with all its processes."""
        self.go_on()
        family = self._family()
        if family:
            family[0].terminate()
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:
            process.kill()

    def _family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _tell(self, number: signal.Signals) -> None:
        for process in self._family():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue


def start(bench: Bench, name: str, *, model: Path, folder: Path, workers: int, batch: int, wait_s: float) -> Running:
    """Start a peer and wait for its first good answer.

    Raises:
        PeerUnavailable: It cannot be installed, or does not answer.
    """
    python = bench.peer(name)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"BENCH_MODEL": str(model), "BENCH_THREADS": "1", "BENCH_WORKERS": str(workers),
                    "BENCH_BATCH": str(batch), "BENCH_WAIT_S": str(wait_s), "BENCH_PORT": str(port),
                    "BENCH_PORT_2": str(free_port()), "BENCH_PORT_3": str(free_port()), "OMP_NUM_THREADS": "1",
                    "HF_HUB_OFFLINE": "1", "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    path, body = _ASKED[name]
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen([str(python), str(HERE / name / "server.py")], env=environment, cwd=HERE / name,
                                   stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    peer = Running(name, Endpoint(port, path, body), process.pid)
    deadline_s = time.monotonic() + _START_S
    while not _answers(peer.endpoint):
        if process.poll() is not None or time.monotonic() > deadline_s:
            peer.end()
            tail = log.read_text(errors="replace").strip().splitlines()[-4:]
            raise PeerUnavailable(f"{name}: does not start here: {' | '.join(tail)[-400:]}")
        time.sleep(0.25)
    return peer


def _answers(endpoint: Endpoint) -> bool:
    connection = http.client.HTTPConnection(HOST, endpoint.port, timeout=10)
    try:
        _, _, body = endpoint.request("hello").partition(b"\r\n\r\n")
        connection.request("POST", endpoint.path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
