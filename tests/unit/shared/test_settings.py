"""Settings: read from the environment, wrong ones named all at once, secrets never shown."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.settings import InvalidSetting, Keys, group, port, read, setting, shown


@dataclass(frozen=True)
class Example:
    url: str = setting("R_URL", doc="Where to go.")
    tcp_port: int = setting("R_PORT", 8080, "TCP port.", check=port)
    keys: Keys = setting("R_KEYS", Keys(), "name:key pairs.", secret=True)
    folder: Path | None = setting("R_DIR", None, "None: nowhere.")
    fields: tuple[str, ...] = setting("R_FIELDS", ("a",), "Comma separated.")
    on: bool = setting("R_ON", False, "Switch.")


def test_settings_are_read_from_the_environment_by_type():
    environ = {"R_URL": "u", "R_PORT": "1", "R_KEYS": "a:x,b:y", "R_DIR": "/d", "R_FIELDS": "p, q", "R_ON": "yes"}

    got = read(Example, environ)

    assert got == Example("u", 1, Keys(a="x", b="y"), Path("/d"), ("p", "q"), True)


def test_an_empty_variable_counts_as_unset():
    assert read(Example, {"R_URL": "u", "R_PORT": ""}).tcp_port == 8080


def test_every_wrong_variable_is_named_at_once_and_a_secret_is_not_repeated():
    with pytest.raises(InvalidSetting) as caught:
        read(Example, {"R_PORT": "99999", "R_KEYS": "a:hunter2,a:hunter3", "R_ON": "perhaps"})

    for word in ("R_URL is not set", "R_PORT", "R_KEYS", "R_ON"):
        assert word in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_a_number_that_is_none_is_refused_in_words_for_people():
    @dataclass(frozen=True)
    class Numbers:
        count: int = setting("R_COUNT", 1, "How many.")
        share: float | None = setting("R_SHARE", None, "Which part.")

    with pytest.raises(InvalidSetting) as caught:
        read(Numbers, {"R_COUNT": "1.5", "R_SHARE": "half"})

    assert str(caught.value) == ("R_COUNT='1.5' is wrong: must be a whole number; "
                                 "R_SHARE='half' is wrong: must be a number")


def test_shown_settings_mask_secrets():
    text = shown(read(Example, {"R_URL": "u", "R_KEYS": "a:hunter2"}))

    assert text["R_KEYS"] == "***"
    assert text["R_URL"] == "u"


def test_a_key_without_a_name_is_named_default():
    assert Keys.parse("k") == {"default": "k"}


@dataclass(frozen=True, kw_only=True)
class Place:
    host: str = setting("R_*_HOST", "here", "Host.")
    key: str = setting("R_*_KEY", doc="Key.", secret=True)


@dataclass(frozen=True, kw_only=True)
class Grouped:
    north: Place = group(of="NORTH")
    south: Place = group(Place(host="there", key="hunter1"), of="SOUTH")


def test_a_group_is_read_under_its_own_variables_and_defaults():
    got = read(Grouped, {"R_NORTH_KEY": "hunter2", "R_SOUTH_KEY": "hunter3"})

    assert got == Grouped(north=Place(host="here", key="hunter2"), south=Place(host="there", key="hunter3"))


def test_what_is_wrong_in_a_group_is_named_with_the_rest():
    with pytest.raises(InvalidSetting, match=r"^R_NORTH_KEY is not set: Key$"):
        read(Grouped, {})


def test_a_group_is_shown_by_its_variables_with_secrets_masked():
    text = shown(read(Grouped, {"R_NORTH_KEY": "hunter2"}))

    assert text == {"R_NORTH_HOST": "here", "R_NORTH_KEY": "***", "R_SOUTH_HOST": "there", "R_SOUTH_KEY": "***"}
