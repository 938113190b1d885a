"""The model behind the page, which all visitors share."""

import json
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from timesformer.datasets.clips import SampledClip
from timesformer.datasets.transforms.sampling import build_sampler, sampler_names
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Summary, load_model
from timesformer.inference.prediction import Prediction, is_long
from timesformer.models.attention import Attention
from timesformer.models.complexity import count_parameters
from timesformer.models.weights.download import local_path
from timesformer.visualization.attention import Method, attention_maps, overlay, record_clip
from timesformer.web.options import Options
from timesformer.web.reading import DecodedVideo, Readers, no_clips, sample_clips
from timesformer.web.uploads import Limits, find_examples

logger = logging.getLogger(__name__)

TOP_K = 5
MAX_VIEWS = 10

FileState = tuple[int, int] | None


@dataclass(frozen=True)
class Answer:
    """The prediction for a video."""

    video: DecodedVideo
    prediction: Prediction
    temperature: float  # of its probabilities
    reading_seconds: float
    model_seconds: float


class Service:
    """A model that visitors share: several videos are read at once, and the model answers one visitor at a time.

    `problem` tells visitors that it is the fallback; "" if it is not.
    """

    def __init__(self, classifier: Classifier, problem: str, limits: Limits, readers: Readers) -> None:
        self.classifier, self.problem, self.limits, self.readers = classifier, problem, limits, readers
        cfg = classifier.cfg
        default = build_sampler(cfg, "test").name
        self.samplers = [default, *(name for name in sampler_names() if name != default)]
        self.default_views = cfg.TEST.NUM_ENSEMBLE_VIEWS
        self.max_views = max(MAX_VIEWS, self.default_views)
        self.num_parameters = count_parameters(classifier.model)
        self.has_attention = any(isinstance(module, Attention) for module in classifier.model.modules())

    @classmethod
    def load(cls, options: Options) -> "Service":
        """The checkpoint, or the fallback if it cannot be loaded; UserError, for the log, if neither can."""
        sources = [(options.checkpoint, options.cfg), (options.fallback, options.fallback_cfg)]
        sources = [(path, cfg) for path, cfg in sources if path]
        if not sources:
            raise UserError("no model: start the page with timesformer app --checkpoint best.pyth")
        readers = Readers(options.limits)
        readers.warm_up()
        errors: list[str] = []
        for path, cfg in sources:
            try:
                classifier = load_model(path, options.device, cfg=cfg or None)
            except UserError as error:
                errors.append(str(error))
                continue
            problem = ""
            if errors:
                logger.warning("%s; the fallback %s is used", errors[0], path)
                others = f"a pretrained model, which knows {len(classifier.class_names):,} other actions"
                problem = f"The fine-tuned model cannot be loaded. These are answers of {others}."
            return cls(classifier, problem, options.limits, readers)
        readers.stop()
        raise UserError("\n".join(errors))

    def inspect(self, path: Path) -> DecodedVideo:
        """The properties of a video, without clips; RefusedError as `Readers`."""
        return self.readers.video(path, no_clips)

    def is_long(self, video: DecodedVideo, sampler: str, views: int) -> bool:
        """Whether predictions for the video would have a `coverage_note`."""
        chosen = build_sampler(self.classifier.options(views=views, sampler=sampler), "test")
        used = video.seconds  # of samplers that stretch over the whole video
        if video.fps and chosen.name in ("dense", "uniform"):
            used = min(used, views * chosen.window_length(video.fps) / video.fps)
        return is_long(video.seconds, used, self.classifier.clip_seconds)

    def answer(self, path: Path, name: str, sampler: str, views: int) -> Answer:
        """The prediction for a video, averaged over `views` clips along its time; RefusedError as `Readers`.

        `name` is that of the video for visitors.
        """
        classifier = self.classifier
        cfg = classifier.options(views=views, sampler=sampler)
        start = time.monotonic()
        video = self.readers.video(path, partial(sample_clips, cfg))
        read = time.monotonic()
        summary = Summary(cfg)
        with classifier.lock:
            begin = time.monotonic()
            for first in range(0, len(video.clips), cfg.TEST.BATCH_SIZE):
                clips = video.clips[first : first + cfg.TEST.BATCH_SIZE]
                scores, _ = classifier.compute(torch.stack([clip.clip for clip in clips]))
                summary.add(scores, None, [clip.view for clip in clips])
            end = time.monotonic()
        summary.clips, summary.seconds = video.clips, read - start + end - begin
        summary.spans, summary.duration = [clip.span for clip in video.clips], video.seconds
        prediction = classifier.prediction(name, summary, TOP_K)
        return Answer(video, prediction, classifier.temperature(cfg), read - start, end - begin)

    def to_json(self, answer: Answer) -> str:
        """A file as of `timesformer predict --output predictions.json`, with more about the video."""
        classifier, prediction = self.classifier, answer.prediction
        header = {"checkpoint": Path(classifier.path).name, "class_names": list(classifier.class_names)}
        header |= {"num_views": prediction.num_views, "temperature": answer.temperature}
        return json.dumps({**header, "videos": [prediction.to_dict()]}, indent=2)

    def attention(self, clip: SampledClip, method: Method) -> np.ndarray:
        """The frames of a clip with the model's attention, uint8 (T, H, W, 3); UserError if it has none."""
        record = record_clip(self.classifier, clip)
        return overlay(clip.frames, attention_maps(record, len(clip.frames), method))


_prepared: dict[tuple[Options, tuple[FileState, ...]], Service] = {}


def prepare(options: Options) -> None:
    """Loads the model before the first visitor comes; UserError if there is none or --examples has no videos."""
    if options.examples is not None:
        find_examples(options.examples)
    _prepared[options, file_states(options)] = Service.load(options)


def load_service(options: Options, state: tuple[FileState, ...]) -> Service:
    """What `prepare` has loaded if no file has changed since, else a new one; UserError as `Service.load`."""
    return _prepared.pop((options, state), None) or Service.load(options)


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
