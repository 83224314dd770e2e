"""The messages that are played."""

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest

from schemas.errors import Invalid
from services.demo.messages import default_source, play_list, read

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"


def test_equal_seeds_play_equal_lists():
    messages = read(EXAMPLES / "support-messages.csv", "text", "queue")
    assert play_list(messages, seed=3) == play_list(messages, seed=3)
    assert play_list(messages, seed=3) != play_list(messages, seed=4)


def test_a_play_list_holds_every_message_once_and_gives_each_a_user():
    messages = read(EXAMPLES / "support-messages.csv", "text", "queue")
    played = play_list(messages, seed=1)
    assert Counter((m.text, m.label) for m in played) == Counter((m.text, m.label) for m in messages)
    assert all(m.user_id.startswith("customer-") for m in played)


def test_a_limit_cuts_the_shuffled_list():
    messages = read(EXAMPLES / "support-messages.csv", "text", "queue")
    assert [m.text for m in play_list(messages, seed=1, limit=10)] == [m.text for m in play_list(messages, seed=1)[:10]]


def test_gzipped_files_are_read_and_rows_without_a_label_left_out(tmp_path: Path):
    file = tmp_path / "m.csv.gz"
    file.write_bytes(gzip.compress(b'text,category\n"one, two",a\nthree,\n'))
    assert [(m.text, m.label) for m in read(file, "text", None)] == [("one, two", "a")]


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path):
    file = tmp_path / "m.csv"
    file.write_text("body,tag\nhello,x\n")
    with pytest.raises(Invalid, match="no column 'text'; it has body, tag"):
        read(file, "text", "tag")


def test_an_unreadable_file_is_named(tmp_path: Path):
    with pytest.raises(Invalid, match="cannot be read"):
        read(tmp_path / "nowhere.csv", "text", None)


@pytest.mark.parametrize("data", [gzip.compress(b"text,label\na,b\n" * 99)[:-20], b"no gzip", b"\x1f\x8b" * 20])
def test_a_damaged_gzip_file_is_named(data: bytes, tmp_path: Path):
    (tmp_path / "x.csv.gz").write_bytes(data)
    with pytest.raises(Invalid, match=r"x\.csv\.gz cannot be read"):
        read(tmp_path / "x.csv.gz", "text", "label")


@pytest.mark.parametrize(("row", "why"), [("x" * 40_000 + ",b", "the text has 40000 characters"),
                                          ("a," + "b" * 300, "the label has 300 characters"), ("a\0,b", r"U\+0000")])
def test_a_row_that_the_platform_would_refuse_is_named_before_the_run(row: str, why: str, tmp_path: Path):
    (tmp_path / "x.csv").write_text(f"text,label\na,b\n{row}\n")
    with pytest.raises(Invalid, match=rf"x\.csv:3: .*{why}"):
        read(tmp_path / "x.csv", "text", "label")


def test_without_banking77_the_small_corpus_is_played(tmp_path: Path):
    source = default_source(tmp_path / "project")
    assert source.stream.name == "support-messages.csv"
    assert source.label == "queue"


def test_banking77_is_played_where_it_lies_beside_the_project(tmp_path: Path):
    data = tmp_path / "shared" / "data" / "banking77"
    data.mkdir(parents=True)
    (data / "train.csv.gz").write_bytes(gzip.compress(b"text,category\n"))
    source = default_source(tmp_path / "project")
    assert (source.name, source.label, source.rate) == ("Banking77", "category", 50.0)


@pytest.mark.parametrize(("name", "least"), [("support-messages.csv", 600), ("support-messages-test.csv", 150)])
def test_the_small_corpus_is_large_and_varied_enough(name: str, least: int):
    with (EXAMPLES / name).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [" ".join(row["text"].lower().split()) for row in rows]
    queues = Counter(row["queue"] for row in rows)
    assert len(set(texts)) == len(texts) >= least
    assert len(queues) >= 15
    assert max(queues.values()) == min(queues.values())
    # No template: few messages of a queue begin with the same two words.
    openings = Counter((row["queue"], " ".join(row["text"].split()[:2])) for row in rows)
    assert max(openings.values()) <= 0.15 * max(queues.values()) + 1


def test_no_test_message_of_the_small_corpus_is_streamed():
    def texts(name: str) -> set[str]:
        return {m.text.lower() for m in read(EXAMPLES / name, "text", "queue")}

    assert not texts("support-messages.csv") & texts("support-messages-test.csv")
