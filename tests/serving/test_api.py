"""The HTTP service: answers, errors and metrics, and its own OpenAPI document."""

import asyncio
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.patience import PATIENCE
from timesformer import load_model
from timesformer.inference.classifier import Classifier
from timesformer.serving.api import make_api
from timesformer.serving.service import PredictionService
from timesformer.web.reading import Readers
from timesformer.web.uploads import Limits

pytestmark = pytest.mark.slow
Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> Classifier:
    return load_model(checkpoint, "cpu")


@pytest.fixture
def start(classifier: Classifier) -> Iterator[Start]:
    """start(**options): a client of a service with these options."""
    clients: list[TestClient] = []

    def client(
        limits: Limits | None = None, api_key: str = "", timeout: float = 500.0, max_requests: int = 8
    ) -> TestClient:
        readers = Readers(limits or Limits(decoding_seconds=500), 2)
        service = PredictionService(classifier, readers, max_requests, 4)
        clients.append(TestClient(make_api(service, api_key, timeout)).__enter__())
        return clients[-1]

    yield client
    for open_client in clients:
        open_client.__exit__(None, None, None)


def post(client: TestClient, video: bytes, name: str = "clip.mp4", **options: Any) -> Any:
    return client.post("/v1/predict", files={"video": (name, video)}, **options)


def test_answer_is_that_of_predict(start: Start, classifier: Classifier, clips: list[Path]) -> None:
    client = start()
    for clip in clips[:2]:
        answer = post(client, clip.read_bytes())
        assert answer.status_code == 200, answer.text
        expected = classifier.predict(clip).to_dict()
        assert [item["class"] for item in answer.json()["top"]] == [item["class"] for item in expected["top"]]
        for item, other in zip(answer.json()["top"], expected["top"], strict=True):
            assert item["probability"] == pytest.approx(other["probability"], abs=2e-5)
        lengths = {name: expected[name] for name in ("used", "duration")}
        assert answer.json() | lengths | {"note": ""} == answer.json()
    options = {"top_k": 2, "views": 3, "sampler": "equidistant"}
    answer = post(client, clips[0].read_bytes(), params=options).json()
    expected = classifier.predict(clips[0], top_k=2, views=3, sampler="equidistant")
    assert (answer["num_views"], [item["class"] for item in answer["top"]]) == (3, [name for name, _ in expected.top])
    model = client.get("/v1/model").json()
    assert model["classes"] == list(classifier.class_names)
    assert model["fingerprint"] == classifier.fingerprint()


def test_files_that_are_no_videos(start: Start, no_clips: Callable[[str], Path]) -> None:
    client = start()
    for name in ("text", "empty", "cut", "playlist", "concat", "huge frames", "noise"):
        answer = post(client, no_clips(name).read_bytes(), f"{name}.mp4")
        assert answer.status_code == 400, name
        assert "/tmp" not in answer.text
        assert "timesformer-upload" not in answer.text


def test_wrong_requests(start: Start, clips: list[Path]) -> None:
    client, video = start(), clips[0].read_bytes()
    for options, named in (({"views": 0}, "views"), ({"top_k": "x"}, "top_k"), ({"sampler": "best"}, "best")):
        answer = post(client, video, params=options)
        assert (answer.status_code, named in answer.json()["detail"]) == (422, True), answer.text
    for options, near in (({"params": {"topk": 3}}, "top_k"), ({"data": {"views": 3}}, "?views=")):
        answer = post(client, video, **options)
        assert (answer.status_code, near in answer.json()["detail"]) == (422, True), answer.text
    assert client.post("/v1/predict").status_code == 422
    assert client.get("/v1/predict").status_code == 405
    assert '{status="405"}' not in client.get("/metrics").text
    assert client.get("/", follow_redirects=False).headers["Location"] == "docs"


def test_limits(start: Start, clips: list[Path]) -> None:
    video = clips[0].read_bytes()
    client = start(Limits(megabytes=1, seconds=0.5))
    assert post(client, video).status_code == 400  # too long
    assert post(client, bytes(2**21)).status_code == 413

    def chunks() -> Iterator[bytes]:  # without Content-Length
        yield b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        for _ in range(40):
            yield bytes(2**16)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/predict", content=chunks(), headers=form).status_code == 413
    assert post(start(timeout=1e-9), video).status_code == 504


def test_api_key(start: Start, clips: list[Path]) -> None:
    client = start(api_key="s3cret")
    assert post(client, clips[0].read_bytes()).status_code == 401
    assert client.get("/v1/model", headers={"X-API-Key": "wrong"}).status_code == 401
    assert client.get("/v1/model", headers={"X-API-Key": "s3cret"}).status_code == 200
    assert client.get("/health").status_code == 200


def test_overload(start: Start, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request more than allowed is refused, the running one is answered, and the metrics count both."""
    client, video = start(max_requests=1), clips[0].read_bytes()
    is_reading, go_on = Event(), Event()
    original = PredictionService.predict

    async def predict(self: PredictionService, *arguments: Any) -> Any:
        is_reading.set()
        await asyncio.to_thread(go_on.wait)
        return await original(self, *arguments)

    monkeypatch.setattr(PredictionService, "predict", predict)
    assert client.get("/ready").status_code == 200
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client, video)
        is_reading.wait()
        refused = post(client, video)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert client.get("/ready").status_code == 503
        go_on.set()
        assert first.result().status_code == 200
    families = text_string_to_metric_families(client.get("/metrics").text)
    counts = {
        sample.labels["status"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "timesformer_requests_total"
    }
    assert counts == {"200": 1, "503": 1}


FORM_START = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
FORM_END = b"\r\n--x--\r\n"


class Upload:
    """A request to /v1/predict. The test client would read its whole body first."""

    def __init__(self, parts: Iterable[bytes], go_on: asyncio.Event | None = None) -> None:
        """`go_on` is waited for after the first part."""
        self.received, self._parts, self._go_on = 0, iter(parts), go_on
        self.begun = asyncio.Event()

    async def send(self, api: FastAPI) -> int:
        """Returns the status of the answer."""
        found: list[int] = []

        async def send(message: dict[str, Any]) -> None:
            found.extend([message["status"]] if message["type"] == "http.response.start" else [])

        scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b""}
        scope |= {"path": "/v1/predict", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]}
        async with asyncio.timeout(PATIENCE):
            await api(scope, self._receive, send)
        return found[0]

    async def _receive(self) -> dict[str, Any]:
        if self.received and self._go_on:
            self.begun.set()
            await self._go_on.wait()
        part = next(self._parts, b"")
        self.received += len(part)
        return {"type": "http.request", "body": part, "more_body": bool(part)}


def endless() -> Iterator[bytes]:
    yield FORM_START
    while True:
        yield bytes(2**16)


def test_requests_are_refused_before_their_bodies_are_received(start: Start, clips: list[Path]) -> None:
    secured, small = start(api_key="s3cret").app, start(max_requests=1).app

    async def check() -> None:
        upload = Upload(endless())
        assert (await upload.send(secured), upload.received) == (401, 0)
        go_on = asyncio.Event()
        first = Upload([FORM_START, clips[0].read_bytes(), FORM_END], go_on)
        running = asyncio.create_task(first.send(small))
        await first.begun.wait()
        upload = Upload(endless())
        assert (await upload.send(small), upload.received) == (503, 0)
        go_on.set()
        assert await running == 200

    asyncio.run(check())


def test_the_time_of_a_request_includes_its_upload(start: Start) -> None:
    client = start(timeout=1.0, max_requests=1)

    async def check() -> None:
        assert await Upload([FORM_START, FORM_END], asyncio.Event()).send(client.app) == 504

    asyncio.run(check())
    assert client.get("/ready").status_code == 200


def test_uploads_are_not_kept_in_memory(start: Start) -> None:
    api, megabytes = start().app, 24

    def parts() -> Iterator[bytes]:
        yield FORM_START
        for _ in range(megabytes):
            yield bytes(2**20)
        yield FORM_END

    assert asyncio.run(Upload(parts()).send(api)) == 400  # imports what is needed
    tracemalloc.start()
    try:
        assert asyncio.run(Upload(parts()).send(api)) == 400
        assert tracemalloc.get_traced_memory()[1] < megabytes / 2 * 2**20
    finally:
        tracemalloc.stop()


def test_openapi_document_holds_for_generated_requests(start: Start) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", start(Limits(megabytes=1, decoding_seconds=500)).app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/predict", "/v1/model", "/health", "/metrics"}
    for operation in operations:

        @settings(max_examples=6, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(timeout=PATIENCE, excluded_checks=[positive_data_acceptance])  # no videos

        check()
