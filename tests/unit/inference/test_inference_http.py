"""Both protocols over HTTP, in process: codes, headers, error shapes, keys, limits."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from schemas.loops import Loop
from schemas.predictions import Prediction
from services.inference import app
from services.inference.access import Access
from services.inference.batching import Batcher
from services.inference.bodies import MAX_BODY_BYTES, Bodies
from services.inference.core import PredictionIds
from services.inference.predictor import Predictor
from services.inference.serving import Lineup, Served, ServedLoop
from shared.pseudonym import Pseudonymiser
from shared.settings import Keys

INFER = "/v2/models/tickets/infer"
PREDICT = "/v1/loops/tickets/predict"
INPUT = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["aa", "b"]}


class FakeEncoder:
    """Embeds a text as its length."""

    digest = "encoder-1"

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> Any:
        if "crash" in texts:
            raise RuntimeError("a bug with a secret in it")
        return np.array([[len(text)] for text in texts], np.float32)


@dataclass(frozen=True)
class FakeClassifier:
    """Two labels; the first is likelier the longer the text."""

    bias: float
    labels: tuple[str, ...] = ("long", "short")

    def probabilities(self, embeddings: Any) -> Any:
        first = 1 / (1 + np.exp(self.bias - embeddings[:, 0]))
        return np.stack([first, 1 - first], axis=1).astype(np.float32)


@dataclass
class FakeLog:
    """Keeps what is logged."""

    written: list[Prediction] = field(default_factory=list)
    n_bytes: int = 0

    def write(self, loop: str, predictions: Sequence[Prediction]) -> None:
        self.written += predictions


@dataclass
class World:
    """The application with a client that has the infer key, and what is behind it."""

    client: httpx.AsyncClient
    loop: ServedLoop
    log: FakeLog
    predictor: Predictor
    bodies: Bodies


def version(name: str, bias: float) -> Served:
    return Served(loop="tickets", version=name, encoder=FakeEncoder(), max_tokens=8,  # type: ignore[arg-type]
                  classifier=FakeClassifier(bias))  # type: ignore[arg-type]


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    two, three = version("v2", 0.0), version("v3", 1.0)
    loop = ServedLoop(Loop(name="tickets"), lineup=Lineup(three, {"v3": three, "v2": two}, 5), degraded="")
    loops = {"tickets": loop, "cold": ServedLoop(Loop(name="cold"))}
    log, batcher = FakeLog(), Batcher(max_batch=4, max_waiting=8, max_wait_s=10)
    predictor = Predictor(loops, batcher, log, Pseudonymiser("k" * 16),  # type: ignore[arg-type]
                          new_id=PredictionIds(lambda n: bytes(n)), now_ms=lambda: 1_700_000_000_000)
    bodies = Bodies(32 << 20, timeout_s=getattr(request, "param", 30.0))  # s
    built = app.build(predictor, batcher, Access(Keys(shop="infer-key"), Keys(op="operate-key")), bodies,
                      max_batch=4)
    batcher.start()
    transport = httpx.ASGITransport(app=built, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test",
                                 headers={"Authorization": "Bearer infer-key"}) as client:
        yield World(client, loop, log, predictor, bodies)
    await batcher.stop()


async def test_predicting_answers_every_input_by_one_version_and_logs_it(world: World) -> None:
    reply = await world.client.post(PREDICT, json={"inputs": [{"text": "aaaa", "user_id": "u1"}, {"text": ""}]})
    assert reply.status_code == 200
    assert reply.headers["x-model-version"] == "v3"
    first, second = reply.json()["predictions"]
    assert (first["label"], first["version"]) == ("long", "v3")
    assert first["scores"]["long"] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-5)
    assert second["label"] == "short"
    assert [item.id for item in world.log.written] == [first["prediction_id"], second["prediction_id"]]
    assert [item.subject for item in world.log.written] == \
        [Pseudonymiser("k" * 16).subject("shop", "u1"), ""]


async def test_one_input_is_answered_by_a_list_of_one(world: World) -> None:
    reply = await world.client.post(PREDICT, json={"text": "aaaa"})
    assert len(reply.json()["predictions"]) == 1


@pytest.mark.parametrize(("body", "status", "code"), [
    (b"", 400, "not_json"), (b"{", 400, "not_json"), (b"\xff\xfe", 400, "not_json"),
    (b'{"text":"\\ud800"}', 400, None), (b"[" * 100_000, 400, "not_json"), (b"[]", 400, "not_an_object"),
    (b'{"inputs":[{"txt":"a"}]}', 400, "missing_field"), (b'{"text":"a\\u0000"}', 400, "nul_character"),
    (json.dumps({"text": "a" * 40_000}).encode(), 413, "text_too_long"),
    (json.dumps({"inputs": [{"text": "a"}] * 300}).encode(), 413, "too_many_inputs"),
    (b" " * (MAX_BODY_BYTES + 1), 413, "too_large"),
])
async def test_bad_input_is_told_what_is_wrong_and_is_never_a_500(world: World, body: bytes, status: int,
                                                                 code: str | None) -> None:
    reply = await world.client.post(PREDICT, content=body)
    assert reply.status_code == status
    error = reply.json()
    assert error["error"] == error["message"]
    assert code in (None, error["code"])
    reply = await world.client.post(INFER, content=body)
    assert reply.status_code in (400, 413)
    assert list(reply.json()) == ["error"]
    assert world.log.written == []


async def test_a_bug_in_the_model_is_a_500_that_gives_nothing_away_and_costs_no_one_else(world: World) -> None:
    reply = await world.client.post(PREDICT, json={"text": "crash"})
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert "secret" not in reply.text
    assert (await world.client.post(PREDICT, json={"text": "a"})).status_code == 200


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer nobody"}, {"Authorization": ""}, {"X-API-Key": "x"},
                                     {"Authorization": "Basic !!"}])
@pytest.mark.parametrize(("method", "path"), [
    ("POST", PREDICT), ("GET", "/v1/loops"), ("GET", "/v1/loops/tickets"), ("POST", INFER), ("GET", "/v2/models"),
    ("GET", "/v2/models/tickets"), ("GET", "/v2/models/tickets/config"), ("GET", "/v2/models/stats"),
    ("POST", "/v2/repository/index"), ("POST", "/v2/repository/models/tickets/unload")])
async def test_without_a_good_key_nothing_is_told(world: World, method: str, path: str,
                                                  headers: dict[str, str]) -> None:
    world.client.headers.pop("Authorization")
    reply = await world.client.request(method, path, headers=headers)
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert isinstance(reply.json()["error"], str)


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer operate-key"}, {"Authorization": "Basic aW5mZXIta2V5Og=="}, {"X-API-Key": "infer-key"}])
async def test_a_key_is_taken_from_any_of_the_usual_headers(world: World, headers: dict[str, str]) -> None:
    world.client.headers.pop("Authorization")
    assert (await world.client.post(PREDICT, json={"text": "a"}, headers=headers)).status_code == 200


async def test_health_is_open_and_says_both_words(world: World) -> None:
    world.client.headers.pop("Authorization")
    live = await world.client.get("/v2/health/live")
    assert (live.status_code, live.json()) == (200, {"live": True, "ready": True})
    assert (await world.client.get("/v2/health/ready")).status_code == 503
    assert (await world.client.get("/health/live")).json() == {"status": "live"}
    ready = await world.client.get("/health/ready")
    assert (ready.status_code, ready.json()["faults"]) == (503, {"cold": "starting"})
    cold = world.predictor.loops["cold"]
    cold.lineup, cold.degraded = Lineup(version("v0", 0), {}, 0), "Redis is away"
    ready = await world.client.get("/health/ready")
    assert (ready.status_code, ready.json()["degraded"]) == (200, {"cold": "Redis is away"})
    assert (await world.client.get("/v2/health/ready")).json() == {"live": True, "ready": True}


async def test_a_loop_that_is_still_loading_is_503_with_retry_after(world: World) -> None:
    for path, body in (("/v1/loops/cold/predict", {"text": "a"}), ("/v2/models/cold/infer", {"inputs": [INPUT]})):
        reply = await world.client.post(path, json=body)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert (await world.client.get("/v2/models/cold/ready")).json() == {"name": "cold", "ready": False}


async def test_metadata_has_every_required_part(world: World) -> None:
    server = (await world.client.get("/v2")).json()
    assert set(server) == {"name", "version", "extensions"}
    assert (await world.client.get("/v2/")).json() == server
    model = (await world.client.get("/v2/models/tickets")).json()
    assert (model["name"], model["versions"], model["inputs"]) == \
        ("tickets", ["v2", "v3"], [{"name": "text", "datatype": "BYTES", "shape": [-1]}])
    assert {output["name"]: output["shape"] for output in model["outputs"]} == {
        "label": [-1], "probability": [-1], "scores": [-1, -1], "prediction_id": [-1], "version": [-1]}
    assert (await world.client.get("/v2/models/tickets/versions/v2")).json() == model
    assert (await world.client.get("/v2/models")).json() == {"models": ["cold", "tickets"]}
    labels = (await world.client.get("/v2/models/tickets/config")).json()["parameters"]["labels"]["string_value"]
    assert json.loads(labels) == ["long", "short"]


async def test_a_version_in_the_path_answers_instead_of_the_champion(world: World) -> None:
    reply = await world.client.post("/v2/models/tickets/versions/v2/infer", json={"inputs": [INPUT]})
    assert (reply.json()["model_version"], reply.headers["x-model-version"]) == ("v2", "v2")
    assert reply.json()["parameters"] == {"version": "v2"}
    assert (await world.client.get("/v2/models/tickets/versions/v2/ready")).json() == {"name": "tickets", "ready": True}
    assert (await world.client.post(INFER, json={"inputs": [INPUT]})).json()["model_version"] == "v3"


@pytest.mark.parametrize("content_type", [None, "application/json", "application/octet-stream", "text/plain"])
async def test_the_content_type_of_a_request_does_not_matter(world: World, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    reply = await world.client.post(INFER, content=json.dumps({"inputs": [INPUT]}), headers=headers)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in reply.headers


async def test_binary_outputs_come_with_the_length_of_the_json(world: World) -> None:
    reply = await world.client.post(INFER, json={"inputs": [INPUT], "parameters": {"binary_data_output": True}})
    length = int(reply.headers["inference-header-content-length"])
    assert reply.headers["content-type"] == "application/octet-stream"
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(reply.content[:length])["outputs"]]
    assert length + sum(sizes) == len(reply.content)


async def test_a_raw_request_is_one_text(world: World) -> None:
    reply = await world.client.post(INFER, content=b"aaaa", headers={"Inference-Header-Content-Length": "0"})
    assert reply.status_code == 200
    length = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.content[:length])["outputs"][0]["shape"] == [1]
    assert world.log.written[0].input == {"text": "aaaa"}


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_requests_are_read_and_answered_compressed_when_asked(world: World, encoding: str,
                                                                              pack: Any) -> None:
    reply = await world.client.post(INFER, content=pack(json.dumps({"inputs": [INPUT]}).encode()),
                                    headers={"Content-Encoding": encoding, "Accept-Encoding": encoding})
    assert reply.status_code == 200
    assert reply.headers["content-encoding"] == encoding
    assert reply.json()["outputs"][0]["data"] == ["long", "long"]


@pytest.mark.parametrize(("data", "encoding", "status"), [
    (b"not gzip", "gzip", 400), (gzip.compress(b"{}")[:-4], "gzip", 400), (b"{}", "br", 400),
    (gzip.compress(b" " * (MAX_BODY_BYTES + 10)), "gzip", 413), (zlib.compress(b" " * (1 << 26)), "deflate", 413)])
async def test_a_body_that_is_not_what_it_says_or_explodes_is_refused(world: World, data: bytes, encoding: str,
                                                                     status: int) -> None:
    reply = await world.client.post(INFER, content=data, headers={"Content-Encoding": encoding})
    assert (reply.status_code, list(reply.json())) == (status, ["error"])


async def _slowly(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    await asyncio.Event().wait()


@pytest.mark.parametrize("world", [0.2], indirect=True)
@pytest.mark.parametrize("path", [PREDICT, INFER, "/v2/repository/index"])
async def test_a_body_that_does_not_arrive_is_given_up(world: World, path: str) -> None:
    reply = await world.client.post(path, content=_slowly(b"{"))
    assert (reply.status_code, reply.headers["connection"]) == (408, "close")
    assert "0.2 s" in reply.json()["error"]
    world.bodies.take(32 << 20)  # nothing of it is counted any more


@pytest.mark.parametrize("announced", [True, False])
async def test_more_bytes_than_may_be_received_at_once_are_503_and_cost_the_others_nothing(
        world: World, announced: bool) -> None:
    body = json.dumps({"text": "aaaa"}).encode()
    world.bodies.take((32 << 20) - len(body) + 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    reply = await world.client.post(PREDICT, content=body if announced else chunks())
    assert (reply.status_code, reply.headers["retry-after"], reply.headers["connection"]) == (503, "1", "close")
    assert reply.json()["code"] == "unavailable"
    world.bodies.give_back(1)
    assert (await world.client.post(PREDICT, content=body if announced else chunks())).status_code == 200


async def test_the_openapi_document_tells_how_to_predict(world: World) -> None:
    document = (await world.client.get("/openapi.json")).json()
    predict = document["paths"]["/v1/loops/{loop}/predict"]["post"]
    assert set(predict["responses"]) == {"200", "400", "401", "404", "408", "413", "503"}
    schemas = document["components"]["schemas"]
    reply = (await world.client.post(PREDICT, json={"inputs": [{"text": "aaaa"}]})).json()
    jsonschema.validate(reply, schemas["Predictions"])
    jsonschema.validate((await world.client.post(PREDICT, json={})).json(), schemas["Error"])
    for loop in (await world.client.get("/v1/loops")).json():
        jsonschema.validate(loop, schemas["Loop"])


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", "/v2/models/other/infer", {"inputs": [INPUT]}, 404),
    ("POST", "/v2/models/a/b/infer", {"inputs": [INPUT]}, 404),
    ("POST", "/v2/models/tickets/versions/v9/infer", {"inputs": [INPUT]}, 404),
    ("POST", "/v2/models/tickets/versions/1/infer", {"inputs": [INPUT]}, 404),
    ("GET", "/v2/models/other", None, 404), ("GET", "/v2/models/other/ready", None, 404),
    ("GET", "/v2/models/tickets/versions/v9/ready", None, 404), ("GET", "/v2/models/other/stats", None, 404),
    ("GET", "/v2/nonsense", None, 404), ("GET", INFER, None, 405),
    ("DELETE", "/v2/models/tickets", None, 405), ("POST", "/v2/health/live", None, 405),
    ("GET", "/v2/repository/index", None, 405),
    ("POST", INFER, {"inputs": []}, 400), ("POST", INFER, {"inputs": [{**INPUT, "datatype": "INT32"}]}, 400),
    ("POST", INFER, {"inputs": [INPUT], "outputs": [{"name": "no"}]}, 400), ("POST", INFER, {}, 400),
    ("POST", "/v2/repository/models/other/load", {}, 400), ("POST", "/v2/repository/models/tickets/unload", {}, 403),
    ("GET", "/v2/logging", None, 501), ("POST", "/v2/logging", {}, 501), ("GET", "/v2/trace/setting", None, 501),
    ("GET", "/v2/models/tickets/trace/setting", None, 501), ("GET", "/v2/systemsharedmemory/status", None, 501),
    ("POST", "/v2/cudasharedmemory/region/x/register", {}, 501),
    ("POST", "/v2/repository/models/tickets/load", {"parameters": {"config": "{}"}}, 501),
])
async def test_every_error_of_the_protocol_is_an_object_with_one_string(world: World, method: str, path: str,
                                                                       body: Any, status: int) -> None:
    reply = await world.client.request(method, path, json=body)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    assert reply.json()["error"]


async def test_the_repository_lists_versions_and_takes_loads_it_can_keep(world: World) -> None:
    index = (await world.client.post("/v2/repository/index")).json()
    assert [(item["name"], item.get("version"), item["state"]) for item in index] == \
        [("cold", None, "LOADING"), ("tickets", "v2", "READY"), ("tickets", "v3", "READY")]
    assert len((await world.client.post("/v2/repository/index", json={"ready": True})).json()) == 2
    assert (await world.client.post("/v2/repository/models/tickets/load", json={})).status_code == 200
    reply = await world.client.post("/v2/repository/models/tickets/unload", json={},
                                    headers={"Authorization": "Bearer operate-key"})
    assert (reply.status_code, "restart" in reply.json()["error"]) == (501, True)


async def test_statistics_count_what_each_version_answered(world: World) -> None:
    await world.client.post(INFER, json={"inputs": [INPUT]})
    await world.client.post("/v2/models/tickets/versions/v2/infer", json={"inputs": [INPUT]})
    await world.client.post(INFER, json={"inputs": [INPUT]})
    found = {item["version"]: item for item in
             (await world.client.get("/v2/models/stats")).json()["model_stats"]}
    assert (found["v3"]["inference_count"], found["v2"]["inference_count"]) == (4, 2)
    assert found["v3"]["inference_stats"]["success"]["count"] == 2
    [one] = (await world.client.get("/v2/models/tickets/versions/v2/stats")).json()["model_stats"]
    assert (one["name"], one["version"], one["execution_count"]) == ("tickets", "v2", 1)


async def test_unknown_paths_of_the_plain_api_are_json_too(world: World) -> None:
    for method, path, status in (("GET", "/nonsense", 404), ("GET", PREDICT, 405),
                                 ("POST", "/v1/loops/no/predict", 404), ("GET", "/v1/loops/no", 404)):
        reply = await world.client.request(method, path)
        assert reply.status_code == status
        assert set(reply.json()) >= {"error", "code", "message"}


async def test_what_serves_is_shown(world: World) -> None:
    shown = (await world.client.get("/v1/loops/tickets")).json()
    assert (shown["name"], shown["version"], shown["epoch"], shown["labels"], shown["loaded"]) == \
        ("tickets", "v3", 5, ["long", "short"], ["v3", "v2"])
    assert [item["name"] for item in (await world.client.get("/v1/loops")).json()] == ["cold", "tickets"]


async def test_a_version_that_takes_over_in_the_middle_of_a_request_does_not_touch_it(world: World) -> None:
    four = version("v4", 50.0)
    real = world.predictor._batcher.score

    async def score_after_a_swap(model: Any, texts: Any) -> Any:
        world.loop.lineup = Lineup(four, {"v4": four}, 6)
        return await real(model, texts)

    world.predictor._batcher.score = score_after_a_swap  # type: ignore[method-assign]
    reply = await world.client.post(PREDICT, json={"text": "aaaa"})
    assert (reply.json()["predictions"][0]["version"], reply.json()["predictions"][0]["label"]) == ("v3", "long")
    reply = await world.client.post(PREDICT, json={"text": "aaaa"})
    assert (reply.json()["predictions"][0]["version"], reply.json()["predictions"][0]["label"]) == ("v4", "short")
