"""The whole loop on the embedded stack, through public HTTP only: it learns, and nothing that is killed loses a thing.

The tests of the class run in order on one stack, and the counts of all of them are checked after each.
"""

import itertools
import json
import re
from pathlib import Path

import pytest
import redis

from tests.support.app import LOOP, App, Message, messages, play
from tests.support.running_stack import RunningStack
from tests.support.services import ROOT, eventually

EXAMPLES = ROOT / "examples"
# The small corpus has 20 intents with 36 messages each, so a constant answer is right 1 time in 20. Measured: 0.29 over
# the first 80 messages, 0.68 over messages 321 to 480.
LATER_ACCURACY, HELD_OUT_ACCURACY = 0.60, 0.65
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stream() -> list[Message]:
    """The corpus in shuffled order; each test takes the next part."""
    return messages(EXAMPLES / "support-messages.csv")


@pytest.fixture(scope="module")
def held_out() -> list[Message]:
    """Messages that are never given feedback on."""
    return messages(EXAMPLES / "support-messages-test.csv")


# Answered while Kafka stood still, and then killed with inference; and one more in the instant before.
CUT_OFF = 5
UNLOGGED = CUT_OFF + 1


def assert_counts_match(stack: RunningStack, app: App, *, n_unlogged: int = 0) -> None:
    """Check that what was accepted is stored once and has its effect once, and that what was answered is logged.

    Args:
        n_unlogged: Predictions that may be missing because inference was killed right after it answered them. All of
            them were given feedback, so none is missing unseen.
    """
    def all_stored() -> bool:
        assert stack.ids("SELECT id FROM events") == app.accepted
        logged, told = stack.ids("SELECT id FROM predictions"), stack.ids("SELECT prediction_id FROM feedback")
        # What was answered and got feedback is an example, or is waited for and counted.
        assert logged <= app.predictions.keys()
        assert app.predictions.keys() - logged == told - logged
        assert stack.ids("SELECT prediction_id FROM joins WHERE state = 'waiting'") == told - logged
        return True

    eventually(all_stored, timeout_s=60, every_s=0.5)
    logged, told = stack.ids("SELECT id FROM predictions"), stack.ids("SELECT prediction_id FROM feedback")
    assert len(told - logged) <= n_unlogged
    assert stack.status()["loops"][LOOP]["waiting"] == len(told - logged)
    assert stack.count("SELECT count(*) FROM feedback") == stack.count(
        "SELECT count(*) FROM events WHERE name = 'Ticket Resolved'")
    # Every feedback whose prediction was logged made one example: no second revision, no gap in the sequence.
    joined = told & logged
    assert stack.ids("SELECT prediction_id FROM examples") == joined
    assert stack.count("SELECT count(*) FROM examples") == len(joined)
    assert stack.count("SELECT coalesce(max(seq), 0) FROM examples") == len(joined)


def learned(app: App, n_examples: int) -> bool:
    """Whether the version that serves has learned from this many examples (all but the held-out subjects')."""
    told = app.loop()
    assert told["n_examples"] >= n_examples, told
    return True


class TestWholeLoop:
    def test_a_model_that_knows_no_label_learns_them_from_feedback(
            self, stack: RunningStack, app: App, stream: list[Message], held_out: list[Message]) -> None:
        first = app.predict(stream[0].text, stream[0].user_id)
        assert (first.label, first.version) == (None, "v0")

        right = play(app, stream[:480], rate=25)

        early, later = sum(right[:80]) / 80, sum(right[-160:]) / 160
        assert later >= LATER_ACCURACY, f"accuracy {early:.3f} over the first 80, {later:.3f} over the last 160"
        assert later > early + 0.25
        eventually(lambda: learned(app, int(480 * 0.85)), timeout_s=30)
        answers = [(app.predict(message.text, message.user_id), message) for message in held_out]
        accuracy = sum(answer.label == message.label for answer, message in answers) / len(answers)
        assert accuracy >= HELD_OUT_ACCURACY, f"accuracy {accuracy:.3f} on {len(answers)} held-out messages"
        assert_counts_match(stack, app)

    def test_every_version_tells_why_it_serves_and_what_it_learned_from(self, stack: RunningStack) -> None:
        versions = json.loads(stack.ratchet("versions", LOOP, "--json"))["versions"]
        assert len(versions) >= 5
        assert all(version["gate"]["verdict"] == "accepted" for version in versions if version["aliases"])
        shown = stack.ratchet("show", LOOP, "champion")
        assert "learned from" in shown
        assert "promoted by" in shown
        champion = json.loads(stack.ratchet("show", LOOP, "champion", "--json"))["manifest"]
        assert stack.status()["loops"][LOOP]["champion"] == champion["version"]

    def test_status_tells_programs_where_everything_is(self, stack: RunningStack, app: App) -> None:
        told = stack.told_status()
        assert set(told["services"]) >= {"kafka", "postgres", "redis", "collector", "processor", "trainer", "inference"}
        for service in told["services"].values():
            assert service["ready"]
            assert service["pid"] > 1
            assert service["rss_bytes"] > 1_000_000
            assert service["url"]
        assert told["keys"] == {"collect": app.collect_key, "infer": app.infer_key,
                                "operate": told["keys"]["operate"]}
        assert told["loops"][LOOP]["champion"]

    def test_no_user_id_reaches_postgres(self, stack: RunningStack) -> None:
        for table in ("events", "predictions", "feedback", "examples"):
            assert stack.count(f"SELECT count(*) FROM {table} t WHERE t::text LIKE '%user-1%'") == 0, table

    def test_rollback_serves_the_version_before_at_once_and_holds_it(self, stack: RunningStack, app: App) -> None:
        before = stack.status()["loops"][LOOP]
        stack.ratchet("rollback", LOOP, "--reason", "to see that it holds")
        eventually(lambda: app.predict("Where is my parcel?", "user-1").version == before["previous"], timeout_s=10)
        assert stack.status()["loops"][LOOP]["pinned"] == before["previous"]
        stack.ratchet("unpin", LOOP, "--reason", "it held")

    @pytest.mark.parametrize("name", ["collector", "processor", "trainer", "inference"])
    def test_a_service_killed_under_traffic_comes_back_and_the_counts_match(
            self, name: str, stack: RunningStack, app: App, stream: list[Message]) -> None:
        part = {"collector": stream[480:520], "processor": stream[520:560], "trainer": stream[560:600],
                "inference": stream[600:640]}[name]
        n_before = len(app.predictions)

        def kill_in_the_middle(number: int) -> None:
            if number != len(part) // 2:
                return
            if name == "inference":
                with stack.frozen("kafka"):
                    cut_off = [(app.predict(message.text, message.user_id), message) for message in part[:CUT_OFF]]
                    stack.kill(name)
                for answer, message in cut_off:
                    app.resolve(answer, message.label, message.user_id)
            else:
                stack.kill(name)

        play(app, part, rate=20, meanwhile=kill_in_the_middle)

        stack.wait_ready()
        assert stack.status()["services"][name]["restarts"] >= 1
        assert len(app.predictions) - n_before >= len(part)
        assert_counts_match(stack, app, n_unlogged=UNLOGGED if name == "inference" else 0)
        if name == "inference":
            # One request at a time is under way to Kafka; the rest was in inference's memory only.
            told = stack.told_status()["loops"][LOOP]
            assert told["waiting"] >= CUT_OFF - 1
            assert 0 < told["oldest_waiting_s"] < 600
            assert (told["orphaned"], told["predictions_lost"]) == (0, 0)
        self._still_learns(stack, app)

    def test_an_emptied_redis_is_restored_by_the_command_alone_and_all_goes_on(
            self, stack: RunningStack, app: App, stream: list[Message]) -> None:
        with stack.frozen("trainer", "inference"):  # either would restore it by itself
            before = stack.status()["loops"][LOOP]["champion"]
            with redis.Redis.from_url(stack.status()["services"]["redis"]["url"]) as client:
                client.flushall()
            assert stack.status()["loops"][LOOP]["champion"] is None
            said = stack.ratchet("registry", "restore")
            done = re.search(rf"^{LOOP}: (\d+) versions, champion (v\d+), epoch \d+; wrote (\d+) tensors and (\d+) log "
                             "entries$", said, re.MULTILINE)
            assert done is not None, said
            assert done[2] == before
            assert all(int(number) > 0 for number in done.group(1, 3, 4)), said
            assert stack.status()["loops"][LOOP]["champion"] == before
        assert app.predict(stream[0].text, stream[0].user_id).label is not None
        self._still_learns(stack, app)
        assert_counts_match(stack, app, n_unlogged=UNLOGGED)

    @pytest.mark.parametrize("name", ["redis", "postgres", "kafka"])
    def test_a_server_killed_under_traffic_comes_back_and_the_counts_match(
            self, name: str, stack: RunningStack, app: App, stream: list[Message]) -> None:
        part = {"redis": stream[640:665], "postgres": stream[665:690], "kafka": stream[690:715]}[name]

        def kill_in_the_middle(number: int) -> None:
            if number == len(part) // 2:
                stack.kill(name)

        play(app, part, rate=10, meanwhile=kill_in_the_middle)

        stack.wait_ready()
        assert_counts_match(stack, app, n_unlogged=UNLOGGED)
        self._still_learns(stack, app)

    def test_the_data_is_still_there_after_down_and_up(self, stack: RunningStack, app: App, tmp_path: Path) -> None:
        before = stack.status()["loops"][LOOP]["champion"]
        n_examples = app.loop()["n_examples"]
        stack.down()
        assert stack.status()["services"] == {}
        stack.up()
        again = stack.app()
        app.collector_url, app.inference_url = again.collector_url, again.inference_url
        assert (again.collect_key, again.infer_key) == (app.collect_key, app.infer_key)
        assert int(stack.status()["loops"][LOOP]["champion"][1:]) >= int(before[1:])
        answer = app.predict("Where is my parcel?", "user-1")
        assert int(answer.version[1:]) >= int(before[1:])
        assert app.loop()["n_examples"] >= n_examples
        assert_counts_match(stack, app, n_unlogged=UNLOGGED)
        self._still_learns(stack, app)

    @staticmethod
    def _still_learns(stack: RunningStack, app: App) -> None:
        """One more feedback is learned from: a later version than the one that serves now takes over."""
        before = app.loop()["n_examples"]
        # Another user each time: a few subjects are held out and never learned from.
        users = (f"late-{number}" for number in itertools.count())

        def taught() -> bool:
            user = next(users)
            app.resolve(app.predict("Where is my parcel right now?", user), "track_order", user)
            assert app.loop()["n_examples"] > before, f"nothing was learned any more\n{stack.logs()}"
            return True

        eventually(taught, timeout_s=60, every_s=1.0)
