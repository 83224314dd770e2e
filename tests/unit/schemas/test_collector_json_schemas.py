"""The JSON Schemas in the repository are those of the types, and the golden payloads keep to them."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from schemas import generate
from schemas.dead import DeadLetter
from schemas.events import Event
from schemas.predictions import Prediction

GOLDEN = Path(generate.__file__).parent / "golden"
STORED = {"event": Event, "event-smallest": Event, "prediction": Prediction, "dead-letter": DeadLetter}


@pytest.mark.parametrize("name", sorted(generate.generate()))
def test_the_schema_file_is_what_the_types_generate(name):
    assert (generate.DIRECTORY / name).read_text(encoding="utf-8") == generate.generate()[name], (
        "run python -m schemas.generate and commit the result")


def test_no_schema_file_is_left_over():
    assert {file.name for file in generate.DIRECTORY.iterdir()} == set(generate.generate())


@pytest.mark.parametrize("name", sorted(generate.generate()))
def test_each_schema_is_valid_by_draft_2020_12(name):
    jsonschema.Draft202012Validator.check_schema(json.loads(generate.generate()[name]))


@pytest.mark.parametrize("name", STORED)
def test_what_an_older_version_stored_is_still_read_and_keeps_to_its_schema(name):
    data = (GOLDEN / "stored" / f"{name}.json").read_bytes()

    item = msgspec.json.decode(data, type=STORED[name])

    assert json.loads(msgspec.json.encode(item)) == json.loads(data)
    schema = json.loads((generate.DIRECTORY / f"{name.removesuffix('-smallest')}.schema.json").read_text())
    jsonschema.validate(json.loads(data), schema)


@pytest.mark.parametrize("file", sorted((GOLDEN / "good").glob("segment-*.json")), ids=lambda file: file.stem)
def test_good_segment_calls_keep_to_the_schema(file):
    body = json.loads(file.read_text())["body"]
    schema = json.loads((generate.DIRECTORY / "segment-call.schema.json").read_text())
    for call in body.get("batch", [body]):
        jsonschema.validate(call, schema)
