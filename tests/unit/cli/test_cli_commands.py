"""The ``ratchet`` command's surface: help that helps, statuses that scripts can rely on, loop files explained."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import stack
from services.cli.main import main, parser

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "loops" / "support-intents.toml"
COMMANDS = [["up"], ["down"], ["status"], ["prepare"], ["loops", "check"], ["collector"], ["processor"], ["trainer"],
            ["inference"], ["versions"], ["show"], ["promote"], ["rollback"], ["pin"], ["unpin"],
            ["registry", "restore"], ["demo"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args([*command, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "examples:" in said
    assert f"ratchet {command[0]}" in said


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; from services.cli.main import parser; parser().format_help(); "
            "heavy = {'torch', 'kafka', 'psycopg', 'redis', 'fastapi', 'rich', 'psutil', 'numpy'}; "
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["promote", "rollback", "pin", "unpin"])
def test_nothing_is_changed_without_a_reason(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "support-intents", *(["v1"] if command == "promote" else [])])
    assert end.value.code == 2
    assert "--reason" in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["", "  ", "\x1b[31m", "two\nlines", "x" * 1001])
def test_a_reason_says_something_in_a_line(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rollback", "support-intents", "--reason", reason])
    assert "say why in a line" in capsys.readouterr().err


def test_a_good_loop_file_is_called_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loops", "check", str(EXAMPLE)]) == 0
    assert "ok, loop support-intents: text-classification on minilm, learns from correction" in capsys.readouterr().out


def test_a_wrong_loop_file_is_explained_with_its_line_and_the_others_are_still_checked(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('name = "a"\ntask = "text-classification"\n\n[feedback.click]\nevent = "Clicked"\nvalue = "yes"\n'
                     'window = "soon"\n')
    assert main(["loops", "check", str(wrong), str(EXAMPLE)]) == 1
    out, err = capsys.readouterr()
    assert f"{wrong}:7: feedback.click.window" in err
    assert "ok, loop support-intents" in out


def test_two_files_that_declare_one_loop_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text(EXAMPLE.read_text())
    (tmp_path / "b.toml").write_text(EXAMPLE.read_text())
    assert main(["loops", "check", str(tmp_path)]) == 1
    assert f"the loop 'support-intents' is declared in {tmp_path / 'a.toml'} too" in capsys.readouterr().err


@pytest.mark.parametrize(("rollout", "warned"), [
    ("", False), ("[rollout]\ncanary = [1.0]\n", False), ("[rollout]\ncanary = [0.1, 1.0]\n", True),
    ("[rollout]\nshadow = true\n", True)])
def test_a_rollout_that_nothing_acts_on_yet_is_warned_of(
        rollout: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop.toml").write_text(
        f'name = "a"\n[feedback.click]\nevent = "Clicked"\nvalue = "yes"\n{rollout}')
    wanted = ["warning: the loop a declares a [rollout], but rollout is not acted on yet: an accepted version serves "
              "everyone at once"] if warned else []
    assert main(["loops", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines() == wanted
    monkeypatch.setattr("services.cli.stack._attached", lambda *_: 0)
    assert main(["up", "--data-dir", str(tmp_path / "data"), "--loops", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines() == wanted


def test_an_operator_command_without_a_stack_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RATCHET_REDIS_URL", raising=False)
    assert main(["versions", "support-intents", "--data-dir", str(tmp_path)]) == 1
    assert f"ratchet: no stack runs on {tmp_path}: start one with `ratchet up`" in capsys.readouterr().err


def test_status_and_down_of_nothing_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--data-dir", str(tmp_path)]) == 3
    assert main(["status", "--json", "--data-dir", str(tmp_path)]) == 3
    assert main(["down", "--data-dir", str(tmp_path)]) == 0
    assert f"nothing runs on {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize(("missing", "said"), [
    ({"waiting": 0, "oldest_waiting_s": None, "orphaned": 0, "predictions_lost": 0}, []),
    ({"waiting": None, "oldest_waiting_s": None, "orphaned": None, "predictions_lost": None}, []),
    ({"waiting": 3, "oldest_waiting_s": 5400.2, "orphaned": 2, "predictions_lost": 1},
     ["feedback waits for 3 predictions, the oldest for 90 min",
      "2 predictions never came: `dead_letters` with the code 'orphaned' says which",
      "inference has dropped 1 predictions from its log since it started"])])
def test_status_says_of_each_loop_which_predictions_are_missing(
        missing: dict[str, float | None], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"phase": "ready", "keys": {}, "loops": {"intents": {"champion": "v7"} | missing},
             "services": {"redis": {"url": "redis://x", "pid": 7, "ready": True, "restarts": 0, "rss_bytes": 1}}}
    monkeypatch.setattr("services.stack.operating.status", lambda _: found)
    assert main(["status", "--data-dir", str(tmp_path)]) == 0
    _, loop, *lines = capsys.readouterr().out.splitlines()
    assert loop == "loop intents: champion v7"
    assert [line.strip() for line in lines] == said


def test_up_with_a_wrong_loop_file_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "bad.toml").write_text("name = 7\n")
    assert main(["up", "--data-dir", str(tmp_path / "data"), "--loops", str(tmp_path / "loops")]) == 1
    assert "bad.toml:1: name" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_up_with_a_wrong_setting_names_the_variable(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_KAFKA_PORT", "99999")
    assert main(["up", "--data-dir", str(tmp_path / "data")]) == 2
    assert "RATCHET_KAFKA_PORT is wrong: 99999 is not a port" in capsys.readouterr().err


def test_up_shows_its_addresses_and_keys_to_who_started_it(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"services": {"collector": {"url": "http://127.0.0.1:8080", "pid": 7, "ready": True, "restarts": 0,
                                        "rss_bytes": 1}}, "keys": {"collect": "collect_hunter2"}, "loops": {}}
    monkeypatch.setattr("services.stack.operating.status", lambda _: found)
    stack._show_ready(tmp_path)
    said = capsys.readouterr().out
    assert "http://127.0.0.1:8080" in said
    assert "hunter2" in said


@pytest.mark.parametrize("arguments", [["up"], ["up", "--detach"], ["down"], ["status"]])
def test_a_data_folder_that_cannot_be_is_an_error_in_a_line(
        arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_DATA_DIR", "")  # `up` sets it for the services; it must not outlive the test
    (tmp_path / "file").touch()
    assert main([*arguments, "--data-dir", str(tmp_path / "file" / "data")]) == 1
    assert capsys.readouterr().err.endswith("Not a directory\n")
