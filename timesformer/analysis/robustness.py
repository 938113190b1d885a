"""Tests a checkpoint on its test set under corruptions; results are kept after each one, so that a test can resume."""

import csv
import io
import logging
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import torch
from fvcore.common.config import CfgNode
from numpy.random import RandomState
from PIL import Image
from torch import Tensor

from timesformer.analysis.corruptions import Corruption
from timesformer.atomic import report_write_errors, write_atomically, write_text_atomically
from timesformer.config.differences import affecting
from timesformer.datasets.catalog import load_split
from timesformer.datasets.clips import ClipDataset, ClipMaker
from timesformer.datasets.decoding.base import VideoReader
from timesformer.datasets.loader import batch_loader
from timesformer.datasets.records import DatasetSplit, VideoRecord
from timesformer.datasets.workers.dataloader import report_worker_death
from timesformer.engine.evaluate import evaluate
from timesformer.errors import UserError, shorten
from timesformer.inference.classifier import Classifier
from timesformer.metrics.baselines import baselines
from timesformer.metrics.classification import has_top5
from timesformer.metrics.evaluation import Evaluation
from timesformer.models.weights.loading import hash_tensors
from timesformer.runtime.logging import duration
from timesformer.runtime.run_folder import with_output_dir

logger = logging.getLogger(__name__)

JSON, CSV, EXAMPLES = "robustness.json", "robustness.csv", "robustness_examples"
SCHEMA_VERSION = 1
_REMEDY = "choose another --output"


class _RetimingMaker(ClipMaker):
    """Makes clips of videos with another frame rate."""

    def __init__(self, cfg: CfgNode, corruption: Corruption, value: float) -> None:
        super().__init__(cfg, "test")
        self._retime = corruption.timing
        self._value = value

    def open(self, record: VideoRecord) -> VideoReader:
        return self._retime(super().open(record), self._value)


class CorruptedClips(ClipDataset):
    """The test clips under a corruption with a parameter.

    Frame rates act on the video before sampling; pixels and frame order on the sampled and cropped clip. Random numbers
    depend on (RNG_SEED, video, view) alone.
    """

    def __init__(self, cfg: CfgNode, found: DatasetSplit, corruption: Corruption, value: float) -> None:
        super().__init__(cfg, "test", found)
        self._corruption, self._value, self._is_bgr = corruption, value, cfg.DATA.REVERSE_INPUT_CHANNEL
        if corruption.timing:
            self.maker = _RetimingMaker(cfg, corruption, value)

    def load_view(self, video: int, view: int, rng: RandomState) -> Tensor:
        clip = super().load_view(video, view, rng)
        return corrupt(clip, self._corruption, self._value, (self._seed, video, view), self._is_bgr)


def corrupt(clip: Tensor, corruption: Corruption, value: float, key: Sequence[int], is_bgr: bool = False) -> Tensor:
    """A clip, uint8 [3, frames, height, width], with its pixels or frame order corrupted; `key` is the seed."""
    if corruption.order:
        return clip[:, torch.from_numpy(corruption.order(clip.shape[1], value, key))]
    if not corruption.pixels:
        return clip
    frames = (clip.flip(0) if is_bgr else clip).permute(1, 2, 3, 0).contiguous().numpy()
    corrupted = corruption.pixels(frames, value, np.random.default_rng(key))
    clip = torch.from_numpy(np.ascontiguousarray(corrupted)).permute(3, 0, 1, 2)
    return (clip.flip(0) if is_bgr else clip).contiguous()


class Robustness:
    """The test of a classifier under corruptions, and its files in a folder.

    Raises UserError if the folder has results of other weights, options or videos, unless `overwrite`.
    """

    def __init__(self, classifier: Classifier, output: Path, overwrite: bool = False) -> None:
        self._classifier, self._output = classifier, output
        self._cfg = with_output_dir(classifier.cfg, output)
        self._cfg.TEST.MEASURE_ORDER = False
        self._found = load_split(self._cfg, "test")
        options = affecting(self._cfg, "model", "clips", "evaluation")
        names = list(self._found.records.names)
        videos = hash_tensors({}, "\0".join(names))
        settings = {"weights": classifier.fingerprint(), "videos": videos, **options}
        self._settings = simplejson.loads(simplejson.dumps(settings))  # tuples become lists
        with report_write_errors(output, _REMEDY):
            output.mkdir(parents=True, exist_ok=True)
        self.results = read_robustness(output) or {}
        if self.results and self.results.get("settings") != self._settings:
            saved = self.results.get("settings") or {}
            changed = [key for key in self._settings if saved.get(key) != self._settings[key]]
            if not overwrite:
                problem = f"{output / JSON} has results of other {shorten(changed)}"
                raise UserError(f"{problem}: {_REMEDY}, or --overwrite to replace them")
            self.results = {}
        self.results = self.results or {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": str(classifier.path),
            "num_videos": len(names),
            "num_classes": len(self._found.class_names),
            "settings": self._settings,
            "clean": None,
            "corruptions": {},
        }
        trivial = baselines(np.bincount(self._found.records.labels, minlength=self.results["num_classes"]), 0)
        self.results |= {"chance": trivial.chance, "majority": trivial.majority}

    def write_examples(self, corruptions: Sequence[Corruption]) -> None:
        """Writes EXAMPLES/<name>.jpg: a frame of a test clip, and the frame with pixels corrupted by each severity."""
        dataset = ClipDataset(self._cfg, "test", self._found)
        items = (dataset[video * dataset.num_views] for video in range(min(len(dataset.records), 10)))
        item = next((item for item in items if item["readable"]), None)
        folder, is_bgr = self._output / EXAMPLES, self._cfg.DATA.REVERSE_INPUT_CHANNEL
        for corruption in corruptions if item else ():
            path = folder / f"{corruption.name}.jpg"
            if not corruption.pixels:
                continue
            key = (self._cfg.RNG_SEED, item["video"], item["view"])
            clips = [corrupt(item["clip"], corruption, value, key, is_bgr) for value in corruption.values]
            frames = torch.stack([clip[:, clip.shape[1] // 2] for clip in (item["clip"], *clips)])
            frames = (frames.flip(1) if is_bgr else frames).permute(2, 0, 3, 1)  # side by side
            image = Image.fromarray(frames.flatten(1, 2).numpy())
            with report_write_errors(path, _REMEDY):
                folder.mkdir(exist_ok=True)
                write_atomically(path, lambda file, image=image: image.save(file, "JPEG", quality=90))

    def run(self, corruptions: Sequence[Corruption], severities: Sequence[int]) -> dict[str, Any]:
        """Tests what is not tested yet, and writes the files after each test; returns all results."""
        tests = [(c, severity) for c in corruptions for severity in severities if not self._saved(c, severity)]
        if done := len(corruptions) * len(severities) - len(tests):
            logger.info("%d of %d tests are finished", done, len(corruptions) * len(severities))
        start = time.perf_counter()
        if self.results["clean"] is None:
            self.results["clean"] = self._test(ClipDataset(self._cfg, "test", self._found), "clean")
            logger.info("clean: top-1 %.2f %%", self.results["clean"]["top1"])
            self._write()
        for number, (corruption, severity) in enumerate(tests, 1):
            value = corruption.values[severity - 1]
            dataset = CorruptedClips(self._cfg, self._found, corruption, value)
            result = self._test(dataset, f"{corruption.title} {severity}")
            entry = {"group": corruption.group, "parameter": corruption.parameter, "severities": {}}
            entry = self.results["corruptions"].setdefault(corruption.name, entry)
            entry["severities"][str(severity)] = {"value": value, **result}
            self._write()
            seconds = (time.perf_counter() - start) / number * (len(tests) - number)
            logger.info(
                "%d/%d %s, severity %d: top-1 %.2f %% (clean %.2f %%), %s to go",
                number,
                len(tests),
                corruption.title,
                severity,
                result["top1"],
                self.results["clean"]["top1"],
                duration(seconds),
            )
        if not tests:
            self._write()
        return self.results

    def _saved(self, corruption: Corruption, severity: int) -> bool:
        """Whether a test is finished, with the present value of the parameter."""
        entry = self.results["corruptions"].get(corruption.name, {"severities": {}})
        return entry["severities"].get(str(severity), {}).get("value") == corruption.values[severity - 1]

    def _test(self, dataset: ClipDataset, description: str) -> dict[str, Any]:
        loader = batch_loader(self._cfg, dataset, self._cfg.TEST.BATCH_SIZE)
        with report_worker_death(loader):
            evaluation = evaluate(self._classifier.model, loader, self._cfg, description)
        return _summary(evaluation)

    def _write(self) -> None:
        self.results |= {"finished": datetime.now().astimezone().isoformat(timespec="seconds"), **means(self.results)}
        write_text_atomically(self._output / CSV, _csv(self.results))
        text = simplejson.dumps(self.results, indent=1, ignore_nan=True)
        write_text_atomically(self._output / JSON, f"{text}\n")


def read_robustness(folder: Path) -> dict[str, Any] | None:
    """The content of robustness.json in a folder; None if there is none; UserError if it is damaged."""
    path = folder / JSON
    try:
        return simplejson.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {_REMEDY}, or delete it") from error


def means(results: dict[str, Any]) -> dict[str, Any]:
    """Means of the top-1 accuracies over severities, corruptions of a group, and all corruptions, in percent.

    `mean_corruption_top1` is the mean over the corruptions of their mean over the severities; `relative` divides it by
    the accuracy of clean clips. None where nothing is tested.
    """
    by_corruption, groups = {}, {}
    for name, entry in results["corruptions"].items():
        accuracies = [result["top1"] for result in entry["severities"].values()]
        by_corruption[name] = sum(accuracies) / len(accuracies)
        groups.setdefault(entry["group"], []).append(by_corruption[name])
    mean = sum(by_corruption.values()) / len(by_corruption) if by_corruption else None
    clean = (results["clean"] or {}).get("top1")
    return {
        "mean_top1": {name: round(value, 4) for name, value in by_corruption.items()},
        "group_top1": {name: round(sum(values) / len(values), 4) for name, values in groups.items()},
        "mean_corruption_top1": None if mean is None else round(mean, 4),
        "relative": round(100 * mean / clean, 4) if mean is not None and clean else None,
    }


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    metrics = evaluation.metrics()
    return {
        **{name: round(value, 4) for name, value in metrics.items() if name != "loss"},
        "loss": metrics["loss"],
        "correct": int(evaluation.correct.sum()),
        "unreadable": len(evaluation.unreadable),
        "seconds": round(evaluation.seconds, 3),
    }


def _csv(results: dict[str, Any]) -> str:
    """A line for each test; `relative_top1` is in percent of the top-1 of clean clips. `top5` may be missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = ["top1", "top5", "mean_class_top1", "loss", "correct", "unreadable", "seconds"]
    if not has_top5(results["num_classes"]):
        metrics.remove("top5")
    writer.writerow(["corruption", "group", "severity", "parameter", "value", "relative_top1", *metrics])
    clean = results["clean"]
    writer.writerow(["clean", "", 0, "", "", 100.0, *(clean[name] for name in metrics)])
    for name, entry in results["corruptions"].items():
        for severity, result in sorted(entry["severities"].items()):
            relative = round(100 * result["top1"] / clean["top1"], 4) if clean["top1"] else ""
            cells = (name, entry["group"], severity, entry["parameter"], result["value"], relative)
            writer.writerow([*cells, *(result[metric] for metric in metrics)])
    return text.getvalue()
