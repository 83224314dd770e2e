"""The Open Inference Protocol's requests and responses, against the official client's own codec."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Invalid
from services.inference import oip
from services.inference.core import Answer, TooLarge, answer_of
from services.inference.tensors import flatten, pack_bytes, pack_floats, unpack_bytes

texts_of = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def body(*inputs: dict[str, Any], binary: bytes = b"", **rest: Any) -> tuple[bytes, str | None]:
    """A request's body and its header."""
    head = json.dumps({"inputs": list(inputs), **rest}).encode()
    return head + binary, str(len(head)) if binary else None


def tensor(*texts: str, **rest: Any) -> dict[str, Any]:
    """The input ``text`` as JSON."""
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)} | rest


def answers(*rows: Sequence[float], labels: Sequence[str] = ("a", "b", "c")) -> list[Answer]:
    """Answers with these scores."""
    return [answer_of(f"pr_{i}", "v7", labels, np.array(row, np.float32), np.zeros(2, np.float32))
            for i, row in enumerate(rows)]


@given(st.lists(st.binary()))
def test_byte_tensors_survive_the_round_trip(items: list[bytes]) -> None:
    assert unpack_bytes(pack_bytes(items), "x") == items


@given(st.lists(st.binary(), min_size=1))
def test_byte_tensors_are_those_of_tritonclient(items: list[bytes]) -> None:
    from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

    array = np.array(items, dtype=object)
    assert serialize_byte_tensor(array).item() == pack_bytes(items)
    assert list(deserialize_bytes_tensor(pack_bytes(items))) == items


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_float_tensors_are_little_endian_and_survive_the_round_trip(values: list[float]) -> None:
    packed = pack_floats(np.array(values, np.float32))
    assert np.frombuffer(packed, "<f4").tolist() == values


@given(st.lists(st.binary(min_size=1), min_size=1), st.data())
def test_a_cut_byte_tensor_is_refused(items: list[bytes], data: st.DataObject) -> None:
    packed = pack_bytes(items)
    cut = packed[:data.draw(st.integers(1, len(packed) - 1))]
    boundaries = {len(pack_bytes(items[:n])) for n in range(len(items))}
    if len(cut) in boundaries:
        assert pack_bytes(unpack_bytes(cut, "x")) == cut
    else:
        with pytest.raises(Invalid, match="cut off"):
            unpack_bytes(cut, "x")


@given(st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_nested_data_is_read_row_by_row(data: Any) -> None:
    def leaves(item: Any) -> list[int]:
        return [leaf for part in item for leaf in leaves(part)] if isinstance(item, list) else [item]

    assert flatten([data]) == leaves(data)


@given(st.lists(texts_of, min_size=1, max_size=20), st.booleans(), st.booleans())
def test_json_and_binary_say_the_same(texts: list[str], as_binary: bool, column: bool) -> None:
    shape = [len(texts), 1] if column else [len(texts)]
    if as_binary:
        packed = pack_bytes([text.encode() for text in texts])
        data, header = body({"name": "text", "datatype": "BYTES", "shape": shape,
                             "parameters": {"binary_data_size": len(packed)}}, binary=packed)
    else:
        data, header = body(tensor(*texts, shape=shape, data=[[text] for text in texts] if column else texts))
    assert [ask.text for ask in oip.read(data, header).asks] == texts


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300).map(str), st.text(max_size=5)))
def test_no_body_is_worse_than_invalid(data: bytes, header: str | None) -> None:
    try:
        oip.read(data, header)
    except Invalid:
        return


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                     lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
                         st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs", "id",
                                          "outputs", "binary_data_size", "text", "classification"]), inner, max_size=5),
                     max_leaves=15)


@given(st.dictionaries(st.sampled_from(["inputs", "outputs", "parameters", "id"]), _json), _json)
def test_no_json_is_worse_than_invalid(request: dict[str, Any], extra: Any) -> None:
    for value in (request, {**request, "inputs": [tensor("a")]}, {"inputs": [tensor("a", parameters=extra)]},
                  {"inputs": [tensor("a", shape=extra)]}, {"inputs": [tensor("a", data=extra)]}):
        try:
            oip.read(json.dumps(value).encode(), None)
        except Invalid:
            continue


def test_json_and_binary_inputs_may_be_mixed() -> None:
    users = pack_bytes([b"u1", b"u2"])
    data, header = body(tensor("x", "y"), {"name": "user_id", "datatype": "BYTES", "shape": [2],
                                           "parameters": {"binary_data_size": len(users)}}, binary=users)
    assert [(ask.text, ask.user) for ask in oip.read(data, header).asks] == [("x", "u1"), ("y", "u2")]


def test_a_user_may_stand_in_the_parameters_or_once_for_all() -> None:
    data, header = body(tensor("x", "y"), parameters={"user_id": "u9", "priority": 3, "sequence_id": 1})
    assert [ask.user for ask in oip.read(data, header).asks] == ["u9", "u9"]
    data, header = body(tensor("x", "y"), {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u3"]})
    assert [ask.user for ask in oip.read(data, header).asks] == ["u3", "u3"]


def test_a_raw_body_is_one_text_without_its_length() -> None:
    request = oip.read("grüße".encode(), "0")
    assert [ask.text for ask in request.asks] == ["grüße"]
    assert all(wanted.binary for wanted in request.outputs)


def test_an_output_may_override_whether_it_is_binary() -> None:
    data, header = body(tensor("x"), parameters={"binary_data_output": True},
                        outputs=[{"name": "label"}, {"name": "scores", "parameters": {"binary_data": False}}])
    assert [(wanted.name, wanted.binary) for wanted in oip.read(data, header).outputs] == \
        [("label", True), ("scores", False)]


@pytest.mark.parametrize(("data", "header"), [
    (b"", None), (b"[]", None), (b"{}", None), (b'{"inputs":[]}', None), (b"\xff", None), (b"{", "1"),
    (b"[" * 20_000 + b"]" * 20_000, None), (b'{"inputs":[]}', "99"), (b'{"inputs":[]}', "-1"), (b"{}", "two"),
    (b"\xff", "0"), (b"{}", "9" * 5000), (b"{}", ""),
    body({"name": "text"}), body({"name": 3}), body(3),  # type: ignore[arg-type]
    body(tensor("a", name="other")), body(tensor("a"), tensor("b")), body(tensor("a", datatype="INT32")),
    body(tensor("a", shape=[2])), body(tensor("a", shape=[])), body(tensor("a", shape=[1, 1, 1])),
    body(tensor("a", shape=[-1])), body(tensor("a", shape=["1"])), body(tensor("a", shape=[0], data=[])),
    body(tensor("a", data=[3])), body(tensor("a", data="a")), body(tensor("a", parameters=[])),
    body(tensor("a", parameters={"shared_memory_region": "r"})), body(tensor("nul\0")),
    body(tensor("a", parameters={"binary_data_size": 3})),
    body({"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}),
    body({"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
         binary=b"\x01\0\0\0\xff"),
    body({"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
         binary=b"\x01\0\0\0ab"),
    body(tensor("a"), outputs=[{"name": {}}]), body(tensor("a"), outputs=[{"name": ["label"]}]),
    body(tensor("a"), outputs=[{"name": "scores"}] * 2),
    body(tensor("a", data=[[]] * 9 + ["a"])), body(tensor("a", data=["a"] * 9)),
    body({"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}, binary=b"\0" * 8),
    body(tensor("a"), outputs=[{"name": "nonsense"}]), body(tensor("a"), outputs="label"),
    body(tensor("a"), outputs=[{"name": "label", "parameters": {"classification": 2}}]),
    body(tensor("a"), outputs=[{"name": "scores", "parameters": {"binary_data": "yes"}}]),
    body(tensor("a"), id=7), body(tensor("a"), parameters={"user_id": []}),
    body(tensor("a", "b"), {"name": "user_id", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]}),
])
def test_what_is_wrong_is_invalid(data: bytes, header: str | None) -> None:
    with pytest.raises(Invalid):
        oip.read(data, header)


def test_too_many_texts_are_too_large() -> None:
    with pytest.raises(TooLarge):
        oip.read(*body(tensor(*["a"] * 257)))


def _written(outputs: Any = None, *, found: list[Answer], **rest: Any) -> tuple[dict[str, Any], bytes]:
    request = oip.read(*body(tensor(*["x"] * len(found)), **({"outputs": outputs} if outputs else {}), **rest))
    data, length = oip.write("loop", "v7", request, found)
    return json.loads(data[:length]), data[length:] if length is not None else b""


def test_a_response_names_model_version_and_id_and_gives_every_output() -> None:
    head, tail = _written(found=answers([0.25, 0.5, 0.25], [0.75, 0.25, 0]), id="req-1")
    assert (head["model_name"], head["model_version"], head["id"], head["parameters"]) == \
        ("loop", "v7", "req-1", {"version": "v7"})
    assert {output["name"]: (output["datatype"], output["shape"], output["data"]) for output in head["outputs"]} == {
        "label": ("BYTES", [2], ["b", "a"]), "probability": ("FP32", [2], [0.5, 0.75]),
        "scores": ("FP32", [2, 3], [0.25, 0.5, 0.25, 0.75, 0.25, 0]),
        "prediction_id": ("BYTES", [2], ["pr_0", "pr_1"]), "version": ("BYTES", [2], ["v7", "v7"])}
    assert tail == b""


def test_binary_outputs_follow_the_json_in_order() -> None:
    head, tail = _written([{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"},
                           {"name": "version", "parameters": {"binary_data": True}}],
                          found=answers([0.25, 0.5, 0.25]))
    assert [output.get("parameters", {}).get("binary_data_size") for output in head["outputs"]] == [12, None, 6]
    assert np.frombuffer(tail[:12], "<f4").tolist() == [0.25, 0.5, 0.25]
    assert unpack_bytes(tail[12:], "version") == [b"v7"]


def test_classification_gives_value_index_and_label_of_the_likeliest() -> None:
    head, _ = _written([{"name": "scores", "parameters": {"classification": 2}}],
                       found=answers([0.25, 0.5, 0.25], [0, 0, 1]))
    [output] = head["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["0.500000:1:b", "0.250000:0:a", "1.000000:2:c", "0.000000:0:a"]


def test_before_any_label_is_known_the_label_is_empty_and_there_are_no_scores() -> None:
    head, _ = _written(found=answers([], labels=()))
    values = {output["name"]: (output["shape"], output["data"]) for output in head["outputs"]}
    assert (values["label"], values["scores"], values["probability"]) == (([1], [""]), ([1, 0], []), ([1], [0.0]))
