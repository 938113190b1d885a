"""The files of a test: results.json and predictions.csv (docs/results.md)."""

import csv
import io
import logging
import platform
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejson
import torch
import yaml
from fvcore.common.config import CfgNode

import timesformer
from timesformer.atomic import write_atomically, write_text_atomically
from timesformer.config.differences import differences
from timesformer.datasets.catalog import Splits
from timesformer.engine.checkpoint import newest_progress
from timesformer.errors import UserError, counted, shorten
from timesformer.metrics.calibration import Calibration
from timesformer.metrics.evaluation import Evaluation
from timesformer.metrics.summary import summarize
from timesformer.runtime.device import choose_device, peak_memory
from timesformer.runtime.run_folder import TEST_FOLDER, move_aside, result_files, results_path

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
TOP_LISTED = 5
_AFFECTS_RESULTS = {"model", "clips", "evaluation"}  # weights and videos are compared themselves


def write_results(
    cfg: CfgNode,
    evaluation: Evaluation,
    calibration: Calibration,
    splits: Splits,
    checkpoint: Path,
    content: dict[str, Any],
    weights: str,
    reference: Sequence[dict[str, Any]] = (),
) -> None:
    """Writes the results of a test into OUTPUT_DIR, and logs a summary.

    `content` are the entries of the tested checkpoint besides the weights, and `weights` is their fingerprint;
    `reference` are results of other classifiers of the same features.
    """
    output, path, device = Path(cfg.OUTPUT_DIR), results_path(cfg), choose_device(cfg)
    output.mkdir(parents=True, exist_ok=True)
    progress = content.get("progress") or {}
    probe = content.get("probe_state") or {}  # of heads on cached features
    newest = probe or newest_progress(checkpoint, progress)
    class_names, metrics = splits["test"].class_names, evaluation.metrics()
    results = {
        "schema_version": SCHEMA_VERSION,
        **{name: round(value, 4) for name, value in metrics.items() if name != "loss"},
        "num_videos": len(evaluation.names),
        "num_classes": len(class_names),
        "num_views": evaluation.num_views,
        "class_names": list(class_names),
        "per_class": [
            {
                "class": name,
                "num_videos": counts.videos,
                "correct": counts.correct,
                "predicted": counts.predicted,
                "top1": round(100.0 * counts.correct / counts.videos, 4) if counts.videos else None,
            }
            for name, counts in zip(class_names, evaluation.by_class(), strict=True)
        ],
        "class_counts": class_counts(splits, evaluation),
        "metrics": summarize(evaluation, class_names, calibration),
        "shuffled": evaluation.shuffled_metrics(),
        "unreadable": [{"video": name, "reason": reason} for name, reason in sorted(evaluation.unreadable.items())],
        "loss": evaluation.loss,
        "seconds": round(evaluation.seconds, 3),
        "train_seconds": round(progress["seconds"], 3) if "seconds" in progress else None,
        "total_train_seconds": round(newest["seconds"], 3) if "seconds" in newest else None,
        "peak_memory_bytes": peak_memory(device),
        "checkpoint": str(checkpoint),
        "weights": weights,
        "checkpoint_epochs": progress.get("epoch"),
        "total_epochs": newest.get("epoch"),
        "val_top1": validation_top1(content),
        **({"grid": probe["grid"]} if probe else {}),
        **({"reference": list(reference)} if reference else {}),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "config": yaml.safe_load(cfg.dump()),
        "versions": {
            "timesformer": timesformer.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "av": av.__version__,
            "numpy": np.__version__,
            "cuda": torch.version.cuda or "",
            "machine": platform.machine(),
            "system": platform.system(),
        },
    }
    write_text_atomically(output / "predictions.csv", predictions_csv(evaluation, class_names))
    if cfg.TEST.SAVE_RESULTS_PATH:
        scores = output / cfg.TEST.SAVE_RESULTS_PATH
        if scores.exists() and not path.exists():  # of another test
            move_aside(scores.parent, [scores])
        arrays = {"scores": evaluation.scores.numpy(), "labels": evaluation.labels.numpy()}
        if evaluation.shuffled_scores is not None:
            arrays["shuffled_scores"] = evaluation.shuffled_scores.numpy()
        write_atomically(scores, lambda file: np.savez_compressed(file, **arrays, names=np.array(evaluation.names)))
    write_text_atomically(path, simplejson.dumps(results, indent=2, ignore_nan=True) + "\n")
    logger.info(
        f"test: {evaluation.describe()}; {len(evaluation.names)} videos ({len(evaluation.unreadable)} unreadable), "
        f"{counted(evaluation.num_views, 'view')} each, {evaluation.seconds:.1f} s\n"
        f"results: {path}"
    )
    if (trivial := evaluation.baselines()) and not trivial.is_beaten:
        logger.warning(trivial.warning(class_names))
    if shuffled := results["shuffled"]:
        logger.info(
            "with shuffled frames: top-1 {top1:.2f} % (in order {difference:+.2f} points); {only_original} videos are "
            "correct only in order, {only_shuffled} only shuffled".format(**shuffled)
        )


def validation_top1(content: dict[str, Any]) -> float | None:
    """Validation top-1 in percent of the weights of a checkpoint with this content; None if they were not validated."""
    progress = content.get("progress") or {}
    is_validated = progress.get("validated") == progress.get("epoch") and not progress.get("iteration")
    # With a moving average, that was validated.
    return progress.get("last_top1") if is_validated and "ema_state" not in content else None


def class_counts(splits: Splits, evaluation: Evaluation) -> dict[str, list[int] | None]:
    """Videos per class in "train", "val" and "test", in label order; None for a split that cannot be found."""
    counts: dict[str, list[int] | None] = {"train": None, "val": None}
    for split in counts:
        with suppress(UserError):  # a test needs no training data
            counts[split] = np.bincount(splits[split].records.labels, minlength=len(splits[split].class_names)).tolist()
    return counts | {"test": [counts_of_class.videos for counts_of_class in evaluation.by_class()]}


def predictions_csv(evaluation: Evaluation, class_names: tuple[str, ...]) -> str:
    """A line per video: name, true class, the most probable classes with their probabilities, and any error."""
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


def folder_for_results(cfg: CfgNode, weights: str, videos: Sequence[str]) -> Path:
    """The folder for the results of a test: OUTPUT_DIR, unless that has results of other weights, options or videos.

    A run that trains moves those to `previous_N`. A test alone keeps them, and goes to `test_<clips>x<crops>`, with a
    number if that has other results. `weights` is the fingerprint of the tested weights.
    """
    output = Path(cfg.OUTPUT_DIR)
    if not results_path(cfg).exists() or not (changed := _test_differences(output, cfg, weights, videos)):
        return output
    reason = shorten(changed, "; ", 3)
    if cfg.TRAIN.ENABLE or not _read_results(output):
        target = move_aside(output, result_files(cfg))
        logger.info("the results of another test (%s) were moved to %s", reason, target)
        return output
    name = f"{TEST_FOLDER}{cfg.TEST.NUM_ENSEMBLE_VIEWS}x{cfg.TEST.NUM_SPATIAL_CROPS}"
    for number in count(1):
        folder = output / (name if number == 1 else f"{name}_{number}")
        if not (folder / "results.json").exists() or not _test_differences(folder, cfg, weights, videos):
            break
    logger.info("%s has results of another test (%s); these go to %s", output, reason, folder)
    return folder


def _test_differences(folder: Path, cfg: CfgNode, weights: str, videos: Sequence[str]) -> list[str]:
    """How a test differs from the one whose results are in a folder; empty if it is the same."""
    results = _read_results(folder)
    if not results:
        return ["results.json is damaged"]
    changed = [str(change) for change in differences(results["config"], cfg) if change.effects & _AFFECTS_RESULTS]
    if results.get("weights") != weights:
        changed.append(f"other weights of {results.get('checkpoint')}")
    if sorted(_read_videos(folder)) != sorted(videos):
        changed.append("other videos")
    return changed


def _read_results(folder: Path) -> dict[str, Any]:
    """The content of results.json; empty if it is damaged."""
    try:
        results = simplejson.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if "config" in results else {}


def _read_videos(folder: Path) -> list[str]:
    try:
        with (folder / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [row["video"] for row in csv.DictReader(file)]
    except (OSError, KeyError, csv.Error):
        return []
