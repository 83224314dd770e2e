"""Runs the official kserve client, unchanged, against an inference server; prints what it saw as JSON.

Runs in an environment of its own (``requirements.txt`` beside it); argument: base URL, model, key.
"""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request(model: str, texts: list[str], *, binary: bool, outputs: "list[RequestedOutput] | None" = None,
            parameters: "dict[str, bool] | None" = None) -> InferRequest:
    """A request for some texts, their data as JSON or binary."""
    tensor = InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), binary_data=binary)
    return InferRequest(model, [tensor], request_id="r-7", request_outputs=outputs, parameters=parameters)


async def main(base: str, model: str, key: str) -> dict[str, object]:
    """Use every call that the client has for this protocol."""
    seen: dict[str, object] = {}
    auth = {"Authorization": f"Bearer {key}"}
    texts = ["where is my card", "grüße"]
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=30)) as client:
        seen["live"] = await client.is_server_live(base)
        seen["ready"] = await client.is_server_ready(base)
        seen["model_ready"] = await client.is_model_ready(base, model)
        seen["unknown_ready"] = await client.is_model_ready(base, "nobody")
        everything = [RequestedOutput(name, {"binary_data": True}) for name in ("label", "scores", "version")]
        variants = {
            "json": request(model, texts, binary=False),
            "binary": request(model, texts, binary=True),
            "binary_out": request(model, texts, binary=True, outputs=everything),
            "all_binary": request(model, texts, binary=True, parameters={"binary_data_output": True}),
            "dict": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": texts}]},
        }
        for name, data in variants.items():
            headers: dict[str, str] = {}
            answer = await client.infer(base, data, model_name=model, headers=dict(auth), response_headers=headers)
            outputs = {output.name: output for output in answer.outputs}
            labels = [item.decode() if isinstance(item, bytes) else item
                      for item in outputs["label"].as_numpy().ravel().tolist()]
            seen[name] = {"model": answer.model_name, "labels": labels, "version_header": headers["x-model-version"],
                          "version_parameter": (answer.parameters or {}).get("version"),
                          "same_id": isinstance(data, dict) or answer.id == data.id,
                          "scores": outputs["scores"].as_numpy().tolist(), "outputs": sorted(outputs)}
        for name, model_name, headers in (("unknown", "nobody", auth), ("no_key", model, {})):
            try:
                await client.infer(base, request(model_name, texts, binary=False), model_name=model_name,
                                   headers=dict(headers))
                seen[name] = "no error"
            except httpx.HTTPStatusError as exc:
                seen[name] = {"status": exc.response.status_code, "message": str(exc)}
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:4]))))
