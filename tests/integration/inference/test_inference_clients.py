"""The official clients of the Open Inference Protocol, unchanged: tritonclient and kserve."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.absent import skip_absent, skip_broken
from tests.support.services import ROOT

from .conftest import KEY, LOOP, Publisher, Running

TEXTS = ["where is my card", "grüße", "top up failed"]


@pytest.fixture
def running(serve: Callable[..., Running], publisher: Publisher) -> Running:
    """Inference that serves v2 and keeps v1."""
    publisher.champion()
    publisher.champion()
    inference = serve()
    inference.serves("v2")
    return inference


@pytest.fixture
def triton(running: Running) -> Iterator[Any]:
    import tritonclient.http as http

    client = http.InferenceServerClient(running.process.url.removeprefix("http://"), concurrency=4)
    yield client
    client.close()


def _input(texts: list[str], *, binary: bool, shape: list[int] | None = None) -> Any:
    import tritonclient.http as http

    shape = shape or [len(texts)]
    tensor = http.InferInput("text", shape, "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=np.object_).reshape(shape), binary_data=binary)
    return tensor


def _labels(result: Any) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy("label").tolist()]


def test_tritonclient_asks_health_metadata_configuration_and_statistics(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(LOOP)
    assert triton.is_model_ready(LOOP, "v1")
    assert not triton.is_model_ready("nobody")
    assert triton.get_server_metadata(headers=dict(KEY))["name"] == "ratchet"
    assert triton.get_model_metadata(LOOP, headers=dict(KEY))["versions"] == ["v1", "v2"]
    assert triton.get_model_metadata(LOOP, "v1", headers=dict(KEY))["name"] == LOOP
    assert triton.get_model_config(LOOP, headers=dict(KEY))["input"][0]["name"] == "text"
    assert triton.get_inference_statistics(headers=dict(KEY))["model_stats"][0]["name"] == LOOP
    assert triton.get_inference_statistics(LOOP, "v2", headers=dict(KEY))["model_stats"][0]["version"] == "v2"
    assert {item["version"] for item in triton.get_model_repository_index(headers=dict(KEY))} == {"v1", "v2"}
    triton.load_model(LOOP, headers=dict(KEY))


def test_tritonclient_infers_in_every_way_it_knows(triton: Any, publisher: Publisher) -> None:
    import tritonclient.http as http

    wanted = [publisher.scores("v2", text) for text in TEXTS]
    labels = [max(row, key=row.__getitem__) for row in wanted]
    outputs = [http.InferRequestedOutput("label", binary_data=False), http.InferRequestedOutput("scores")]
    results = [
        triton.infer(LOOP, [_input(TEXTS, binary=binary, shape=shape)], headers=dict(KEY), request_id="r1", **more)
        for binary in (True, False) for shape in ([3], [3, 1])
        for more in ({}, {"outputs": outputs}, {"request_compression_algorithm": "gzip"},
                     {"request_compression_algorithm": "deflate"}, {"response_compression_algorithm": "gzip"},
                     {"response_compression_algorithm": "deflate"}, {"priority": 2, "timeout": 10_000_000},
                     {"parameters": {"user_id": "u1"}}, {"sequence_id": 7, "sequence_start": True})]
    results.append(triton.async_infer(LOOP, [_input(TEXTS, binary=True)], headers=dict(KEY)).get_result())
    for result in results:
        assert _labels(result) == labels
        np.testing.assert_allclose(result.as_numpy("scores"), [list(row.values()) for row in wanted], atol=1e-4)
        response = result.get_response()
        assert (response["model_version"], response["parameters"]) == ("v2", {"version": "v2"})
    assert results[0].get_response()["id"] == "r1"
    assert results[0].as_numpy("prediction_id").shape == (3,)


def test_tritonclient_infers_with_an_older_version_and_by_classes(triton: Any, publisher: Publisher) -> None:
    import tritonclient.http as http

    result = triton.infer(LOOP, [_input(TEXTS, binary=True)], model_version="v1", headers=dict(KEY))
    assert result.get_response()["model_version"] == "v1"
    np.testing.assert_allclose(result.as_numpy("scores"),
                               [list(publisher.scores("v1", text).values()) for text in TEXTS], atol=1e-4)
    for binary in (True, False):
        output = http.InferRequestedOutput("scores", binary_data=binary, class_count=2)
        classes = triton.infer(LOOP, [_input(TEXTS[:1], binary=True)], outputs=[output],
                               headers=dict(KEY)).as_numpy("scores")
        wanted = publisher.scores("v2", TEXTS[0])
        first = classes[0][0].decode() if isinstance(classes[0][0], bytes) else classes[0][0]
        assert classes.shape == (1, 2)
        assert first.split(":")[2] == max(wanted, key=wanted.__getitem__)


def test_tritonclient_can_read_every_error(triton: Any) -> None:
    import tritonclient.http as http
    from tritonclient.utils import InferenceServerException

    good = _input(TEXTS, binary=True)
    wrong = http.InferInput("text", [1], "INT32")
    wrong.set_data_from_numpy(np.array([1], np.int32))
    calls: list[tuple[str, str, Callable[[], Any]]] = [
        ("404", "unknown loop", lambda: triton.infer("nobody", [good], headers=dict(KEY))),
        ("404", "v9", lambda: triton.infer(LOOP, [good], model_version="v9", headers=dict(KEY))),
        ("404", "unknown loop", lambda: triton.infer("a/b c", [good], headers=dict(KEY))),
        ("401", "no key", lambda: triton.infer(LOOP, [good])),
        ("400", "INT32", lambda: triton.infer(LOOP, [wrong], headers=dict(KEY))),
        ("400", "unexpected inference output", lambda: triton.infer(
            LOOP, [good], outputs=[http.InferRequestedOutput("nonsense")], headers=dict(KEY))),
        ("403", "operator", lambda: triton.unload_model(LOOP, headers=dict(KEY))),
        ("501", "restart", lambda: triton.unload_model(LOOP, headers={"Authorization": "Bearer operate-key"})),
        ("400", "no such loop", lambda: triton.load_model("nobody", headers=dict(KEY))),
        ("501", "config", lambda: triton.load_model(LOOP, config="{}", headers=dict(KEY))),
        ("501", "logging", lambda: triton.get_log_settings(headers=dict(KEY))),
        ("501", "trac", lambda: triton.get_trace_settings(LOOP, headers=dict(KEY))),
        ("501", "systemsharedmemory", lambda: triton.get_system_shared_memory_status(headers=dict(KEY))),
    ]
    for status, message, call in calls:
        with pytest.raises(InferenceServerException, match=message) as caught:
            call()
        assert caught.value.status() == status


def test_tritonclient_before_any_version_gets_an_empty_label_and_no_scores(serve: Callable[..., Running]) -> None:
    import tritonclient.http as http

    with http.InferenceServerClient(serve().process.url.removeprefix("http://")) as client:
        result = client.infer(LOOP, [_input(TEXTS, binary=True)], headers=dict(KEY))
        assert _labels(result) == ["", "", ""]
        assert result.as_numpy("scores").shape == (3, 0)
        assert result.get_response()["model_version"] == "v0"


@pytest.fixture(scope="session")
def kserve_python() -> Path:
    """An environment with the official kserve client, made once; its pins conflict with ours."""
    folder, lock = ROOT / ".cache" / "clients" / "kserve", ROOT / "tests" / "clients" / "kserve" / "requirements.txt"
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_bytes() == lock.read_bytes():
        return folder / "bin" / "python"
    uv = shutil.which("uv") or str(ROOT / ".venv-uv" / "bin" / "uv")
    if not os.access(uv, os.X_OK):
        skip_absent("uv is not here: it makes the environment of the kserve client")
    for command in ([uv, "venv", "--quiet", "--clear", "--python", "3.11", str(folder)],
                    [uv, "pip", "install", "--quiet", "--require-hashes", "--python", str(folder / "bin" / "python"),
                     "-r", str(lock)]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            skip_broken(f"the kserve client cannot be installed: {done.stderr.strip()[-500:]}")
    stamp.write_bytes(lock.read_bytes())
    return folder / "bin" / "python"


@pytest.mark.timeout(600)
def test_the_kserve_client_works_unchanged(running: Running, publisher: Publisher, kserve_python: Path) -> None:
    script = ROOT / "tests" / "clients" / "kserve" / "client.py"
    done = subprocess.run([str(kserve_python), str(script), running.process.url, LOOP, "infer-key"],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["live"], seen["ready"], seen["model_ready"], seen["unknown_ready"]) == (True, True, True, False)
    rows = [publisher.scores("v2", text) for text in TEXTS[:2]]
    for name in ("json", "binary", "binary_out", "all_binary", "dict"):
        one = seen[name]
        assert one["labels"] == [max(row, key=row.__getitem__) for row in rows], name
        np.testing.assert_allclose(one["scores"], [list(row.values()) for row in rows], atol=1e-4)
        assert (one["model"], one["version_header"], one["version_parameter"], one["same_id"]) == \
            (LOOP, "v2", "v2", True)
    assert seen["binary_out"]["outputs"] == ["label", "scores", "version"]
    assert seen["unknown"]["status"] == 404
    assert "unknown loop" in seen["unknown"]["message"]
    assert (seen["no_key"]["status"], "no key" in seen["no_key"]["message"]) == (401, True)
