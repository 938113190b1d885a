"""The model behind the service: reading in other processes, computing in batches, metrics."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Summary
from timesformer.inference.prediction import Prediction
from timesformer.serving.batching import Batcher
from timesformer.web.reading import Readers, sample_clips

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
        self.running = Gauge("requests_running", "Requests being received, read or computed", **options)
        self.waiting = Gauge("clips_waiting", "Clips that the model has not computed yet", **options)


class PredictionService:
    """Predicts videos of concurrent requests.

    Args:
        classifier: the model; its configuration gives views, crops and sampler where a request does not.
        readers: read the videos, and limit them; closed by `close`.
        max_requests: number of requests that are received, read, waiting or computed; more get an OverloadedError.
        batch_size: number of clips that are computed together.
    """

    def __init__(self, classifier: Classifier, readers: Readers, max_requests: int, batch_size: int) -> None:
        self.classifier, self.metrics, self.limits, self._readers = classifier, Metrics(), readers.limits, readers
        self._max_requests, self._running = max_requests, 0
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
        reading = self._readers.submit_video(path, partial(sample_clips, cfg))
        video = self._readers.finish_video(await asyncio.wrap_future(reading))
        self.metrics.reading.observe((done := time.perf_counter()) - start)
        clips = torch.stack([clip.clip for clip in video.clips])
        logits = await asyncio.wrap_future(self._batcher.submit(clips))
        self.metrics.model.observe(time.perf_counter() - done)
        summary = Summary(cfg, seconds=time.perf_counter() - start)
        summary.add(logits, None, [clip.view for clip in video.clips])
        summary.spans, summary.duration = [clip.span for clip in video.clips], video.seconds
        return self.classifier.prediction("video", summary, top_k)

    def close(self) -> None:
        """Finishes what is running."""
        self._readers.close()
        self._batcher.close()


def _logits(classifier: Classifier, clips: torch.Tensor) -> torch.Tensor:
    return classifier.compute(clips)[0]
