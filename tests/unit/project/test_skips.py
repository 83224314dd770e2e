"""In CI a test is not skipped because what it needs could not be installed."""

import pytest

from tests.support.absent import skip_absent, skip_broken


@pytest.mark.parametrize("ci", ["true", "1"])
def test_in_ci_a_failed_installation_is_a_failure(ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.fail.Exception, match="npm cannot install"):
        skip_broken("npm cannot install")
    with pytest.raises(pytest.skip.Exception):
        skip_absent("no npm")


def test_elsewhere_it_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        skip_broken("npm cannot install")
