"""The plain JSON API: predict, and what serves."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import Invalid
from services.inference.access import Access
from services.inference.answers import answered, json
from services.inference.bodies import Bodies
from services.inference.core import Answer, Ask, asks_of
from services.inference.predictor import Predictor
from services.inference.serving import COLD, ServedLoop


class PlainApi:
    """The handlers under ``/v1``; plain Starlette ones, since FastAPI's machinery costs 100 us and more a request."""

    def __init__(self, predictor: Predictor, access: Access, bodies: Bodies) -> None:
        self._predictor, self._access, self._bodies = predictor, access, bodies

    async def predict(self, request: Request) -> Response:
        """``POST /v1/loops/{loop}/predict``."""
        name = request.path_params["loop"]
        return await answered(self._predict, request, "plain", name if name in self._predictor.loops else None)

    async def _predict(self, request: Request) -> Response:
        project = self._access.caller(request)
        loop = self._predictor.loop(request.path_params["loop"])
        asks = await self._bodies.read(request, lambda body: _asks(body, loop.field))
        served = self._predictor.version(loop.name)
        answers = await self._predictor.predict(served, asks, project)
        return json({"predictions": [_shown(answer) for answer in answers]},
                    headers={"x-model-version": served.version})

    async def loops(self, request: Request) -> Response:
        """``GET /v1/loops``."""
        return await answered(self._loops, request, "plain", None)

    async def _loops(self, request: Request) -> Response:
        self._access.caller(request)
        return json([_summary(loop) for _, loop in sorted(self._predictor.loops.items())])

    async def loop(self, request: Request) -> Response:
        """``GET /v1/loops/{loop}``."""
        return await answered(self._loop, request, "plain", None)

    async def _loop(self, request: Request) -> Response:
        self._access.caller(request)
        loop = self._predictor.loop(request.path_params["loop"])
        body = _summary(loop)
        lineup = loop.lineup
        manifest = lineup.current.manifest if lineup else None
        body |= {
            "labels": list(lineup.current.labels) if lineup else [],
            "examples": [[part.first, part.last] for part in manifest.examples] if manifest else [],
            "generation": manifest.generation if manifest else 0,
            "method": manifest.method if manifest else None,
            "encoder": lineup.current.encoder.digest if lineup else None,
            "loaded": list(lineup.loaded) if lineup else [],
            "refused": dict(loop.refused),
        }
        return json(body)


def _asks(body: bytes, field: str) -> list[Ask]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Invalid(f"the body is not JSON: {exc}", code="not_json") from exc
    return asks_of(decoded, field)


def _summary(loop: ServedLoop) -> dict[str, Any]:
    lineup = loop.lineup
    manifest = lineup.current.manifest if lineup else None
    return {
        "name": loop.name,
        "version": lineup.current.version if lineup else None,
        "ready": lineup is not None,
        "epoch": lineup.epoch if lineup else 0,
        "n_examples": manifest.n_examples if manifest else 0,
        "n_labels": len(lineup.current.labels) if lineup else 0,
        "n_swaps": loop.n_swaps,
        "predictions_lost": loop.n_lost,
        "degraded": loop.degraded,
        "cold": lineup is not None and lineup.current.version == COLD,
    }


def _shown(answer: Answer) -> dict[str, Any]:
    scores = {label: round(prob, 6) for label, prob in zip(answer.labels, answer.scores.tolist(), strict=True)}
    return {"prediction_id": answer.prediction_id, "label": answer.label, "scores": scores,
            "version": answer.version}
