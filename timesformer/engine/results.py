"""The outcome of scoring a split, and the files a test leaves: results.json and predictions.csv (docs/results.md)."""

import csv
import io
import logging
import platform
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import simplejson
import torch
import yaml
from fvcore.common.config import CfgNode
from torch import Tensor

import timesformer
from timesformer.atomic import write_atomically, write_text_atomically
from timesformer.datasets.catalog import load_split
from timesformer.engine.checkpoint import newest_progress
from timesformer.engine.meters import topk_accuracies
from timesformer.errors import UserError
from timesformer.runtime.device import choose_device, peak_memory
from timesformer.runtime.run_folder import move_aside, results_path

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
TOP_LISTED = 5


class Counts(NamedTuple):
    """Videos of a class: of it, of it and predicted as it, and predicted as it (unreadable ones have no prediction)."""

    videos: int
    correct: int
    predicted: int


def probabilities_of(scores: Tensor, num_views: int, method: str) -> Tensor:
    """Softmax [videos, classes] of logits joined over the views: of their mean for "sum", of the largest for "max"."""
    return (scores / (num_views if method == "sum" else 1)).softmax(dim=1)


@dataclass
class Evaluation:
    """Scores of every video of a split.

    Attributes:
        names: names of the videos, in the order of the rows of `scores`.
        labels: [videos], int64.
        scores: [videos, classes], logits joined over the views.
        probabilities: [videos, classes], softmax of the scores of a view (their mean for "sum", the largest for "max").
        unreadable: reason by name of the videos that could not be read; they count as misses.
        loss: mean cross entropy of the readable clips.
        num_views: views of each video.
        seconds: time it took.
    """

    names: list[str]
    labels: Tensor
    scores: Tensor
    probabilities: Tensor
    unreadable: dict[str, str]
    loss: float
    num_views: int
    seconds: float

    @property
    def readable(self) -> Tensor:
        """[videos], bool."""
        return torch.tensor([name not in self.unreadable for name in self.names])

    def topk(self, *ks: int) -> list[float]:
        """Top-k accuracy in percent of all videos, where an unreadable one is a miss for every k."""
        readable = self.readable
        share = readable.float().mean().item()
        return [share * value for value in topk_accuracies(self.scores[readable], self.labels[readable], ks)]

    def by_class(self) -> list[Counts]:
        """How the videos of each class fared."""
        readable, predicted = self.readable, self.scores.argmax(dim=1)
        classes, right = self.scores.shape[1], self.labels[readable & (predicted == self.labels)]
        columns = [values.bincount(minlength=classes).tolist() for values in (self.labels, right, predicted[readable])]
        return [Counts(*counts) for counts in zip(*columns, strict=True)]

    def mean_class_top1(self) -> float:
        """Mean of the classes' top-1 accuracies in percent, so that each class counts alike, whatever its size."""
        shares = [counts.correct / counts.videos for counts in self.by_class() if counts.videos]
        return 100.0 * sum(shares) / len(shares)


def write_results(
    cfg: CfgNode,
    evaluation: Evaluation,
    class_names: tuple[str, ...],
    checkpoint: Path,
    content: dict[str, Any],
    weights: str,
) -> Path:
    """Writes the results of a test into OUTPUT_DIR and logs a summary.

    What lies there of another test, `folder_for_results` has moved; a file TEST.SAVE_RESULTS_PATH elsewhere that is
    not of the same test gets another name.

    Args:
        cfg: the configuration.
        evaluation: what `evaluate` found.
        class_names: names in label order.
        checkpoint: the file tested.
        content: what it holds besides the weights; its `progress` (`Progress`) is missing in one from elsewhere.
        weights: fingerprint of the tested weights.

    Returns:
        The path of `results.json`.
    """
    output = Path(cfg.OUTPUT_DIR)
    output.mkdir(parents=True, exist_ok=True)
    progress = content.get("progress") or {}
    whole = newest_progress(checkpoint, progress)
    (top1, top5), mean_class_top1 = evaluation.topk(1, 5), evaluation.mean_class_top1()
    results = {
        "schema_version": SCHEMA_VERSION,
        "top1": round(top1, 4),
        "top5": round(top5, 4),
        "mean_class_top1": round(mean_class_top1, 4),
        "num_videos": len(evaluation.names),
        "num_classes": len(class_names),
        "num_views": evaluation.num_views,
        "class_names": list(class_names),
        "per_class": per_class(evaluation, class_names),
        "class_counts": class_counts(cfg, evaluation),
        "unreadable": [{"video": name, "reason": reason} for name, reason in sorted(evaluation.unreadable.items())],
        "loss": evaluation.loss,
        "seconds": round(evaluation.seconds, 3),
        "train_seconds": _seconds(progress),
        "total_train_seconds": _seconds(whole),
        "peak_memory_bytes": peak_memory(choose_device(cfg)),
        "checkpoint": str(checkpoint),
        "weights": weights,
        "checkpoint_epochs": progress.get("epoch"),
        "total_epochs": whole.get("epoch"),
        "val_top1": validation_top1(content),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device_name(cfg),
        "config": yaml.safe_load(cfg.dump()),
        "versions": versions(),
    }
    write_text_atomically(output / "predictions.csv", predictions_csv(evaluation, class_names))
    path = results_path(cfg)
    if cfg.TEST.SAVE_RESULTS_PATH:
        scores = output / cfg.TEST.SAVE_RESULTS_PATH
        if scores.exists() and not path.exists():
            logger.info("%s is of another test; it is now in %s", scores, move_aside(scores.parent, [scores]))
        write_atomically(
            scores,
            lambda file: np.savez_compressed(
                file,
                scores=evaluation.scores.numpy(),
                labels=evaluation.labels.numpy(),
                names=np.array(evaluation.names),
            ),
        )
    write_text_atomically(path, simplejson.dumps(results, indent=2, ignore_nan=True) + "\n")
    logger.info(
        "test: top-1 %.2f %%, top-5 %.2f %%, mean over classes %.2f %%; %d videos (%d unreadable), %d view(s) each, "
        "%.1f s\nresults: %s, %s",
        top1,
        top5,
        mean_class_top1,
        len(evaluation.names),
        len(evaluation.unreadable),
        evaluation.num_views,
        evaluation.seconds,
        path,
        output / "predictions.csv",
    )
    return path


def validation_top1(content: dict[str, Any]) -> float | None:
    """Validation top-1 of the weights of a checkpoint, in percent; None where these were not validated.

    Args:
        content: what the checkpoint holds besides the weights.
    """
    progress = content.get("progress") or {}
    epoch = progress.get("epoch")
    if "ema_state" in content or progress.get("iteration") or progress.get("validated", epoch) != epoch:
        return None  # what is validated of a run with EMA.ENABLED is the averaged weights
    if progress.get("last_top1") is not None:
        return progress["last_top1"]
    # Checkpoints of older versions have the best alone, which is -1 before the first validation.
    best = progress.get("best_top1")
    return best if best is not None and best >= 0 and progress.get("best_epoch") == epoch else None


def _seconds(progress: dict[str, Any]) -> float | None:
    return round(progress["seconds"], 3) if "seconds" in progress else None


def per_class(evaluation: Evaluation, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """For each class: its name, the counts of `Counts`, and top-1 in percent (None without videos)."""
    return [
        {
            "class": name,
            "num_videos": counts.videos,
            "correct": counts.correct,
            "predicted": counts.predicted,
            "top1": round(100.0 * counts.correct / counts.videos, 4) if counts.videos else None,
        }
        for name, counts in zip(class_names, evaluation.by_class(), strict=True)
    ]


def class_counts(cfg: CfgNode, evaluation: Evaluation) -> dict[str, list[int] | None]:
    """Videos of each class in "train", "val" and "test", in label order; None for a split that is not at hand."""
    counts: dict[str, list[int] | None] = {}
    datasets = logging.getLogger("timesformer.datasets")
    level = datasets.level
    datasets.setLevel(logging.ERROR)  # training has said what there is to say of these splits
    for split in ("train", "val"):
        try:
            labels = load_split(cfg, split).records.labels
        except UserError as error:  # to test a checkpoint needs no training data
            logger.debug("the clips of the %s split are not counted: %s", split, error)
            counts[split] = None
        else:
            counts[split] = np.bincount(labels, minlength=cfg.MODEL.NUM_CLASSES).tolist()
    datasets.setLevel(level)
    return counts | {"test": [counts_of_class.videos for counts_of_class in evaluation.by_class()]}


def device_name(cfg: CfgNode) -> str:
    """What the run computes on, such as "NVIDIA H200" or "CPU"."""
    device = choose_device(cfg)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def predictions_csv(evaluation: Evaluation, class_names: tuple[str, ...]) -> str:
    """A line for each video: name, true class, the most probable classes with their probability, and any error.

    The probability is the softmax of the scores of a view: their mean for "sum", the largest for "max".
    """
    listed = min(TOP_LISTED, len(class_names))
    columns = [column for rank in range(1, listed + 1) for column in (f"class_{rank}", f"probability_{rank}")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "label", *columns, "error"])
    top = evaluation.probabilities.topk(listed, dim=1)
    for row, (name, label) in enumerate(zip(evaluation.names, evaluation.labels.tolist(), strict=True)):
        error = evaluation.unreadable.get(name, "")
        cells: list[str] = [""] * len(columns)
        if not error:
            cells[::2] = [class_names[index] for index in top.indices[row].tolist()]
            cells[1::2] = [f"{value:.6f}" for value in top.values[row].tolist()]
        writer.writerow([name, class_names[label], *cells, error])
    return text.getvalue()


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "timesformer": timesformer.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda or "",
        "machine": platform.machine(),
        "system": platform.system(),
    }
