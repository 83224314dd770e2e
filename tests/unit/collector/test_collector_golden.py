"""Golden payloads, good and bad, through the whole application."""

import json
from pathlib import Path

import pytest

import schemas

GOLDEN = Path(schemas.__file__).parent / "golden"
USERS = ("user-123456", "anon-1234567", "ada@example.com")


def cases(kind):
    return [pytest.param(json.loads(file.read_text()), id=file.stem) for file in sorted((GOLDEN / kind).glob("*.json"))]


async def send(collector, case):
    body = case["raw"] if "raw" in case else json.dumps(case["body"])
    return await collector.client.post(case["path"], content=body.encode(), headers=case["headers"])


@pytest.mark.parametrize("case", cases("good"))
async def test_a_good_payload_is_accepted_and_names_no_person(collector, case):
    answer = await send(collector, case)

    expected = case["expected"]
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (expected["accepted"], expected["rejected"])
    assert [event.kind for event in collector.events] == expected["kinds"]
    assert {event.source for event in collector.events} == {expected["source"]}
    assert {event.project for event in collector.events} == {"app"}
    assert not any(user in collector.written for user in (*USERS, "WK"))


@pytest.mark.parametrize("case", cases("bad"))
async def test_a_bad_event_is_a_dead_letter_with_its_reason_and_its_neighbour_is_kept(collector, case):
    answer = await send(collector, case)

    expected = case["expected"]
    assert answer.status_code == (200 if expected["accepted"] else 400)
    assert (len(collector.events), len(collector.dead)) == (expected["accepted"], expected["rejected"])
    letter = collector.dead[0]
    assert (letter.code, letter.path, letter.stage, letter.project) == (
        expected["code"], expected["path"], "collector", "app")
    bad = next(result for result in answer.json()["results"] if result["status"] == "rejected")
    assert (bad["code"], bad["path"], bad["message"]) == (letter.code, letter.path, letter.message)
    assert not any(user in collector.written for user in USERS)


@pytest.mark.parametrize("case", cases("bad"))
async def test_the_same_bad_event_sent_twice_is_the_same_dead_letter(collector, case):
    await send(collector, case)
    await send(collector, case)

    assert len({letter.id for letter in collector.dead}) == 1
