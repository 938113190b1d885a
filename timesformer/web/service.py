"""The model behind the page, which all visitors share."""

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np
import torch

from timesformer.datasets.clips import SampledClip
from timesformer.datasets.transforms.sampling import build_sampler, sampler_names
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Summary, load_model
from timesformer.models.attention import Attention
from timesformer.models.weights.download import local_path
from timesformer.visualization.attention import Method, attention_maps, overlay, record_clip
from timesformer.web.options import Options
from timesformer.web.reading import DecodedVideo, read_video, sample_clips, start_process_server
from timesformer.web.uploads import Limits

logger = logging.getLogger(__name__)

TOP_K = 5
MAX_VIEWS = 10

FileState = tuple[int, int] | None


@dataclass(frozen=True)
class Answer:
    """The prediction for a video."""

    video: DecodedVideo
    top: list[tuple[str, float]]  # classes with their probabilities, the most probable first
    reading_seconds: float
    model_seconds: float


class Service:
    """A model that visitors share: several videos are read at once, and the model answers one visitor at a time.

    `problem` says why it is the fallback; "" if it is not.
    """

    def __init__(self, classifier: Classifier, problem: str, limits: Limits) -> None:
        self.classifier, self.problem = classifier, problem
        cfg = classifier.cfg
        default = build_sampler(cfg, "test").name
        self.samplers = [default, *(name for name in sampler_names() if name != default)]
        self.default_views = cfg.TEST.NUM_ENSEMBLE_VIEWS
        self.max_views = max(MAX_VIEWS, self.default_views)
        self.num_parameters = sum(p.numel() for p in classifier.model.parameters())
        self.has_attention = any(isinstance(module, Attention) for module in classifier.model.modules())
        self._limits = limits
        self._readers = BoundedSemaphore(os.cpu_count() or 1)

    @classmethod
    def load(cls, options: Options) -> "Service":
        """The checkpoint, or the fallback if it cannot be loaded; UserError if neither can."""
        if not options.checkpoint and not options.fallback:
            raise UserError("No model: start the page with streamlit run tools/app.py -- --checkpoint best.pyth")
        start_process_server()
        problem = ""
        for path, cfg in ((options.checkpoint, options.cfg), (options.fallback, options.fallback_cfg)):
            if not path:
                continue
            try:
                classifier = load_model(path, options.device, cfg=cfg or None)
            except UserError as error:
                logger.warning("%s", error)
                problem += f"{error}\n"
                continue
            if problem:
                problem = (
                    f"The fine-tuned model cannot be used: {problem.strip()} The answers are those of the pretrained "
                    f"weights {Path(classifier.path).name}, which know {len(classifier.class_names)} other actions."
                )
            return cls(classifier, problem, options.limits)
        raise UserError(f"No model could be loaded. {problem.strip()}")

    def answer(self, path: Path, sampler: str, views: int) -> Answer:
        """The prediction for a video, averaged over `views` clips along its time; RefusedError as in `read_video`."""
        classifier = self.classifier
        cfg = classifier.options(views=views, sampler=sampler)
        with self._readers:
            start = time.monotonic()
            video = read_video(path, partial(sample_clips, cfg), self._limits)
            read = time.monotonic()
        summary = Summary(cfg)
        with classifier.lock:
            begin = time.monotonic()
            for first in range(0, len(video.clips), cfg.TEST.BATCH_SIZE):
                clips = video.clips[first : first + cfg.TEST.BATCH_SIZE]
                scores, _ = classifier.compute(torch.stack([clip.clip for clip in clips]))
                summary.add(scores, None, [clip.view for clip in clips])
            end = time.monotonic()
        return Answer(video, classifier.prediction("", summary, TOP_K).top, read - start, end - begin)

    def attention(self, clip: SampledClip, method: Method) -> np.ndarray:
        """The frames of a clip with the model's attention, uint8 (T, H, W, 3); UserError if it has none."""
        record = record_clip(self.classifier, clip)
        return overlay(clip.frames, attention_maps(record, len(clip.frames), method))


def file_states(options: Options) -> tuple[FileState, ...]:
    """A value that changes whenever a file of the models does."""
    states: list[FileState] = []
    for path in (options.checkpoint, options.fallback):
        try:
            status = os.stat(local_path(path) if os.path.isdir(path) else path)
            states.append((status.st_mtime_ns, status.st_size))
        except OSError:
            states.append(None)
    return tuple(states)
