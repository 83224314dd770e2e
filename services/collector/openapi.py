"""The OpenAPI document. The hot paths are no FastAPI endpoints, so their part is written from the types here."""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from schemas import posthog, segment

_REF = "#/components/schemas/{name}"
_KEY: list[dict[str, list[str]]] = [{"basic": []}, {"bearer": []}, {"header": []}, {"query": []}, {}]
_RESULT = {
    "type": "object", "required": ["index", "id", "status"],
    "properties": {
        "index": {"type": "integer"}, "id": {"type": "string"}, "status": {"enum": ["accepted", "rejected"]},
        "code": {"type": "string", "description": "Reason code of a rejected event."},
        "path": {"type": "string", "description": "Dotted path of the offending field."},
        "message": {"type": "string"}},
}
_ACCEPTED = {
    "type": "object", "required": ["success", "status", "accepted", "rejected", "results"],
    "properties": {"success": {"const": True}, "status": {"const": 1}, "accepted": {"type": "integer"},
                   "rejected": {"type": "integer"},
                   "results": {"type": "array", "items": {"$ref": _REF.format(name="Result")}}},
}
_ERROR = {
    "type": "object", "required": ["code", "message", "detail", "error", "msg", "success"],
    "properties": {**{name: {"type": "string"} for name in ("code", "message", "detail", "error", "msg", "path")},
                   "success": {"const": False}},
}
_BY_UUID = {
    "type": "object", "required": ["results"],
    "properties": {"results": {"type": "object", "additionalProperties": {
        "type": "object", "required": ["result"],
        "properties": {"result": {"enum": ["ok", "drop"]}, "details": {"type": "string"}}}}},
}
_CLOUDEVENT = {
    "type": "object", "required": ["specversion", "id", "source", "type"],
    "properties": {"specversion": {"const": "1.0"}, "id": {"type": "string"}, "source": {"type": "string"},
                   "type": {"type": "string"}, "time": {"type": "string", "format": "date-time"},
                   "subject": {"type": "string"}, "datacontenttype": {"type": "string"}, "data": {},
                   "userid": {"type": "string", "description": "Extension: the user who caused the event."}},
}
_CODES = {"400": "Wrong; do not send it again.", "401": "No such write key.", "413": "Too large.",
          "503": "Kafka is away; send it again after Retry-After seconds."}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version="1", routes=app.routes,
                         description="Takes events over HTTP and answers once Kafka has them on all in-sync replicas.")
    types = [segment.Call, posthog.Capture]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    found = schema.setdefault("components", {})
    found.setdefault("schemas", {}).update(
        components | {"Result": _RESULT, "Accepted": _ACCEPTED, "Error": _ERROR, "ResultsByUuid": _BY_UUID,
                      "CloudEvent": _CLOUDEVENT})
    found["securitySchemes"] = {
        "basic": {"type": "http", "scheme": "basic", "description": "The write key is the user name."},
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
        "query": {"type": "apiKey", "in": "query", "name": "writeKey"}}
    for route in app.routes:
        path = getattr(route, "path", "")
        if (body := _body_of(path)) and path not in schema["paths"]:
            answer = "ResultsByUuid" if path.startswith("/i/v1/") else "Accepted"
            schema["paths"][path] = {"post": _operation(path, body, answer)}
    app.openapi_schema = schema
    return schema


def _body_of(path: str) -> dict[str, Any] | None:
    call, capture = {"$ref": _REF.format(name="Call")}, {"$ref": _REF.format(name="Capture")}
    event = {"$ref": _REF.format(name="CloudEvent")}
    if path == "/events":
        return {"application/cloudevents+json": {"schema": event},
                "application/cloudevents-batch+json": {"schema": {"type": "array", "items": event}},
                "application/json": {"schema": {}}}
    if path.startswith(("/v1/projects", "/health")):
        return None
    if path.startswith(("/v1/", "/beacon/")):
        batch = {"type": "object", "required": ["batch"], "properties": {
            "batch": {"type": "array", "items": call}, "sentAt": {"type": "string"}, "writeKey": {"type": "string"},
            "context": {"type": "object"}}}
        return {"application/json": {"schema": batch if path.rsplit("/")[-1] in ("batch", "import", "b") else call}}
    if path.startswith(("/batch", "/i/", "/e", "/capture")):
        batch = {"type": "object", "required": ["batch"], "properties": {
            "batch": {"type": "array", "items": capture}, "api_key": {"type": "string"},
            "sent_at": {"type": "string"}}}
        return {"application/json": {"schema": {"anyOf": [batch, capture]}}}
    return None


def _operation(path: str, content: dict[str, Any], answer: str) -> dict[str, Any]:
    def response(what: str, name: str) -> dict[str, Any]:
        return {"description": what, "content": {"application/json": {"schema": {"$ref": _REF.format(name=name)}}}}

    return {
        "summary": f"Send events ({path})", "operationId": "post" + path.replace("/", "_"), "security": _KEY,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": response("Every event is stored, or is a dead letter and named as rejected.", answer),
                      **{code: response(what, "Error") for code, what in _CODES.items()}}}
