"""Requests and responses of the Open Inference Protocol V2 REST, with its binary and classification extensions. Pure.

A loop is a model with one input, ``text`` BYTES [-1], and per text the outputs ``label``, ``probability``, ``scores``,
``prediction_id`` and ``version``. A caller may add the user by the request parameter ``user_id``, or by a second input
of that name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from schemas.errors import Invalid
from services.inference.core import Answer, Ask, check_count, check_text, likeliest
from services.inference.tensors import flatten, pack_bytes, pack_floats, unpack_bytes

PLATFORM = "ratchet_text_classification"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]
OUTPUTS: dict[str, tuple[str, list[int]]] = {
    "label": ("BYTES", [-1]),
    "probability": ("FP32", [-1]),
    "scores": ("FP32", [-1, -1]),
    "prediction_id": ("BYTES", [-1]),
    "version": ("BYTES", [-1]),
}
_INPUTS = ("text", "user_id")


@dataclass(frozen=True)
class Wanted:
    """One output that the caller wants.

    Attributes:
        n_classes: With more than 0 the scores come as ``"value:index:label"`` of the likeliest so many.
    """

    name: str
    binary: bool = False
    n_classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request, read and checked.

    Attributes:
        id: Echoed in the response; None when there was none.
    """

    id: str | None
    asks: tuple[Ask, ...]
    outputs: tuple[Wanted, ...]


def read(body: bytes, header_length: str | None) -> InferRequest:
    """Read the body of an infer request.

    Args:
        body: Uncompressed.
        header_length: The ``Inference-Header-Content-Length`` header: the length of the JSON before the binary
            tensors; ``"0"`` means that the whole body is the one input; None that it is JSON throughout.

    Raises:
        Invalid: What and where.
        TooLarge: Too many texts, or one is too long.
    """
    if header_length is None:
        return _read_json(body, b"")
    # Python reads no number of more than 4,300 digits.
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12 \
            or int(header_length) > len(body):
        raise Invalid(f"Inference-Header-Content-Length {header_length[:40]!r} is not a length within the body of "
                      f"{len(body)} bytes", code="wrong_header")
    length = int(header_length)
    if length == 0:
        # A raw request: as the only element, without its length in front.
        ask = Ask(check_text(_decoded(body, "text"), "text"))
        return InferRequest(None, (ask,), tuple(Wanted(name, binary=True) for name in OUTPUTS))
    return _read_json(body[:length], body[length:])


def _read_json(text: bytes, binary: bytes) -> InferRequest:
    try:
        request = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Invalid(f"the request is not JSON: {exc}", code="not_json") from exc
    if not isinstance(request, dict):
        raise Invalid("the request is a JSON object", code="not_an_object")
    parameters = _object(request, "parameters")
    tensors = _inputs(request, binary)
    texts = [check_text(_decoded(item, "inputs.text"), "inputs.text") for item in tensors["text"]]
    users = [_decoded(item, "inputs.user_id") for item in tensors.get("user_id", [])] or [_user(parameters)]
    if len(users) not in (1, len(texts)):
        raise Invalid(f"input 'user_id' has {len(users)} elements for {len(texts)} texts", code="wrong_shape")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise Invalid("id is a string", code="wrong_type", path="id")
    asks = tuple(Ask(text, users[i % len(users)]) for i, text in enumerate(texts))
    return InferRequest(identity, asks, _outputs(request, _flag(parameters, "binary_data_output")))


def _inputs(request: dict[str, Any], binary: bytes) -> dict[str, list[object]]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise Invalid("inputs is a list with the input 'text'", code="missing_field", path="inputs")
    found: dict[str, list[object]] = {}
    for i, tensor in enumerate(inputs):
        path = f"inputs.{i}"
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise Invalid(f"{path} is an object with a name", code="wrong_type", path=path)
        name = tensor["name"]
        if name not in _INPUTS:
            raise Invalid(f"unexpected inference input '{name}'; the inputs are 'text' and, if wanted, 'user_id'",
                          code="unknown_input", path=path)
        if name in found:
            raise Invalid(f"input '{name}' stands twice", code="duplicate_input", path=path)
        found[name], binary = _elements(tensor, name, binary)
    if binary:
        raise Invalid(f"{len(binary)} bytes follow the last binary tensor", code="trailing_bytes")
    if "text" not in found:
        raise Invalid("the input 'text' is missing", code="missing_input", path="inputs")
    return found


def _elements(tensor: dict[str, Any], name: str, binary: bytes) -> tuple[list[object], bytes]:
    """The elements of one input, and the binary data that follows it."""
    if tensor.get("datatype") != "BYTES":
        raise Invalid(f"inference input '{name}' data-type is '{tensor.get('datatype')}', but it is BYTES",
                      code="wrong_datatype", path=f"inputs.{name}.datatype")
    n = _n_elements(tensor.get("shape"), name)
    parameters = _object(tensor, "parameters")
    if "shared_memory_region" in parameters:
        raise Invalid(f"input '{name}': shared memory is not supported", code="unsupported")
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in tensor:
            raise Invalid(f"input '{name}' has neither data nor binary_data_size", code="missing_field",
                          path=f"inputs.{name}.data")
        elements = flatten(tensor["data"], at_most=n)
    else:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) or "data" in tensor:
            raise Invalid(f"input '{name}': binary_data_size {size!r} does not fit the {len(binary)} bytes that are "
                          "left, or data is given as well", code="wrong_size", path=f"inputs.{name}.parameters")
        elements = [*unpack_bytes(binary[:size], f"inputs.{name}", at_most=n)]
        binary = binary[size:]
    if len(elements) != n:
        raise Invalid(f"input '{name}' has {len(elements)} elements, but its shape {tensor['shape']} means {n}",
                      code="wrong_shape", path=f"inputs.{name}.shape")
    return elements, binary


def _n_elements(shape: object, name: str) -> int:
    if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape) \
            or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise Invalid(f"input '{name}' has the shape {shape}; it is [n] or [n, 1] with n above 0", code="wrong_shape",
                      path=f"inputs.{name}.shape")
    n: int = shape[0]
    check_count(n)
    return n


def _outputs(request: dict[str, Any], binary_by_default: bool) -> tuple[Wanted, ...]:
    outputs = request.get("outputs")
    if outputs is None or outputs == []:
        return tuple(Wanted(name, binary=binary_by_default) for name in OUTPUTS)
    if not isinstance(outputs, list):
        raise Invalid("outputs is a list", code="wrong_type", path="outputs")
    found: list[Wanted] = []
    for i, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise Invalid(f"unexpected inference output {name!r}; the outputs are {', '.join(OUTPUTS)}",
                          code="unknown_output", path=f"outputs.{i}")
        if any(name == wanted.name for wanted in found):
            # Else 16 MB of names ask for terabytes of scores.
            raise Invalid(f"output {name!r} stands twice", code="duplicate_output", path=f"outputs.{i}")
        parameters = _object(output, "parameters")
        n_classes = parameters.get("classification", 0)
        if isinstance(n_classes, bool) or not isinstance(n_classes, int) or n_classes < 0:
            raise Invalid(f"classification {n_classes!r} is not a number of classes", code="wrong_type",
                          path=f"outputs.{i}.parameters.classification")
        if n_classes and name != "scores":
            raise Invalid(f"output {name!r} cannot be classified; 'scores' can", code="wrong_output",
                          path=f"outputs.{i}")
        if "shared_memory_region" in parameters:
            raise Invalid("shared memory is not supported", code="unsupported", path=f"outputs.{i}")
        found.append(Wanted(name, _flag(parameters, "binary_data", binary_by_default), n_classes))
    return tuple(found)


def _object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{name} is an object", code="wrong_type", path=name)
    return value


def _flag(parameters: dict[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Invalid(f"{name} is true or false", code="wrong_type", path=f"parameters.{name}")
    return value


def _user(parameters: dict[str, Any]) -> str:
    value = parameters.get("user_id")
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise Invalid("user_id is a string", code="wrong_type", path="parameters.user_id")
    return "" if value is None else str(value)


def _decoded(item: object, path: str) -> str:
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError as exc:
            raise Invalid(f"{path} is not UTF-8: {exc}", code="not_utf8", path=path) from exc
    if not isinstance(item, str):
        raise Invalid(f"{path} holds an element that is no string", code="wrong_type", path=path)
    return item


def write(model: str, version: str, request: InferRequest, answers: Sequence[Answer]) -> tuple[bytes, int | None]:
    """Return the body of the response, and the length of its JSON when binary tensors follow it."""
    tail: list[bytes] = []
    outputs = []
    for wanted in request.outputs:
        datatype, shape, values = _values(wanted, answers)
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": shape}
        if wanted.binary:
            data = pack_floats(values) if isinstance(values, np.ndarray) else \
                pack_bytes([item.encode("utf-8", "surrogatepass") for item in values])
            output["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            output["data"] = values.ravel().tolist() if isinstance(values, np.ndarray) else values
        outputs.append(output)
    response: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        response["id"] = request.id
    # The kserve client drops model_version, so the version stands in the parameters as well.
    response |= {"parameters": {"version": version}, "outputs": outputs}
    head = msgspec.json.encode(response)
    return b"".join([head, *tail]), len(head) if tail else None


def _values(wanted: Wanted, answers: Sequence[Answer]) -> tuple[str, list[int], "np.ndarray | list[str]"]:
    n = len(answers)
    match wanted.name:
        case "label":
            return "BYTES", [n], [answer.label or "" for answer in answers]
        case "probability":
            return "FP32", [n], np.array([answer.probability for answer in answers], np.float32)
        case "prediction_id":
            return "BYTES", [n], [answer.prediction_id for answer in answers]
        case "version":
            return "BYTES", [n], [answer.version for answer in answers]
        case _ if wanted.n_classes:
            classes = [_classes(answer, wanted.n_classes) for answer in answers]
            return "BYTES", [n, len(classes[0])], [item for row in classes for item in row]
        case _:
            rows = np.stack([answer.scores for answer in answers])
            return "FP32", list(rows.shape), rows


def _classes(answer: Answer, n: int) -> list[str]:
    return [f"{answer.scores[i]:f}:{i}:{answer.labels[i]}" for i in likeliest(answer.labels, answer.scores, n)]


def metadata(model: str, versions: Sequence[str]) -> dict[str, object]:
    """Return a model's metadata."""
    return {
        "name": model, "versions": list(versions), "platform": PLATFORM,
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in OUTPUTS.items()],
    }


def config(model: str, labels: Sequence[str], max_batch: int) -> dict[str, object]:
    """Return a model's configuration, in the words of the model configuration extension."""
    kinds = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
    return {
        "name": model, "platform": PLATFORM, "backend": "ratchet", "max_batch_size": 0,
        "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1], "optional": False},
                  {"name": "user_id", "data_type": "TYPE_STRING", "dims": [-1], "optional": True}],
        "output": [{"name": name, "data_type": kinds[kind], "dims": shape} for name, (kind, shape) in OUTPUTS.items()],
        "instance_group": [], "dynamic_batching": {"preferred_batch_size": [max_batch]},
        "parameters": {"labels": {"string_value": msgspec.json.encode(list(labels)).decode()}},
    }
