"""Starts, watches and stops the fine-tune's process."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Literal

from services.trainer.job import Folder
from shared.logs import Log

_log = Log("ratchet.trainer")

State = Literal["idle", "running", "done", "failed"]
# A process that ends without a result is started again this many times; it goes on where it was.
_TRIES = 3


class FineTune:
    """At most one fine-tune of one loop. The folder is the truth: a trainer that starts anew goes on with its job.

    Attributes:
        folder: The job's files.
    """

    def __init__(self, folder: Folder, *, n_processes: int, environ: Mapping[str, str],
                 start: Callable[..., "subprocess.Popen[bytes]"] = subprocess.Popen) -> None:
        self.folder = folder
        self._n_processes, self._environ, self._start = n_processes, dict(environ), start
        self._process: subprocess.Popen[bytes] | None = None
        self._tries = 0

    def poll(self) -> State:
        """Look at the job, and start its process when it has none; never waits."""
        if self.folder.job() is None:
            return "idle"
        if self.folder.result() is not None:
            self.stop()
            return "done"
        if self._process is not None and self._process.poll() is None:
            return "running"
        if self._process is not None:
            _log.warning("fine_tune_ended_early", status=self._process.returncode, tries=self._tries)
            self.stop()
        if self._tries >= _TRIES:
            return "failed"
        self._tries += 1
        self._process = self._start(self._command(), stdin=subprocess.PIPE, env=self._environ)
        return "running"

    def end(self) -> None:
        """Stop the process and delete the job."""
        self.stop()
        self.folder.clear()
        self._tries = 0

    def stop(self) -> None:
        """Stop the process; the job stays and can be gone on with."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _command(self) -> list[str]:
        module = ["-m", "services.trainer.child", os.fspath(self.folder.path)]
        if self._n_processes <= 1:
            return [sys.executable, *module]
        return [sys.executable, "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={self._n_processes}", *module]
