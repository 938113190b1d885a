"""The model behind the page, loaded once for all visitors, and what it says about a video."""

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
from timesformer.visualization.attention import attention_maps, overlay, record_clip
from timesformer.web.options import Options
from timesformer.web.reading import Footage, prepare_processes, read_clips, sample_clips
from timesformer.web.uploads import Limits

logger = logging.getLogger(__name__)

LOW_CONFIDENCE = 0.5
"""Below this probability of its first class a model is more likely wrong than right, if it knows itself well."""

TOP = 5
"""Classes that are shown with a bar."""

MOST_VIEWS = 10
"""Clips of one video; their memory is the visitor's for as long as the page is open."""

ATTENTION_METHODS = {"rollout": "through all blocks (rollout)", "cls": "last block alone"}


@dataclass(frozen=True)
class Answer:
    """What the model says about a video.

    top: classes with their probabilities, the most probable first.
    """

    footage: Footage
    top: list[tuple[str, float]]
    reading_seconds: float
    model_seconds: float


def state_of(options: Options) -> tuple[tuple[int, int] | None, ...]:
    """What tells whether the files of the models have changed since they were loaded."""
    return tuple(_state(path) for path in (options.checkpoint, options.fallback))


class Service:
    """One model for all visitors.

    Visitors' threads share it: videos are read by a few processes at once, and the model answers one at a time, with
    all cores or the GPU to itself.

    Attributes:
        classifier: the model.
        problem: why it is not the one that was asked for; "" if it is.
    """

    def __init__(self, classifier: Classifier, problem: str, limits: Limits) -> None:
        self.classifier = classifier
        self.problem = problem
        cfg = classifier.cfg
        tested_with = build_sampler(cfg, "test").name
        self.samplers = [tested_with, *(name for name in sampler_names() if name != tested_with)]
        self.most_views = max(MOST_VIEWS, cfg.TEST.NUM_ENSEMBLE_VIEWS)
        self.default_views = cfg.TEST.NUM_ENSEMBLE_VIEWS
        self.num_parameters = sum(p.numel() for p in classifier.model.parameters())
        self.has_attention = any(isinstance(module, Attention) for module in classifier.model.modules())
        self._limits = limits
        self._reading = BoundedSemaphore(os.cpu_count() or 1)

    @classmethod
    def load(cls, options: Options) -> "Service":
        """The fine-tuned model, or, when it cannot be loaded, the fallback.

        Raises UserError, saying what to do, if there is neither.
        """
        if not options.checkpoint and not options.fallback:
            raise UserError(
                "No model was given. Start the page with one: streamlit run tools/app.py -- --checkpoint best.pyth "
                "(or run `make app`, which trains a small model first if there is none)."
            )
        prepare_processes()
        problem = ""
        for path, cfg in ((options.checkpoint, options.cfg), (options.fallback, options.fallback_cfg)):
            if not path:
                continue
            try:
                classifier = load_model(path, options.device or None, cfg=cfg or None)
            except UserError as error:
                logger.warning("%s", error)
                problem += f"{error}\n"
            else:
                return cls(classifier, _explained(problem, classifier) if problem else "", options.limits)
        raise UserError(f"No model could be loaded, so this page cannot answer. {problem.strip()}")

    def read(self, path: Path, sampler: str, views: int) -> tuple[Footage, float]:
        """The clips that the model gets to see of a video, and the seconds that this took.

        Raises RefusedError, whose message is for the visitor.
        """
        cfg = self.classifier.options(views=views, sampler=sampler)
        with self._reading:
            start = time.monotonic()
            footage = read_clips(path, partial(sample_clips, cfg), self._limits)
            return footage, time.monotonic() - start

    def answer(self, footage: Footage, reading_seconds: float, views: int) -> Answer:
        """What the model says about all views of a video, with `views` clips along its time."""
        classifier = self.classifier
        cfg = classifier.options(views=views)
        summary = Summary(cfg)
        with classifier.lock:
            start = time.monotonic()
            for first in range(0, len(footage.clips), cfg.TEST.BATCH_SIZE):
                clips = footage.clips[first : first + cfg.TEST.BATCH_SIZE]
                scores, _ = classifier.compute(torch.stack([clip.clip for clip in clips]))
                summary.add(scores, None, [clip.view for clip in clips])
            seconds = time.monotonic() - start
        return Answer(footage, classifier.prediction("", summary, TOP).top, reading_seconds, seconds)

    def attention(self, clip: SampledClip, method: str) -> np.ndarray:
        """The frames of a clip with what the model attends to, uint8 (T, H, W, 3).

        Raises UserError if the model has no attention.
        """
        with self.classifier.lock:
            record = record_clip(self.classifier, clip)
        return overlay(clip.frames, attention_maps(record, len(clip.frames), method))


def _explained(problem: str, classifier: Classifier) -> str:
    return (
        f"The fine-tuned model cannot be used: {problem.strip()} Until that is mended, this page answers with the "
        f"pretrained weights {Path(classifier.path).name}, which know other actions ({len(classifier.class_names)})."
    )


def _state(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(local_path(path) if os.path.isdir(path) else path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
