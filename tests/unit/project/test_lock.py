"""requirements.lock: in step with pyproject.toml, with versions and hashes, and with no download address."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS: dict[str, list[Version]] = {}
for _name, _version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", LOCK, re.MULTILINE):
    PINS.setdefault(canonicalize_name(_name), []).append(Version(_version))

DIRECT = sorted({text for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
                 for text in texts if canonicalize_name(Requirement(text).name) != PROJECT["name"]})


@pytest.mark.parametrize("text", DIRECT)
def test_every_requirement_of_pyproject_is_met_by_the_lock(text: str) -> None:
    requirement = Requirement(text)
    pinned = PINS.get(canonicalize_name(requirement.name), [])
    assert any(requirement.specifier.contains(version, prereleases=True) for version in pinned), (
        f"{text} is not met by requirements.lock, which has {pinned or 'no such package'}: run `make lock`")


def test_the_lock_names_no_package_whose_reason_is_gone() -> None:
    # uv notes for each package what asked for it; one that pyproject.toml alone asked for has only that note.
    wanted = {canonicalize_name(Requirement(text).name) for text in DIRECT}
    for block in re.split(r"\n(?=[a-z0-9])", LOCK):
        name = canonicalize_name(block.split("==")[0])
        reasons = set(re.findall(r"^\s+# {1,5}(?:via )?([a-z0-9._-]+(?: \(pyproject\.toml\))?)$", block, re.MULTILINE))
        ours = {reason for reason in reasons if reason.startswith(PROJECT["name"])}
        assert name in wanted or reasons - ours, f"{name} is in requirements.lock, but nothing needs it: `make lock`"


def test_every_package_has_hashes() -> None:
    for block in re.split(r"\n(?=[a-z0-9])", LOCK.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_no_address_stands_in_the_lock() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
