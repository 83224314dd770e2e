"""The documents agree with the code: every key, every link, every named test, every make target."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from schemas import loops
from services.demo.main import _PROJECT

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TABLES = {"The loop": loops.Loop, "`[input]`": loops.Input, "`[feedback.NAME]`": loops.Feedback,
          "`[features.NAME]`": loops.Feature, "`[training]`": loops.Training, "`[gate]`": loops.Gate,
          "`[rollout]`": loops.Rollout}
NESTED = {"input", "feedback", "features", "training", "gate", "rollout"}


def rows(section: str) -> dict[str, str]:
    """The keys of a section of docs/loops.md with their default as written."""
    text = (ROOT / "docs" / "loops.md").read_text(encoding="utf-8")
    part = text.split(f"## {section}\n")[1].split("\n## ")[0]
    return {key: default.strip() for key, default in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", part, re.MULTILINE)}


@pytest.mark.parametrize("section", sorted(TABLES))
def test_every_key_of_a_loop_file_is_described_with_its_default(section: str) -> None:
    kind = TABLES[section]
    fields = {f.name: f for f in dataclasses.fields(kind) if not (kind is loops.Loop and f.name in NESTED)}
    found = rows(section)
    assert found.keys() == fields.keys()
    for name, shown in found.items():
        if fields[name].default is dataclasses.MISSING:
            assert shown == "required", name
        elif fields[name].default is None:
            assert shown == "none", name
        else:
            value = tomllib.loads(f"x = {shown.strip('`')}")["x"]
            assert _plain(value, fields[name].default) == fields[name].default, name


def _plain(value: object, like: object) -> object:
    """A TOML value as the dataclass would hold it."""
    if isinstance(like, loops.Seconds):
        return loops.Seconds.parse(str(value))
    if isinstance(like, tuple) and isinstance(value, list):
        return tuple(_plain(item, like[0] if like else None) for item in value)
    return value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_in_code_type_exists(page: Path) -> None:
    for name in re.findall(r"`((?:tests|services|shared|schemas|examples|docs|compose)/[^`\s*]*)`",
                           page.read_text(encoding="utf-8")):
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), f"{page.name} names {path}"
        if test:
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{page.name} names {name}"


def test_every_promise_names_a_test() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    promises = re.findall(r"^### .+$", text, re.MULTILINE)
    assert len(promises) >= 6
    for promise in promises:
        body = text.split(promise)[1].split("\n### ")[0].split("\n## ")[0]
        assert re.search(r"`tests/[^`]+::test_\w+`", body), f"no test is named under {promise!r}"


def test_every_decision_says_what_enforces_it() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    assert len(pages) >= 6
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    for page in pages:
        assert "**Enforced by**" in page.read_text(encoding="utf-8"), page.name
        assert page.name in index


def test_the_demo_finds_the_project_it_lies_in() -> None:
    assert _PROJECT == ROOT
    assert (ROOT / "examples" / "demo" / "support-intents.toml").is_file()
