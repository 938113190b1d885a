"""The HTTP interface of the service: paths, documents, errors."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Query, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from timesformer import __version__
from timesformer.datasets.transforms.sampling import sampler_names
from timesformer.errors import UserError
from timesformer.serving.admission import route_with
from timesformer.serving.body_limit import BodyLimit
from timesformer.serving.service import MAX_VIEWS, OverloadedError, PredictionService
from timesformer.web.uploads import RefusedError, private_file

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1
_FORM_BYTES = 2**16  # of a request besides the video
_COPIED_BYTES = 2**20  # of a video, at once


class Parameters(BaseModel):
    """Options of a prediction, in the query."""

    top_k: int = Field(5, ge=1, le=1000, description="Number of classes")
    views: int | None = Field(None, ge=1, le=MAX_VIEWS, description="Clips along the time")
    sampler: str | None = Field(None, description="Sampler of frames, see /v1/model")


class ClassProbability(BaseModel):
    name: str = Field(alias="class", description="Name of the class")
    probability: float = Field(ge=0, le=1, description="Calibrated, if the checkpoint has a temperature")


class Answer(BaseModel):
    """The prediction for a video."""

    top: list[ClassProbability] = Field(description="The most probable classes, in descending order")
    num_views: int = Field(description="Clips of the video that were averaged")
    seconds: float = Field(description="Time that reading and computing took, with waiting")
    used: float = Field(description="Seconds of the video between the first and last frames of its views")
    duration: float = Field(description="Seconds of the whole video, 0 if unknown")
    note: str = Field(description="How much of a long video was used, empty for others: send more views, or parts")


class Problem(BaseModel):
    detail: str = Field(description="What was found, and what is expected")


class ModelInformation(BaseModel):
    """The model that answers."""

    name: str = Field(description="MODEL.MODEL_NAME")
    fingerprint: str = Field(description="Hash of weights and class names")
    classes: list[str]
    frames: int = Field(description="Frames of a clip")
    crop: int = Field(description="Side of a clip in pixels")
    views: int = Field(description="Views of a video, unless a request sets them")
    samplers: list[str] = Field(description="Samplers that a request may set")
    version: str = Field(description="Version of this service")


class Status(BaseModel):
    status: str


def make_api(service: PredictionService, api_key: str, timeout: float) -> FastAPI:
    """Makes the application.

    Args:
        service: answers the requests; closed at the end.
        api_key: expected in the header X-API-Key of /v1 requests; "" for none.
        timeout: seconds that a prediction may take, from the start of the request, with upload and waiting.
    """

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        api.state.is_ready = True
        yield
        api.state.is_ready = False
        await asyncio.to_thread(service.close)

    api = FastAPI(
        title="Video action recognition",
        version=__version__,
        description="Predicts the class of a video with a video transformer.",
        lifespan=lifespan,
        license_info={"name": "Apache-2.0"},
    )
    api.add_middleware(BodyLimit, limit=service.limits.megabytes * 2**20 + _FORM_BYTES)

    @asynccontextmanager
    async def admit(request: Request) -> AsyncIterator[None]:
        given = dict(request.scope["headers"]).get(b"x-api-key", b"")
        if api_key and not hmac.compare_digest(given, api_key.encode()):
            raise _HttpError(401, "the header X-API-Key is missing or is not the key of this service")
        if request.method != "POST":
            yield
            return
        try:
            with service.admitted():
                async with asyncio.timeout(timeout):
                    yield
        except OverloadedError as error:
            raise _HttpError(503, str(error), {"Retry-After": str(_RETRY_SECONDS)}) from error
        except TimeoutError as error:
            raise _HttpError(504, f"the request takes longer than {timeout:g} seconds, with its upload") from error

    documented: dict[str, Any] = {}
    if api_key:
        header = APIKeyHeader(name="X-API-Key", auto_error=False)
        documented = {"dependencies": [Security(header)], "responses": {401: {"model": Problem}}}
    router = APIRouter(prefix="/v1", tags=["prediction"], route_class=route_with(admit), **documented)

    @api.exception_handler(_HttpError)
    async def answer_problem(_: Request, error: _HttpError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, headers=error.headers)

    @api.exception_handler(RequestValidationError)
    async def answer_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = (f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
        return JSONResponse({"detail": "; ".join(found)}, 422)

    @api.middleware("http")
    async def measure(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        start, status = time.perf_counter(), 500
        try:
            response = await call(request)
            status = response.status_code
            return response
        finally:
            if (request.method, request.url.path) == ("POST", "/v1/predict"):
                service.metrics.requests.labels(str(status)).inc()
                service.metrics.seconds.observe(time.perf_counter() - start)

    predict_problems: dict[int | str, Any] = {code: {"model": Problem} for code in (400, 413, 422, 503, 504)}

    @api.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("docs")

    @router.post("/predict", response_model=Answer, responses=predict_problems)
    async def predict(
        request: Request,
        video: Annotated[UploadFile, File(description="A video file")],
        parameters: Annotated[Parameters, Query()],
    ) -> dict[str, Any]:
        """Predicts the class of a video: `curl -F video=@clip.mp4 http://localhost:8000/v1/predict`."""
        names = list(Parameters.model_fields)
        for name in request.query_params:
            if name not in names:
                raise _HttpError(422, _unknown(name, "query parameter", names))
        for name in await request.form():
            if name != "video":
                where = f"{name} belongs to the query: ?{name}=..."
                raise _HttpError(422, where if name in names else _unknown(name, "form field", ["video"]))
        sampler = parameters.sampler
        if sampler is not None and sampler not in (known := sampler_names()):
            raise _HttpError(422, f"sampler is {sampler!r}, expected one of {', '.join(known)}")
        try:
            service.limits.check_size(video.size or 0)
            with private_file() as path:
                with path.open("wb") as file:
                    while content := await video.read(_COPIED_BYTES):
                        file.write(content)
                found = await service.predict(path, parameters.top_k, parameters.views, parameters.sampler)
        except RefusedError as error:
            raise _HttpError(400, str(error)) from error
        except UserError as error:
            logger.error("%s", error)
            raise _HttpError(503, "no process can read the video", {"Retry-After": str(_RETRY_SECONDS)}) from error
        return found.to_dict() | {"note": found.coverage_note}

    @router.get("/model", response_model=ModelInformation)
    async def model() -> ModelInformation:
        """Describes the model."""
        classifier = service.classifier
        cfg = classifier.cfg
        return ModelInformation(
            name=cfg.MODEL.MODEL_NAME,
            fingerprint=classifier.fingerprint(),
            classes=list(classifier.class_names),
            frames=cfg.DATA.NUM_FRAMES,
            crop=cfg.DATA.TEST_CROP_SIZE,
            views=cfg.TEST.NUM_ENSEMBLE_VIEWS,
            samplers=sampler_names(),
            version=__version__,
        )

    api.include_router(router)

    @api.get("/health", response_model=Status, tags=["operation"])
    async def health() -> Status:
        """Says that the process runs."""
        return Status(status="ok")

    @api.get("/ready", response_model=Status, responses={503: {"model": Problem}}, tags=["operation"])
    async def ready() -> Status:
        """Says whether a request would be accepted now."""
        if not api.state.is_ready or service.is_full:
            raise _HttpError(503, "too many requests are running", {"Retry-After": str(_RETRY_SECONDS)})
        return Status(status="ready")

    @api.get("/metrics", response_class=Response, tags=["operation"])
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return api


def _unknown(name: str, kind: str, known: Sequence[str]) -> str:
    near = "".join(f"; the nearest is {found}" for found in get_close_matches(name, known, n=1, cutoff=0.3))
    return f"{name!r} is an unknown {kind}, expected {', '.join(known)}{near}"


class _HttpError(Exception):
    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers
