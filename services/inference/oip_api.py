"""The Open Inference Protocol V2 REST: one handler per path, errors as ``{"error": ...}``."""

import re
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import Invalid
from services.inference import oip
from services.inference.access import Access
from services.inference.answers import Unsupported, answered, json
from services.inference.bodies import Bodies, compressed
from services.inference.predictor import Predictor
from services.inference.serving import Served

# The model's name may hold slashes (tritonclient sends them as they are), so the path is read from its end.
_MODEL_PATH = re.compile(
    r"(?P<model>.+?)(?:/versions/(?P<version>[^/]+))?(?:/(?P<action>infer|ready|config|stats|trace/setting))?")
_METHODS = {"infer": "POST", "ready": "GET", "config": "GET", "stats": "GET", None: "GET"}
_HEADER_LENGTH = "inference-header-content-length"


class OipApi:
    """The handlers under ``/v2``."""

    def __init__(self, predictor: Predictor, access: Access, bodies: Bodies, *, max_batch: int) -> None:
        self._predictor, self._access, self._bodies, self._max_batch = predictor, access, bodies, max_batch

    async def handle(self, request: Request) -> Response:
        """Answer anything under ``/v2``."""
        found = _MODEL_PATH.fullmatch(request.url.path.removeprefix("/v2/models/").strip("/"))
        name = found["model"] if found and found["action"] == "infer" else None
        return await answered(self._route, request, "oip", name if name in self._predictor.loops else None)

    async def _route(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix("/v2").strip("/")
        method = request.method
        match path.split("/"):
            case [""]:
                return _on("GET", method, lambda: json({
                    "name": "ratchet", "version": _version(), "extensions": oip.EXTENSIONS}))
            case ["health", "live"]:
                return _on("GET", method, lambda: json({"live": True, "ready": True}))
            case ["health", "ready"]:
                return _on("GET", method, self._server_ready)
            case ["models"]:
                self._access.caller(request)
                return _on("GET", method, lambda: json({"models": sorted(self._predictor.loops)}))
            case ["models", "stats"]:
                self._access.caller(request)
                return _on("GET", method, lambda: json({"model_stats": _stats(
                    served for name in sorted(self._predictor.loops) for served in self._loaded(name))}))
            case ["models", *_]:
                return await self._model(request, path.removeprefix("models/"))
            case ["repository", *rest]:
                return await self._repository(request, rest)
            case ["logging" | "trace" | "systemsharedmemory" | "cudasharedmemory", *_]:
                raise Unsupported(f"this server has no {path.split('/')[0]}", code="unsupported")
            case _:
                raise HTTPException(404, f"unknown path {request.url.path}")

    def _server_ready(self) -> Response:
        ready = all(loop.lineup is not None for loop in self._predictor.loops.values())
        return json({"live": True, "ready": ready}, status=200 if ready else 503)

    async def _model(self, request: Request, path: str) -> Response:
        found = _MODEL_PATH.fullmatch(path)
        if found is None:
            raise HTTPException(404, f"unknown path {request.url.path}")
        model, version, action = found["model"], found["version"], found["action"]
        if action == "trace/setting":
            raise Unsupported("this server has no tracing", code="unsupported")
        if request.method != _METHODS[action]:
            raise HTTPException(405, f"{request.method} is not allowed here; {_METHODS[action]} is")
        if action == "ready":  # health is open to all
            return self._model_ready(model, version)
        project = self._access.caller(request)
        if action == "infer":
            return await self._infer(request, model, version, project)
        served = self._predictor.version(model, version)
        if action == "config":
            return json(oip.config(model, served.labels, self._max_batch))
        if action == "stats":
            return json({"model_stats": _stats([served] if version else self._loaded(model))})
        return json(oip.metadata(model, [served.version for served in self._loaded(model)]))

    def _model_ready(self, model: str, version: str | None) -> Response:
        if self._predictor.loop(model).lineup is None:
            return json({"name": model, "ready": False}, status=503)
        self._predictor.version(model, version)
        return json({"name": model, "ready": True})

    async def _infer(self, request: Request, model: str, version: str | None, project: str) -> Response:
        # The version is fixed here: whatever is promoted from now on, this request is answered by this one.
        served = self._predictor.version(model, version)
        wanted = await self._bodies.read(request, lambda body: oip.read(body, request.headers.get(_HEADER_LENGTH)))
        answers = await self._predictor.predict(served, wanted.asks, project)
        plain, header_length = oip.write(model, served.version, wanted, answers)
        data, encoding = compressed(plain, request.headers.get("accept-encoding", ""))
        headers = {"x-model-version": served.version}
        if header_length is not None:
            headers["Inference-Header-Content-Length"] = str(header_length)
        if encoding is not None:
            headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
        kind = "application/json" if header_length is None else "application/octet-stream"
        return Response(data, 200, headers, media_type=kind)

    def _loaded(self, name: str) -> list[Served]:
        lineup = self._predictor.loop(name).lineup
        return sorted(lineup.loaded.values(), key=lambda served: int(served.version[1:])) if lineup else []

    async def _repository(self, request: Request, rest: list[str]) -> Response:
        if request.method != "POST":
            raise HTTPException(405, f"{request.method} is not allowed here; POST is")
        match rest:
            case ["index"]:
                self._access.caller(request)
                return json(self._index((await self._bodies.read(request, _object)).get("ready") is True))
            case ["models", *name, "load"] if name:
                self._access.caller(request)
                return self._load("/".join(name), (await self._bodies.read(request, _object)).get("parameters"))
            case ["models", *name, "unload"] if name:
                self._access.operator(request)
                self._known("/".join(name), "unload")
                raise Unsupported("a loop is loaded as long as its file is declared; take the file away and restart",
                                  code="unsupported")
            case _:
                raise HTTPException(404, f"unknown path {request.url.path}")

    def _index(self, only_ready: bool) -> list[dict[str, str]]:
        listed = []
        for name in sorted(self._predictor.loops):
            loaded = self._loaded(name)
            listed += [{"name": name, "version": served.version, "state": "READY", "reason": ""} for served in loaded]
            if not loaded and not only_ready:
                listed.append({"name": name, "state": "LOADING", "reason": self._predictor.loops[name].degraded})
        return listed

    def _load(self, name: str, parameters: object) -> Response:
        self._known(name, "load")
        if parameters:
            raise Unsupported("versions come from the registry only: config and files cannot be sent",
                              code="unsupported")
        self._predictor.version(name)
        return json({})

    def _known(self, name: str, what: str) -> None:
        if name not in self._predictor.loops:
            # 400 as the reference server answers, not 404.
            raise Invalid(f"failed to {what} '{name}': no such loop is declared", code="unknown_model")


def _on(allowed: str, method: str, answer: Callable[[], Response]) -> Response:
    if method not in (allowed, "HEAD"):
        raise HTTPException(405, f"{method} is not allowed here; {allowed} is")
    return answer()


def _stats(versions: Iterable[Served]) -> list[dict[str, object]]:
    return [served.stats.shown(served.loop, served.version) for served in versions]


def _object(data: bytes) -> dict[str, object]:
    if not data.strip():
        return {}
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Invalid(f"the request is not a JSON object: {exc}", code="not_json") from exc


def _version() -> str:
    try:
        return package_version("ratchet")
    except PackageNotFoundError:
        return "0"
