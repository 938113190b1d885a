"""Writes the charts of a test for TensorBoard, next to the curves of its training."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import simplejson
import torch
from fvcore.common.config import CfgNode
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from timesformer.datasets.catalog import Splits
from timesformer.datasets.clips import SampledClip
from timesformer.datasets.sources.lists import encoding_of
from timesformer.engine.evaluate import build_from_checkpoint
from timesformer.errors import UserError, shorten
from timesformer.inference.classifier import Classifier
from timesformer.models.weights.loading import read_checkpoint
from timesformer.runtime.device import choose_device
from timesformer.runtime.run_folder import tensorboard_folder
from timesformer.visualization import charts
from timesformer.visualization.animation import animate
from timesformer.visualization.confusions import count_confusions
from timesformer.visualization.examples import load_clips, most_confident_errors, shrink
from timesformer.visualization.run_files import FinishedRun, Predictions

_MAX_INPUTS = 12  # clips shown for MODEL_VIS.INPUT_VIDEO
_SECONDS = 2.0  # of an animation


def write_charts(
    cfg: CfgNode, run: FinishedRun, clips: Mapping[str, SampledClip], splits: Splits | None = None
) -> None:
    """Writes what the options in TENSORBOARD ask for; UserError if a file in them is invalid.

    `clips` are test videos that are decoded already, by name.
    """
    step, splits = int(run.metric("checkpoint_epochs") or 0), splits or Splits(cfg)
    with SummaryWriter(str(tensorboard_folder(cfg))) as writer:
        for name in ("top1", "top1_shuffled", "top5", "mean_class_top1", "loss"):
            if (value := run.metric(name)) is not None:
                writer.add_scalar(f"test/{name}", value, step)
        if rows := run.results.get("per_class"):
            top1 = [np.nan if row["top1"] is None else row["top1"] for row in rows]
            writer.add_figure("per_class", charts.per_class(run.class_names, top1), step)
        if run.predictions is not None:
            _add_confusions(writer, cfg, run, step)
            _add_videos(writer, cfg, run, clips, splits, step)
            if cfg.TENSORBOARD.EMBEDDINGS:
                _add_embeddings(writer, cfg, run, splits, step)
        if cfg.TENSORBOARD.MODEL_VIS.ENABLE and cfg.TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS:
            for name, value in read_checkpoint(run.results["checkpoint"]).state.items():
                if value.is_floating_point():
                    writer.add_histogram(f"weights/{name}", value.float(), step)


def _add_confusions(writer: SummaryWriter, cfg: CfgNode, run: FinishedRun, step: int) -> None:
    matrix, histogram, names = cfg.TENSORBOARD.CONFUSION_MATRIX, cfg.TENSORBOARD.HISTOGRAM, run.class_names
    counts = count_confusions(run.predictions, len(names))
    if matrix.ENABLE:
        groups = {"": _read_subset(matrix.SUBSET_PATH, names)}
        groups |= _read_categories(cfg.TENSORBOARD.CATEGORIES_PATH, names)
        for group, numbers in groups.items():
            part, part_names = counts[np.ix_(numbers, numbers)], [names[number] for number in numbers]
            figure = charts.confusion_matrix(part, part_names, group or "Confusion matrix", tuple(matrix.FIGSIZE))
            writer.add_figure(_as_utf8(f"confusion_matrix/{group}".rstrip("/")), figure, step)
    if histogram.ENABLE:
        for number in _read_subset(histogram.SUBSET_PATH, names):
            if counts[number].any():
                figure = charts.predicted_as(counts[number], names, number, histogram.TOPK, tuple(histogram.FIGSIZE))
                writer.add_figure(_as_utf8(f"predicted_as/{names[number]}"), figure, step)


def _add_videos(
    writer: SummaryWriter, cfg: CfgNode, run: FinishedRun, clips: Mapping[str, SampledClip], splits: Splits, step: int
) -> None:
    predictions = run.predictions
    wrong, inputs = cfg.TENSORBOARD.WRONG_PRED_VIS, cfg.TENSORBOARD.MODEL_VIS
    tags: dict[int, str] = {}
    if inputs.ENABLE and inputs.INPUT_VIDEO:
        tags |= dict.fromkeys(_select_evenly(predictions, _MAX_INPUTS), "Input videos")
    if wrong.ENABLE:
        among = np.isin(predictions.labels, _read_subset(wrong.SUBSET_PATH, run.class_names))
        tags |= dict.fromkeys(most_confident_errors(predictions, among=among), wrong.TAG)
    numbers = {predictions.videos[number]: number for number in tags}
    missing = [name for name in numbers if name not in clips]
    for name, clip in [*clips.items(), *(load_clips(cfg, missing, splits) if missing else ())]:
        if (number := numbers.get(name)) is not None:
            guesses = [f"{run.class_names[label]} {100 * p:.0f} %" for label, p in predictions.ranked(number)]
            text = ", ".join(guesses[: inputs.TOPK_PREDS])
            text += "" if predictions.correct[number] else f", not {run.class_names[predictions.labels[number]]}"
            images = np.stack([np.asarray(image) for image in shrink(clip.frames)])
            gif = animate(images, ".gif", len(images) / _SECONDS)  # TensorBoard shows it as an image
            _, height, width, _ = images.shape
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
            value = Summary.Value(tag=_as_utf8(f"{tags[number]}/{name}: {text}"), image=image)
            writer.file_writer.add_summary(Summary(value=[value]), step)


def _add_embeddings(writer: SummaryWriter, cfg: CfgNode, run: FinishedRun, splits: Splits, step: int) -> None:
    """Features of videos of all classes, for TensorBoard's projector."""
    names, predictions, device, path = run.class_names, run.predictions, choose_device(cfg), run.results["checkpoint"]
    model, _ = build_from_checkpoint(cfg, read_checkpoint(path))
    classifier = Classifier(cfg, model.to(device).eval(), tuple(names), device, path, [])
    numbers = {predictions.videos[number]: number for number in _select_evenly(predictions, cfg.TENSORBOARD.EMBEDDINGS)}
    rows, features, images = [], [], []
    for name, clip in load_clips(cfg, numbers, splits):
        guess, truth = predictions.classes[numbers[name], 0], predictions.labels[numbers[name]]
        rows.append([name, names[truth], names[guess] if guess >= 0 else ""])
        features.append(classifier.compute(clip.clip.unsqueeze(0), features=True)[1])
        middle = len(clip.frames) // 2
        images.append(np.asarray(shrink(clip.frames[middle : middle + 1], 48)[0]))
    if not rows:
        return
    folder = tensorboard_folder(cfg)  # add_embedding would append to an earlier test's
    shutil.rmtree(folder / f"{step:05}", ignore_errors=True)
    (folder / "projector_config.pbtxt").unlink(missing_ok=True)
    writer.add_embedding(
        torch.cat(features),
        metadata=rows,
        metadata_header=["video", "class", "prediction"],
        label_img=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255,
        tag="test_videos",
        global_step=step,
    )


def _read_subset(path: str, names: list[str]) -> list[int]:
    """Numbers of the classes in a text file with a name a line; without a file, of all."""
    lines = map(str.strip, _read_text(path).splitlines()) if path else names
    return _class_numbers(path, [line for line in lines if line], names)


def _read_categories(path: str, names: list[str]) -> dict[str, list[int]]:
    """Numbers of the classes of each category in a JSON file; without a file, none."""
    try:
        categories = simplejson.loads(_read_text(path)) if path else {}
        return {str(name): _class_numbers(path, list(classes), names) for name, classes in categories.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is invalid ({error}): expected JSON, {{category: [class, ...]}}") from error


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding=encoding_of(Path(path)))
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _class_numbers(path: str, wanted: list[str], names: list[str]) -> list[int]:
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(f"{path} names classes that the dataset does not have: {shorten(unknown)}")
    return [names.index(name) for name in wanted]


def _select_evenly(predictions: Predictions, count: int) -> list[int]:
    """Numbers of up to `count` videos, from all classes in proportion to their size."""
    by_class = np.argsort(predictions.labels, kind="stable")
    return by_class[np.linspace(0, len(by_class) - 1, min(count, len(by_class))).round().astype(int)].tolist()


def _as_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
