"""The model behind the service: reading in other processes, computing in batches, metrics."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Summary
from timesformer.inference.prediction import Prediction
from timesformer.serving.batching import Batcher
from timesformer.web.reading import DecodedVideo, read_video, sample_clips
from timesformer.web.uploads import Limits

MAX_VIEWS = 10
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class OverloadedError(UserError):
    """Too many requests are running; the request may be sent again later."""


class Metrics:
    """The service's metrics for Prometheus, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options = {"namespace": "timesformer", "registry": self.registry}
        self.requests = Counter("requests", "Answered predictions by HTTP status", ["status"], **options)
        self.seconds = Histogram("request_seconds", "Time of a prediction", buckets=_SECONDS, **options)
        self.reading = Histogram("reading_seconds", "Time to read a video", buckets=_SECONDS, **options)
        self.model = Histogram("model_seconds", "Time in the model, with waiting", buckets=_SECONDS, **options)
        self.batch = Histogram("batch_clips", "Clips of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), **options)
        self.running = Gauge("requests_running", "Predictions being computed", **options)
        self.waiting = Gauge("clips_waiting", "Clips that the model has not computed yet", **options)


class PredictionService:
    """Predicts videos of concurrent requests.

    Args:
        classifier: the model; its configuration gives views, crops and sampler where a request does not.
        limits: what one video may be.
        readers: number of videos that are read at the same time, each in a process of its own.
        max_requests: number of requests that are read, waiting or computed; more get an OverloadedError.
        batch_size: number of clips that are computed together.
    """

    def __init__(
        self, classifier: Classifier, limits: Limits, readers: int, max_requests: int, batch_size: int
    ) -> None:
        self.classifier, self.limits, self.metrics = classifier, limits, Metrics()
        self._max_requests, self._running = max_requests, 0
        self._readers = ThreadPoolExecutor(readers, "reader")
        compute = partial(_logits, classifier)
        self._batcher = Batcher(compute, batch_size, self.metrics.batch.observe)
        self.metrics.running.set_function(lambda: self._running)
        self.metrics.waiting.set_function(lambda: self._batcher.waiting)

    @property
    def is_full(self) -> bool:
        """Whether another request would be refused."""
        return self._running >= self._max_requests

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request while it runs; OverloadedError if there are too many."""
        if self.is_full:
            raise OverloadedError(f"{self._running} requests are running, the limit is {self._max_requests}")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def predict(self, path: Path, top_k: int, views: int | None, sampler: str | None) -> Prediction:
        """Predicts the classes of the video file `path`, named "video".

        `views` and `sampler` replace those of the checkpoint. Raises RefusedError for a video that cannot be read or
        exceeds a limit.
        """
        start = time.perf_counter()
        cfg = self.classifier.options(views=views, sampler=sampler)
        read = partial(read_video, path, partial(sample_clips, cfg), self.limits)
        video: DecodedVideo = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        self.metrics.reading.observe((done := time.perf_counter()) - start)
        clips = torch.stack([clip.clip for clip in video.clips])
        logits = await asyncio.wrap_future(self._batcher.submit(clips))
        self.metrics.model.observe(time.perf_counter() - done)
        summary = Summary(cfg, seconds=time.perf_counter() - start)
        summary.add(logits, None, [clip.view for clip in video.clips])
        return self.classifier.prediction("video", summary, top_k)

    def close(self) -> None:
        """Finishes what is running."""
        self._readers.shutdown()
        self._batcher.close()


def _logits(classifier: Classifier, clips: torch.Tensor) -> torch.Tensor:
    return classifier.compute(clips)[0]
