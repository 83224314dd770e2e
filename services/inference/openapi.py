"""The OpenAPI document. The hot path is no FastAPI endpoint, so its part is written here."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.inference.core import MAX_INPUTS, MAX_TEXT_CHARS

_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"basic": []}, {"header": []}]
_INPUT = {
    "type": "object",
    "description": "The text stands under the name that the loop file gives it, or under `text`.",
    "properties": {"text": {"type": "string", "maxLength": MAX_TEXT_CHARS},
                   "user_id": {"type": ["string", "integer"],
                               "description": "Who it is for; only a pseudonym of it is kept."}},
    "additionalProperties": True,
}
_INPUTS = {
    "type": "object", "required": ["inputs"],
    "properties": {"inputs": {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS,
                              "items": {"$ref": "#/components/schemas/Input"}}},
}
_PREDICTIONS = {
    "type": "object", "required": ["predictions"],
    "properties": {"predictions": {"type": "array", "items": {
        "type": "object", "required": ["prediction_id", "label", "scores", "version"],
        "properties": {
            "prediction_id": {"type": "string", "description": "What feedback names."},
            "label": {"type": ["string", "null"], "description": "The likeliest; null while no label is known."},
            "scores": {"type": "object", "additionalProperties": {"type": "number"},
                       "description": "The probability of each label."},
            "version": {"type": "string"}}}}},
}
_ERROR = {
    "type": "object", "required": ["error", "code", "message"],
    "properties": {name: {"type": "string"} for name in ("error", "code", "message", "path")},
}
_LOOP = {
    "type": "object", "required": ["name", "version", "ready"],
    "properties": {"name": {"type": "string"}, "version": {"type": ["string", "null"]}, "ready": {"type": "boolean"},
                   "n_examples": {"type": "integer"}, "labels": {"type": "array", "items": {"type": "string"}}},
    "additionalProperties": True,
}
_WRONG = {"400": "Wrong; do not send it again.", "408": "It did not arrive in time.", "413": "Too large."}
_CODES = {"401": "No such key.", "404": "No such loop.",
          "503": "Still loading, or too busy; send it again after Retry-After seconds."}
_LOOP_NAME = {"name": "loop", "in": "path", "required": True, "schema": {"type": "string"}}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes,
                         description="Answers predictions. Under /v2 it speaks the Open Inference Protocol V2, whose "
                                     "own document describes it.")
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(
        {"Input": _INPUT, "Inputs": _INPUTS, "Predictions": _PREDICTIONS, "Loop": _LOOP, "Error": _ERROR})
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {"type": "http", "scheme": "basic", "description": "The key is the user name."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    schema["paths"] |= {
        "/v1/loops/{loop}/predict": {"post": _operation("predict", "Predict for one input or several.", {
            "parameters": [_LOOP_NAME],
            "requestBody": {"required": True, "content": {"application/json": {
                "schema": {"anyOf": [_of("Inputs"), _of("Input")]}}}}}, _of("Predictions"), _WRONG | _CODES)},
        "/v1/loops": {"get": _operation("loops", "What every loop serves.", {}, {"type": "array", "items": _of("Loop")},
                                        {"401": _CODES["401"]})},
        "/v1/loops/{loop}": {"get": _operation("loop", "What one loop serves, and which labels it knows.", {
            "parameters": [_LOOP_NAME]}, _of("Loop"), {code: _CODES[code] for code in ("401", "404")})},
    }
    app.openapi_schema = schema
    return schema


def _operation(name: str, summary: str, parts: dict[str, Any], answer: dict[str, Any],
               errors: dict[str, str]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "security": _KEY, **parts, "responses": {
        "200": _response("Answered.", answer),
        **{code: _response(what, _of("Error")) for code, what in sorted(errors.items())}}}


def _response(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _of(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
