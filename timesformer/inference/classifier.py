"""Inference: loads a trained model from its checkpoint, and predicts the classes of videos."""

import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TypeVar

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config.check import check_use
from timesformer.config.load import ConfigError, load_for_use, override
from timesformer.datasets.clips import SampledClip
from timesformer.datasets.decoding.open import Frames, Source, Video, VideoError, to_source
from timesformer.engine.calibration import FittedTemperature, saved_temperatures, temperature_of
from timesformer.engine.evaluate import build_from_checkpoint, score_views
from timesformer.errors import UserError, shorten
from timesformer.inference.clip_batches import read_batches
from timesformer.inference.prediction import Prediction, covered_seconds
from timesformer.metrics.evaluation import logits_of
from timesformer.metrics.view_ensemble import ViewEnsemble
from timesformer.models.parts import record_features
from timesformer.models.weights.loading import Checkpoint, CheckpointError, fingerprint, read_checkpoint
from timesformer.models.weights.normalization import normalization_problem
from timesformer.numeric_arguments import check_whole
from timesformer.runtime.device import adapt_to_device, select_device, set_float32_precision
from timesformer.runtime.resource_limits import available_cores
from timesformer.torchvision_import import import_package

Result = TypeVar("Result")


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    cfg_opts: Sequence[str] = (),
    *,
    cfg: str | Path | None = None,
    saved: str | None = None,
) -> "Classifier":
    """Loads a trained model from its checkpoint; `Classifier.notes` has what is assumed if it has no class names.

    Args:
        path: a checkpoint, the folder of a run, or another source that docs/checkpoints.md lists.
        device: cuda, cuda:N, mps or cpu; default: the CUDA GPU if there is one, else the CPU. Exported models (ONNX,
            OpenVINO, torch.export) use the CPU.
        cfg_opts: KEY VALUE KEY VALUE ..., override the configuration.
        cfg: YAML file that replaces the checkpoint's configuration.
        saved: YAML text that replaces it, such as the configuration of a test.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not fit its configuration, or has none.
        ConfigError: if an option is unknown or invalid.
        UserError: if the device does not exist, or a package is missing.
    """
    if not (isinstance(path, str | os.PathLike) and os.fspath(path)):
        expected = "a checkpoint, the folder of a run, zoo:NAME or hf:OWNER/NAME"
        raise CheckpointError(f"path is {path!r}, expected {expected}")
    device = select_device(device)
    checkpoint = read_checkpoint(path)
    if checkpoint.network is not None:
        device = torch.device("cpu")
    path, saved = checkpoint.source, saved or checkpoint.rest.get("cfg")
    if cfg is None and not isinstance(saved, str):
        reason = "".join(f" ({reason})" for reason in checkpoint.assumed)
        raise CheckpointError(f"{path} holds no configuration{reason}: give its YAML file (--cfg, in Python cfg=FILE)")
    options, notes = load_for_use(saved if isinstance(saved, str) else "", f"configuration in {path}", cfg, cfg_opts)
    notes += adapt_to_device(options, device)
    set_float32_precision(options)
    model, report = build_from_checkpoint(options, checkpoint)
    names, note = _class_names(checkpoint, options)
    normalization = normalization_problem(options, checkpoint.metadata.mean, checkpoint.metadata.std)
    notes += [*(checkpoint.assumed if cfg is None else ()), *report.notes, *filter(None, (normalization, note))]
    temperatures = saved_temperatures(checkpoint.rest)
    clip_seconds = checkpoint.metadata.clip_seconds
    return Classifier(options, model.to(device).eval(), names, device, path, notes, temperatures, clip_seconds)


def _class_names(checkpoint: Checkpoint, cfg: CfgNode) -> tuple[tuple[str, ...], str]:
    """Returns the class names, and a note if they are not those of the checkpoint."""
    names, num_classes = checkpoint.metadata.class_names, cfg.MODEL.NUM_CLASSES
    if len(names) == num_classes:
        return tuple(map(str, names)), ""
    note = "the checkpoint has no class names"
    if num_classes == 400 and cfg.TRAIN.DATASET == "kinetics":
        try:
            models = import_package("torchvision.models.video", "the class names of Kinetics-400")
            return tuple(models.R3D_18_Weights.DEFAULT.meta["categories"]), f"{note}: assumed to be Kinetics-400's"
        except UserError as error:
            note += f" ({error})"
    return tuple(f"class {number}" for number in range(num_classes)), note


@dataclass(eq=False, repr=False)
class Classifier:
    """A trained model with its configuration and class names; several threads may use it."""

    cfg: CfgNode  # of the checkpoint with the overrides
    model: nn.Module  # in evaluation mode; normalized clips, float [batch, 3, T, H, W], to logits; or ExportedNetwork
    class_names: tuple[str, ...]  # in the order of the model's outputs
    device: torch.device
    path: str | Path  # of the checkpoint
    notes: list[str]  # assumptions and warnings
    temperatures: list[FittedTemperature] = field(default_factory=list)
    clip_seconds: float = 0.0  # median length of the training clips, 0 if unknown
    lock: AbstractContextManager = field(default_factory=RLock, init=False)  # held while the model computes

    def __repr__(self) -> str:
        data, test = self.cfg.DATA, self.cfg.TEST
        views = test.NUM_ENSEMBLE_VIEWS * test.NUM_SPATIAL_CROPS
        size = f"{data.NUM_FRAMES} frames of {data.TEST_CROP_SIZE} x {data.TEST_CROP_SIZE} pixels"
        lines = [
            f"Classifier of {len(self.class_names)} classes: {shorten(self.class_names)}",
            f"  {self.cfg.MODEL.MODEL_NAME}, {size}, {views} view{'s' * (views > 1)} of a video, on {self.device}",
            f"  from {self.path}",
        ]
        if (temperature := self.temperature(self.cfg)) != 1:
            lines.append(f"  probabilities calibrated with temperature {temperature:.3f}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def fingerprint(self) -> str:
        """Returns a hash of the weights and class names."""
        return fingerprint(self.model, self.class_names)

    def temperature(self, cfg: CfgNode) -> float:
        """Returns the temperature of the probabilities with the views of `cfg`, 1 if none was fitted."""
        return temperature_of(self.temperatures, cfg)

    def predict(
        self,
        video: Video,
        *,
        fps: float | None = None,
        top_k: int = 5,
        views: int | None = None,
        crops: int | None = None,
        sampler: str | None = None,
        keep_clips: bool = False,
        features: bool = False,
    ) -> Prediction:
        """Predicts the class of a video, as a test of the same checkpoint does.

        Args:
            video: path of a video file or folder of frames; bytes of a video file; a binary file object, which is read
                from its start; frames, uint8 [frames, height, width, 3], RGB, as an array or tensor; a list of images
                (PIL, arrays, paths); `Frames`.
            fps: frames per second of a video without its own: frames, images, folders. Only the dense sampler needs it.
            top_k: number of classes in `Prediction.top`.
            views: clips along the time; default: TEST.NUM_ENSEMBLE_VIEWS of the checkpoint.
            crops: of each clip, 1 (center) or 3 (along the longer side); default: TEST.NUM_SPATIAL_CROPS.
            sampler: dense, uniform, equidistant, random or segment; default: that of the checkpoint's tests.
            keep_clips: fill `Prediction.clips`.
            features: fill `Prediction.embedding`.

        Raises:
            VideoError: if the video cannot be read, or has another type or shape.
            ConfigError: if the sampler or the number of views or crops is invalid.
            UserError: if `top_k` is not a whole number of 1 or more.
        """
        (prediction,) = self.predict_many(
            [to_source(video, fps)],
            fps=fps,
            top_k=top_k,
            views=views,
            crops=crops,
            sampler=sampler,
            keep_clips=keep_clips,
            features=features,
            workers=0,
        )
        if prediction.error:
            raise VideoError(prediction.error)
        return prediction

    def predict_many(
        self,
        videos: "Iterable[Video | Source]",
        *,
        fps: float | None = None,
        top_k: int = 5,
        views: int | None = None,
        crops: int | None = None,
        sampler: str | None = None,
        keep_clips: bool = False,
        features: bool = False,
        workers: int | None = None,
    ) -> Iterator[Prediction]:
        """Predicts the classes of many videos, in order, in batches.

        `Prediction.error` says why a video cannot be read, or made the decoder hang or crash. Videos are taken from an
        iterator as they are needed, with `workers` from another thread.

        Args:
            videos: each as in `predict`; one array [videos, frames, height, width, 3] is several videos.
            workers: number of processes that read; default: one for each core; 0: read in this process. Frames in
                memory are always sampled in this process.

        For the other arguments and errors, see `predict`.
        """
        if isinstance(videos, str | os.PathLike | bytes | bytearray | memoryview | Frames) or hasattr(videos, "read"):
            raise VideoError(
                f"videos is of type {type(videos).__name__}, expected a list of videos: use predict for one"
            )
        if len(shape := tuple(getattr(videos, "shape", ()))) in (1, 2, 3, 4):
            raise VideoError(f"videos has the shape {list(shape)}, expected a list of videos: use predict for one")
        check_whole("top_k", top_k, 1)
        if workers is not None:
            check_whole("workers", workers, 0)
        cfg = self.options(views, crops, sampler)
        return in_order(self.as_completed(cfg, videos, top_k, keep_clips, features, workers, fps=fps))

    def as_completed(
        self,
        cfg: CfgNode,
        videos: "Iterable[Video | Source]",
        top_k: int = 5,
        keep_clips: bool = False,
        features: bool = False,
        workers: int | None = None,
        finished: Collection[int] = (),
        fps: float | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields numbers of videos and their predictions when complete; `cfg` is from `options`, `finished` omitted."""
        workers = available_cores() if workers is None else workers
        summaries: dict[int, Summary] = {}
        failed: set[int] = set()
        with closing(read_batches(cfg, videos, workers, keep_clips, finished, fps)) as batches:
            for batch in batches:
                for part in batch.failed:
                    if part.video not in failed:
                        failed.add(part.video)
                        summaries.pop(part.video, None)
                        yield part.video, Prediction(part.name, error=part.problem)
                if not batch.parts:
                    continue
                start = time.perf_counter()
                scores, embeddings = self.compute(batch.clips, features)
                seconds_per_clip = (time.perf_counter() - start) / len(batch.clips)
                for part in batch.parts:
                    if part.video in failed:
                        continue
                    summary = summaries.setdefault(part.video, Summary(cfg))
                    summary.seconds += part.seconds + seconds_per_clip * len(part.views)
                    summary.clips += part.clips
                    summary.spans += part.spans
                    summary.duration = part.duration
                    summary.add(scores[part.rows], None if embeddings is None else embeddings[part.rows], part.views)
                    if len(summary.views) == summary.num_views:
                        yield part.video, self.prediction(part.name, summaries.pop(part.video), top_k)

    def embed(
        self,
        video: Video,
        *,
        fps: float | None = None,
        views: int | None = None,
        crops: int | None = None,
        sampler: str | None = None,
    ) -> np.ndarray:
        """Returns the input of the last linear layer, mean over the views, float32 [dim]; arguments as in `predict`."""
        options = {"fps": fps, "views": views, "crops": crops, "sampler": sampler}
        return self.predict(video, features=True, **options).embedding

    def clips(
        self,
        video: Video,
        *,
        fps: float | None = None,
        views: int | None = None,
        crops: int | None = None,
        sampler: str | None = None,
    ) -> list[SampledClip]:
        """Returns all views of a video, as the model gets them; arguments and errors as in `predict`."""
        clips: list[SampledClip] = []
        cfg, source = self.options(views, crops, sampler), to_source(video, fps)
        for batch in read_batches(cfg, [source], workers=0, keep_clips=True, fps=fps):
            for part in batch.failed:
                raise VideoError(part.problem)
            clips += [clip for part in batch.parts for clip in part.clips]
        return clips

    def options(self, views: int | None = None, crops: int | None = None, sampler: str | None = None) -> CfgNode:
        """Returns the configuration with other views; arguments and errors as in `predict`."""
        given = (("TEST.NUM_ENSEMBLE_VIEWS", views), ("TEST.NUM_SPATIAL_CROPS", crops), ("DATA.TEST_SAMPLER", sampler))
        changes = [part for key, value in given if value is not None for part in (key, str(value))]
        cfg = override(self.cfg, changes)
        if changes and (problems := check_use(cfg)):
            raise ConfigError(problems)
        return cfg

    def compute(self, clips: Tensor, features: bool = False) -> tuple[Tensor, Tensor | None]:
        """Returns the logits, float32 [batch, classes], and embeddings, [batch, dim], of `SampledClip.clip`s."""
        with self.lock:
            if not features:
                return score_views(self.model, clips, self.cfg, self.device).cpu(), None
            with record_features(self.model) as embeddings:
                scores = score_views(self.model, clips, self.cfg, self.device)
        return scores.cpu(), torch.cat(embeddings).detach().float().cpu()  # one for each part of the batch

    def prediction(self, video: str, summary: "Summary", top_k: int) -> Prediction:
        """Makes the prediction of a video whose views are complete."""
        logits = summary.logits()
        probabilities = (logits / self.temperature(summary.cfg)).softmax(dim=0)
        best = logits.topk(min(top_k, len(self.class_names))).indices.tolist()
        top = [(self.class_names[number], float(probabilities[number])) for number in best]
        clips = sorted(summary.clips, key=lambda clip: clip.view)
        return Prediction(
            video,
            top,
            probabilities.numpy(),
            summary.num_views,
            summary.embedding(),
            clips,
            summary.seconds,
            used=covered_seconds(summary.spans),
            duration=summary.duration,
            clip_seconds=self.clip_seconds,
        )


def check_classifier(value: object) -> None:
    """Raises UserError if `value` is not a `Classifier`."""
    if not isinstance(value, Classifier):
        found = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
        raise UserError(f"the model is {found}, expected what timesformer.load_model returns")


def in_order(numbered: Iterator[tuple[int, Result]]) -> Iterator[Result]:
    """Yields results in the order of their numbers, 0, 1, 2, ..."""
    waiting: dict[int, Result] = {}
    following = 0
    with closing(numbered) as results:
        for number, result in results:
            waiting[number] = result
            while following in waiting:
                yield waiting.pop(following)
                following += 1


@dataclass
class Summary:
    """Scores and embeddings of the views of one video, in any order."""

    cfg: CfgNode
    views: list[int] = field(default_factory=list)  # numbers of the views so far
    clips: list[SampledClip] = field(default_factory=list)  # the views that are kept
    seconds: float = 0.0  # time spent so far
    spans: list[tuple[float, float]] = field(default_factory=list)  # of the views, in seconds
    duration: float = 0.0  # of the video
    _scores: list[Tensor] = field(default_factory=list)  # [n, classes]
    _embeddings: list[Tensor] = field(default_factory=list)  # [n, dim]

    @property
    def num_views(self) -> int:
        return self.cfg.TEST.NUM_ENSEMBLE_VIEWS * self.cfg.TEST.NUM_SPATIAL_CROPS

    def add(self, scores: Tensor, embeddings: Tensor | None, views: Iterable[int]) -> None:
        self.views += views
        self._scores.append(scores)
        self._embeddings += [] if embeddings is None else [embeddings]

    def logits(self) -> Tensor:
        """Returns float32 [classes], as a test computes them."""
        method = self.cfg.DATA.ENSEMBLE_METHOD
        ensemble = ViewEnsemble(1, self.num_views, self.cfg.MODEL.NUM_CLASSES, method)
        videos = torch.zeros(len(self.views), dtype=torch.int64)
        ensemble.update(torch.cat(self._scores), videos, torch.tensor(self.views))
        return logits_of(ensemble.complete(), self.num_views, method)[0]

    def embedding(self) -> np.ndarray | None:
        """Returns the mean, float32 [dim], None if there are no embeddings."""
        return torch.cat(self._embeddings).double().mean(dim=0).float().numpy() if self._embeddings else None
