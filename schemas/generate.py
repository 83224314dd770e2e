"""Writes the JSON Schemas (2020-12) of everything that crosses a process boundary: ``python -m schemas.generate``."""

import json
from pathlib import Path
from typing import Any

import msgspec

from schemas import posthog, segment
from schemas.dead import DeadLetter
from schemas.events import Event
from schemas.manifest import Manifest
from schemas.predictions import Prediction

DIRECTORY = Path(__file__).parent / "json"
TYPES: dict[str, Any] = {
    "event": Event,
    "prediction": Prediction,
    "dead-letter": DeadLetter,
    "manifest": Manifest,
    "segment-call": segment.Call,
    "segment-batch": segment.Batch,
    "posthog-capture": posthog.Capture,
    "posthog-batch": posthog.Batch,
}


def generate() -> dict[str, str]:
    """Return the text of each schema file, by file name."""
    files = {}
    for name, kind in TYPES.items():
        _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        top = components.pop(kind.__name__)
        document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:ratchet:{name}:1"} | top
        if components:
            document["$defs"] = components
        files[f"{name}.schema.json"] = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return files


def main() -> None:
    """Write the files."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, text in generate().items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
