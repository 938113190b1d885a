"""Using a trained model: a checkpoint is loaded with all it says of itself, and tells what is to be seen in videos."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config.check import check_use
from timesformer.config.load import ConfigError, load_for_use
from timesformer.datasets.clips import SampledClip
from timesformer.datasets.loader import available_cores
from timesformer.engine.evaluate import load_whole, score_views
from timesformer.engine.meters import ViewEnsemble
from timesformer.engine.results import probabilities_of
from timesformer.errors import UserError, shorten
from timesformer.inference.clip_batches import ClipBatches, views_in_time
from timesformer.models.parts import head_names
from timesformer.models.weights.loading import Checkpoint, CheckpointError, fingerprint, read_checkpoint
from timesformer.runtime.device import set_float32_precision
from timesformer.torchvision_import import import_package

logger = logging.getLogger(__name__)

Video = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model sees in a video.

    Attributes:
        video: its path, as given.
        top: the most probable classes with their probability, falling.
        probabilities: float32 [classes], of all of them, in the order of the class names; they add up to 1.
        num_views: views of the video that were joined.
        embedding: float32 [dim], what goes into the model's head, mean over the views; None where not asked for.
        clips: the views, where they were to be kept.
        seconds: the time it took.
        error: why there is no prediction, all else then being empty; "" where there is one.
    """

    video: str
    top: list[tuple[str, float]] = field(default_factory=list)
    probabilities: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    num_views: int = 0
    embedding: np.ndarray | None = None
    clips: list[SampledClip] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        classes = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in self.top)
        return self.error or f"{self.video}: {classes}"


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    cfg_opts: Sequence[str] = (),
    *,
    cfg: str | Path | None = None,
) -> "Classifier":
    """Loads a trained model from its checkpoint alone, ready to be used.

    A checkpoint of this project holds its configuration and the names of its classes; a folder of transformers says
    most of it, and what is assumed is in `Classifier.notes`. For others: 400 classes without names are Kinetics-400's,
    where torchvision is there to tell them; other classes are called by their number.

    Args:
        path: of the checkpoint, the folder of a run, or another place that `timesformer.config.sources` knows.
        device: to compute on; None: the GPU where there is one, else the CPU.
        cfg_opts: KEY VALUE KEY VALUE ..., which override the checkpoint's configuration.
        cfg: a YAML file that takes the place of the checkpoint's configuration, for checkpoints that have none.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not fit the configuration, or has none.
        ConfigError: if an option is unknown or makes no sense.
        UserError: if there is no such device, or a package is missing.
    """
    chosen = _device(device)
    checkpoint = read_checkpoint(path)
    saved = checkpoint.rest.get("cfg")
    if cfg is None and not isinstance(saved, str):
        reason = "".join(f" ({reason})" for reason in checkpoint.assumed)
        raise CheckpointError(
            f"{path} holds no configuration, as this project's and the original's checkpoints do{reason}: give the "
            "YAML file that its model was trained with (--cfg FILE, or cfg=FILE in Python)"
        )
    path = checkpoint.source
    options, notes = load_for_use(saved if isinstance(saved, str) else "", f"configuration in {path}", cfg, cfg_opts)
    options.NUM_GPUS = int(chosen.type == "cuda")
    if chosen.type == "cpu" and options.TRAIN.MIXED_PRECISION == "fp16":
        options.TRAIN.MIXED_PRECISION = "off"
        notes.append("it was trained in half precision (fp16), which CPUs do not have: computed in float32")
    set_float32_precision(options)
    model, report = load_whole(options, checkpoint)
    notes += [*(checkpoint.assumed if cfg is None else ()), *report.notes]
    names, note = _class_names(checkpoint, options)
    if note:
        notes.append(note)
    return Classifier(options, model.to(chosen).eval(), names, chosen, path, notes)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the device {device} cannot be used ({reason}); choose cpu, or leave it out") from error
    return chosen


def _class_names(checkpoint: Checkpoint, cfg: CfgNode) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and a note where they are not the checkpoint's own."""
    names, wanted = checkpoint.facts.class_names, cfg.MODEL.NUM_CLASSES
    if len(names) == wanted:
        return tuple(map(str, names)), ""
    numbered = tuple(f"class {number}" for number in range(wanted))
    if wanted == 400 and cfg.TRAIN.DATASET == "kinetics":
        try:
            models = import_package("torchvision.models.video", "names of Kinetics-400's classes")
            return tuple(models.R3D_18_Weights.DEFAULT.meta["categories"]), "its classes are taken for Kinetics-400's"
        except UserError as error:
            return numbered, f"its classes have no names ({error})"
    return numbered, "its classes have no names: it was saved without them"


class Classifier:
    """A trained model with all that is needed to use it.

    Attributes:
        cfg: its configuration, changed by the overrides.
        model: in evaluation mode, on the device; clips [batch, 3, T, H, W] (float, normalised) to logits.
        class_names: in the order of the model's outputs.
        device: that it computes on.
        path: of its checkpoint.
        notes: what else should be known of it, a line each.
        lock: held while the model computes, so that several threads can use it; whoever hooks into the model for a
            while takes it, too.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        class_names: tuple[str, ...],
        device: torch.device,
        path: str | Path,
        notes: list[str],
    ) -> None:
        self.cfg, self.model, self.class_names, self.device = cfg, model, class_names, device
        self.path, self.notes, self.lock = path, notes, RLock()

    def __repr__(self) -> str:
        data, test = self.cfg.DATA, self.cfg.TEST
        views = test.NUM_ENSEMBLE_VIEWS * test.NUM_SPATIAL_CROPS
        size = f"{data.NUM_FRAMES} frames of {data.TEST_CROP_SIZE} x {data.TEST_CROP_SIZE} pixels"
        lines = [
            f"Classifier of {len(self.class_names)} classes: {shorten(self.class_names)}",
            f"  {self.cfg.MODEL.MODEL_NAME}, {size}, {views} view{'s' * (views > 1)} of a video, on {self.device}",
            f"  from {self.path}",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def fingerprint(self) -> str:
        """A number, in hexadecimal digits, that another model has not: of its weights and the names of its classes."""
        return fingerprint(self.model, self.class_names)

    def predict(
        self,
        video: Video,
        *,
        top_k: int = 5,
        views: int | None = None,
        crops: int | None = None,
        sampler: str | None = None,
        keep_clips: bool = False,
        features: bool = False,
    ) -> Prediction:
        """What is to be seen in a video, as a test of the same checkpoint would have it.

        Args:
            video: path of a video file or a folder of frames.
            top_k: classes in `Prediction.top`.
            views: clips taken along the time; None: TEST.NUM_ENSEMBLE_VIEWS of the checkpoint.
            crops: of each clip, 1 (centre) or 3 (along the longer side); None: TEST.NUM_SPATIAL_CROPS.
            sampler: dense, uniform, equidistant, random or segment; None: that of the checkpoint's tests. What is
                random depends on RNG_SEED alone.
            keep_clips: keep the views in `Prediction.clips`.
            features: fill `Prediction.embedding`.

        Raises:
            VideoError: if the video cannot be read.
            ConfigError: if there is no such sampler or number of views or crops.
        """
        start = time.perf_counter()
        cfg = self.options(views, crops, sampler)
        summary, kept = Summary(cfg), []
        for clips in views_in_time(cfg, os.fspath(video)):
            scores, embeddings = self.compute(torch.stack([clip.clip for clip in clips]), features)
            summary.add(scores, embeddings, [clip.view for clip in clips])
            kept += clips if keep_clips else []
        return self.prediction(os.fspath(video), summary, top_k, kept, time.perf_counter() - start)

    def predict_many(
        self,
        videos: Iterable[Video],
        *,
        top_k: int = 5,
        views: int | None = None,
        crops: int | None = None,
        sampler: str | None = None,
        keep_clips: bool = False,
        features: bool = False,
        workers: int | None = None,
    ) -> Iterator[Prediction]:
        """`predict` for many videos, read by several processes and computed in batches.

        Predictions come in the order of the videos. One that cannot be read has its reason in `Prediction.error`; so
        has one that makes the decoder hang or crash. Memory does not grow with their number.

        Args:
            videos: paths of video files or folders of frames.
            workers: processes that read; None: one for each core; 0: read in this process.

        Other arguments and errors are those of `predict`.
        """
        paths = [os.fspath(video) for video in videos]
        cfg = self.options(views, crops, sampler)
        come: dict[int, Prediction] = {}
        following = 0
        with closing(self.as_completed(cfg, paths, top_k, keep_clips, features, workers)) as predictions:
            for number, prediction in predictions:
                come[number] = prediction
                while following in come:
                    yield come.pop(following)
                    following += 1

    def as_completed(
        self,
        cfg: CfgNode,
        paths: Sequence[str],
        top_k: int = 5,
        keep_clips: bool = False,
        features: bool = False,
        workers: int | None = None,
        finished: bytes | bytearray = b"",
    ) -> Iterator[tuple[int, Prediction]]:
        """`predict_many` in the order in which predictions get complete, each with the number of its path.

        Args:
            cfg: what `options` returned.
            paths: of the videos.
            finished: of each path, 1 where it is not wanted; empty: all are. The others get the very predictions that
                they get together with those.
        """
        workers = available_cores() if workers is None else workers
        batches = iter(ClipBatches(cfg, paths, workers, keep_clips, finished))
        begun: dict[int, _Begun] = {}
        failed: set[int] = set()  # those of which some views may still come
        with closing(batches):
            for batch in batches:
                for number, error in batch.errors.items():
                    begun.pop(number, None)
                    if number not in failed:
                        failed.add(number)
                        yield number, Prediction(paths[number], error=error)
                if not batch.parts:
                    continue
                start = time.perf_counter()
                scores, embeddings = self.compute(batch.clips, features)
                share = (time.perf_counter() - start) / len(batch.clips)
                for index, part in enumerate(batch.parts):
                    if part.video in failed:
                        continue
                    video = begun.setdefault(part.video, _Begun(Summary(cfg)))
                    video.seconds += batch.seconds[index] + share * len(part.views)
                    video.clips += batch.sampled[index] if keep_clips else []
                    rows = part.rows
                    if video.summary.add(scores[rows], None if embeddings is None else embeddings[rows], part.views):
                        del begun[part.video]
                        clips = sorted(video.clips, key=lambda clip: clip.view)
                        yield part.video, self.prediction(part.path, video.summary, top_k, clips, video.seconds)

    def embed(
        self, video: Video, *, views: int | None = None, crops: int | None = None, sampler: str | None = None
    ) -> np.ndarray:
        """What goes into the model's head, mean over the views of a video, float32 [dim]; arguments as `predict`."""
        embedding = self.predict(video, views=views, crops=crops, sampler=sampler, features=True).embedding
        assert embedding is not None
        return embedding

    def clips(
        self, video: Video, views: int | None = None, crops: int | None = None, sampler: str | None = None
    ) -> list[SampledClip]:
        """All views of a video, as the model gets them; arguments and errors as `predict`."""
        return [
            clip for clips in views_in_time(self.options(views, crops, sampler), os.fspath(video)) for clip in clips
        ]

    def options(self, views: int | None = None, crops: int | None = None, sampler: str | None = None) -> CfgNode:
        """The configuration with other views; arguments and errors as `predict`."""
        cfg = self.cfg.clone()
        given = (("TEST.NUM_ENSEMBLE_VIEWS", views), ("TEST.NUM_SPATIAL_CROPS", crops), ("DATA.TEST_SAMPLER", sampler))
        changes = [part for key, value in given if value is not None for part in (key, value)]
        cfg.merge_from_list(changes)
        if changes and (problems := check_use(cfg)):
            raise ConfigError(problems)
        return cfg

    def compute(self, clips: Tensor, features: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits of clips and, if asked for, what goes into the head.

        Args:
            clips: uint8 [batch, 3, T, H, W], as `SampledClip.clip`.
            features: give embeddings too.

        Returns:
            float32 [batch, classes], and float32 [batch, dim] or None, both on the CPU.
        """
        with self.lock, HeadInput(self.model) if features else nullcontext() as seen:
            scores = score_views(self.model, clips, self.cfg, self.device)
        return scores.cpu(), seen.embeddings(len(clips)).cpu() if seen else None

    def prediction(
        self, video: str, summary: "Summary", top_k: int, clips: list[SampledClip], seconds: float
    ) -> Prediction:
        """What the views of a video amount to."""
        probabilities = summary.probabilities()
        best = probabilities.topk(min(top_k, len(self.class_names)))
        top = [(self.class_names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        return Prediction(video, top, probabilities.numpy(), summary.num_views, summary.embedding(), clips, seconds)


class Summary:
    """The views of one video, joined as a test joins them, in whatever order they come."""

    def __init__(self, cfg: CfgNode) -> None:
        self.num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        self._views = ViewEnsemble(1, self.num_views, cfg.MODEL.NUM_CLASSES, cfg.DATA.ENSEMBLE_METHOD)
        self._embeddings: Tensor | None = None
        self._missing = self.num_views

    def add(self, scores: Tensor, embeddings: Tensor | None, views: Sequence[int]) -> bool:
        """Takes in the scores [n, classes] and embeddings [n, dim] of views; whether these were the last ones."""
        self._views.update(scores, torch.zeros(len(scores), dtype=torch.int64), torch.tensor(views))
        if embeddings is not None:
            total = embeddings.double().sum(dim=0)
            self._embeddings = total if self._embeddings is None else self._embeddings + total
        self._missing -= len(scores)
        return not self._missing

    def probabilities(self) -> Tensor:
        """float32 [classes]."""
        return probabilities_of(self._views.complete(), self.num_views, self._views.method)[0]

    def embedding(self) -> np.ndarray | None:
        """float32 [dim]; None where there was none."""
        return None if self._embeddings is None else (self._embeddings / self.num_views).float().numpy()


@dataclass
class _Begun:
    """A video some views of which have come."""

    summary: Summary
    clips: list[SampledClip] = field(default_factory=list)
    seconds: float = 0.0


class HeadInput:
    """Notes what goes into the head of a model during a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._head = model.model.get_submodule(head_names(model)[0])
        self._seen: Tensor | None = None

    def __enter__(self) -> "HeadInput":
        self._hook = self._head.register_forward_pre_hook(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _note(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0].detach()

    def embeddings(self, batch: int) -> Tensor:
        """float32 [batch, dim]: mean over places, where the head is applied to each, and over frames."""
        assert self._seen is not None
        seen = self._seen.float()
        if seen.ndim > 2:
            channels_first = isinstance(self._head, nn.Conv2d | nn.Conv3d)
            seen = seen.flatten(2).mean(dim=2) if channels_first else seen.flatten(1, -2).mean(dim=1)
        return seen.unflatten(0, (batch, -1)).mean(dim=1)
