"""Every command in the README, run in the order in which it stands there."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docs.conftest import Terminal
from tests.support.services import eventually

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and how it is tested, as the comment before it says."""

    language: str
    text: str
    how: str


def blocks() -> list[Block]:
    found = re.findall(r"(?:<!-- test: ([^>]*?) -->\n)?```(\w*)\n(.*?)```", README, re.DOTALL)
    return [Block(language, text, how) for how, language, text in found]


def test_every_block_says_how_it_is_tested() -> None:
    for block in blocks():
        assert block.how.split(" ")[0] in ("Makefile", "stack"), f"no test runs:\n{block.text}"
    assert {block.language for block in blocks()} == {"bash", "python", "javascript", "toml"}


@pytest.mark.parametrize("block", [b for b in blocks() if b.how == "Makefile"], ids=lambda b: b.text.strip())
def test_make_commands_have_their_target_and_would_run(block: Block) -> None:
    """They are run for real by CI and by the end-to-end tests; here make only says what it would do."""
    done = subprocess.run(["make", "--dry-run", *block.text.split()[1:]], cwd=ROOT, capture_output=True, text=True,
                          timeout=30, check=False)
    assert block.text.startswith("make ")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.timeout(420)
def test_the_commands_of_the_readme_do_what_it_says(terminal: Terminal, node_modules: Path) -> None:
    (terminal.folder / "node_modules").symlink_to(node_modules)
    learned: list[int] = []
    for block in [b for b in blocks() if b.how.startswith("stack")]:
        if block.language == "toml":
            (terminal.folder / block.how.split(" ")[1]).write_text(block.text)
            continue
        if "two versions" in block.how:
            eventually(lambda: _loop(terminal)["previous"])
        printed = terminal.run(_command(terminal, block), timeout_s=180)
        for shown in _promised(block):
            assert re.search(shown, printed), f"the README shows {shown}, this was printed:\n{printed}"
        if "prediction_id" in block.text and "Ticket Resolved" in block.text:
            learned.append(eventually(lambda: _learned(terminal, more_than=learned[-1] if learned else 0)))
        if "rollback" in block.text:
            assert _loop(terminal)["pinned"] is None
        if "ratchet versions" in block.text:
            assert "v1" in printed
    assert len(learned) == 4
    assert not terminal.status()["services"]


def _promised(block: Block) -> list[str]:
    """What a block says that it prints, as patterns: its comments that are JSON, in which … stands for anything."""
    shown = re.findall(r"^# (\{.+)$", block.text, re.MULTILINE)
    return [".+".join(re.escape(part) for part in line.split("…")) for line in shown]


def _command(terminal: Terminal, block: Block) -> str:
    """How a block is typed into the terminal: bash as it is, a program as a file that is run."""
    if block.language == "bash":
        return block.text
    suffix, program = {"python": ("py", "python"), "javascript": ("mjs", "node")}[block.language]
    file = terminal.folder / f"app.{suffix}"
    file.write_text(terminal.located(block.text).removeprefix("set -a\n"))
    return f"{program} {file.name}"


def _loop(terminal: Terminal) -> dict[str, Any]:
    loop: dict[str, Any] = terminal.status()["loops"]["support-intents"]
    return loop


def _learned(terminal: Terminal, *, more_than: int) -> int:
    """The serving version's newest example, once it is beyond what was learned before; else 0."""
    url = "http://127.0.0.1:8081/v1/loops/support-intents"
    told = json.loads(terminal.run(f'curl -sS {url} -H "Authorization: Bearer $INFER_KEY"'))
    newest: int = max((last for _, last in told["examples"]), default=0)
    return newest if newest > more_than else 0
