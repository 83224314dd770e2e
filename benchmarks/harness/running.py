"""Finds benchmarks and runs them by name."""

import argparse
import ast
import importlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import page
from benchmarks.harness.bench import Bench
from benchmarks.harness.results import Result

FOLDER = Path(__file__).resolve().parents[1]
ROOT = FOLDER.parent


def summaries() -> dict[str, str]:
    """Return the benchmarks' names, with what each measures; imports none of them."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def run(name: str, arguments: Sequence[str]) -> Result:
    """Run a benchmark with its command line, and write what it found.

    Raises:
        KeyError: There is none of that name.
    """
    summary = summaries()[name]
    module = importlib.import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(f"ratchet bench {name}", description=module.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=getattr(module, "ROUNDS", 3), metavar="N",
                        help="how often each contestant runs (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help="write the plots and the section of docs/benchmarks.md")
    parser.add_argument("--json", type=Path, metavar="FILE", default=ROOT / "reports" / "bench" / f"{name}.json",
                        help="where the result goes (default: reports/bench/NAME.json)")
    if hasattr(module, "arguments"):
        module.arguments(parser)
    options = parser.parse_args(arguments)
    bench = Bench(name, summary, arguments=[part for part in arguments if part != "--docs"], rounds=options.rounds,
                  plots=ROOT / "docs" / "benchmarks" if options.docs else None)
    module.run(options, bench)
    result = bench.finish(options.json)
    if options.docs:
        page.update(ROOT / "docs" / "benchmarks.md", result)
    return result
