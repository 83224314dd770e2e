"""What every benchmark shares: rounds in turn, figures with their spread, bars, peers' environments, the report.

A benchmark is a module ``benchmarks/NAME.py`` with a docstring, whose first line says what it measures, and::

    def arguments(parser: argparse.ArgumentParser) -> None: ...   # optional: its own options
    def run(options: argparse.Namespace, bench: Bench) -> None: ...

``ratchet bench NAME`` runs it.
"""

from benchmarks.harness.bench import Bench
from benchmarks.harness.peers import PeerUnavailable
from benchmarks.harness.results import Bar, Figure, Machine, Result

__all__ = ["Bar", "Bench", "Figure", "Machine", "PeerUnavailable", "Result"]
