"""The pictures of a test for TensorBoard, beside the curves of its training."""

import io
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import simplejson
import torch
from fvcore.common.config import CfgNode
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from timesformer.datasets.clips import SampledClip
from timesformer.datasets.sources.lists import encoding_of
from timesformer.engine.evaluate import load_whole
from timesformer.errors import UserError, shorten
from timesformer.inference.classifier import Classifier
from timesformer.models.weights.loading import read_checkpoint
from timesformer.runtime.device import choose_device
from timesformer.runtime.run_folder import tensorboard_folder
from timesformer.visualization import charts
from timesformer.visualization.confusions import count_confusions
from timesformer.visualization.examples import clips_of, shrunk, surest_mistakes
from timesformer.visualization.run_files import FinishedRun, Predictions

logger = logging.getLogger(__name__)

_FIGURES = ("top1", "top5", "mean_class_top1", "loss")
_INPUTS = 12  # clips shown for MODEL_VIS.INPUT_VIDEO
_SECONDS = 2.0  # that an animation takes


def write_pictures(cfg: CfgNode, run: FinishedRun, clips: Mapping[str, SampledClip]) -> None:
    """Writes what the options in TENSORBOARD ask for of a test that is done, under the epoch of its checkpoint.

    Args:
        cfg: the configuration.
        run: what the test left.
        clips: of test videos, by name; others that are shown are decoded.

    Raises:
        UserError: if a file that an option names is not as it must be, or the split or checkpoint cannot be read.
    """
    step = int(run.figure("checkpoint_epochs") or 0)
    with SummaryWriter(str(tensorboard_folder(cfg))) as writer:
        for name in _FIGURES:
            if (value := run.figure(name)) is not None:
                writer.add_scalar(f"test/{name}", value, step)
        if rows := run.results.get("per_class"):
            top1 = [np.nan if row["top1"] is None else row["top1"] for row in rows]
            _add(writer, "per_class", charts.per_class(run.class_names, top1), step)
        if run.predictions is not None:
            _add_confusions(writer, cfg, run, run.predictions, step)
            _add_videos(writer, cfg, run, run.predictions, clips, step)
            if cfg.TENSORBOARD.EMBEDDINGS:
                _add_embeddings(writer, cfg, run, run.predictions, step)
        if cfg.TENSORBOARD.MODEL_VIS.ENABLE and cfg.TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS:
            _add_weights(writer, run, step)


def _add_confusions(writer: SummaryWriter, cfg: CfgNode, run: FinishedRun, predictions: Predictions, step: int) -> None:
    matrix, histogram, names = cfg.TENSORBOARD.CONFUSION_MATRIX, cfg.TENSORBOARD.HISTOGRAM, run.class_names
    counts = count_confusions(predictions, len(names))
    if matrix.ENABLE:
        groups = {"": _listed(matrix.SUBSET_PATH, names), **_categories(cfg.TENSORBOARD.CATEGORIES_PATH, names)}
        for group, chosen in groups.items():
            part, of_part = counts[np.ix_(chosen, chosen)], [names[number] for number in chosen]
            figure = charts.confusion_matrix(part, of_part, group or "Confusion matrix", tuple(matrix.FIGSIZE))
            _add(writer, f"confusion_matrix/{group}" if group else "confusion_matrix", figure, step)
    if histogram.ENABLE:
        for number in _listed(histogram.SUBSET_PATH, names):
            if counts[number].any():
                size = tuple(histogram.FIGSIZE)
                figure = charts.predicted_as(counts[number], names, names[number], histogram.TOPK, size)
                _add(writer, f"predicted_as/{names[number]}", figure, step)


def _add_videos(
    writer: SummaryWriter,
    cfg: CfgNode,
    run: FinishedRun,
    predictions: Predictions,
    clips: Mapping[str, SampledClip],
    step: int,
) -> None:
    wrong, shown = cfg.TENSORBOARD.WRONG_PRED_VIS, cfg.TENSORBOARD.MODEL_VIS
    tags: dict[int, str] = {}
    if wrong.ENABLE:
        classes = _listed(wrong.SUBSET_PATH, run.class_names)
        mistakes = surest_mistakes(predictions, among=np.isin(predictions.labels, classes))
        tags |= dict.fromkeys(mistakes, wrong.TAG)
    if shown.ENABLE and shown.INPUT_VIDEO:
        tags = dict.fromkeys(_spread(predictions, _INPUTS), "Input videos") | tags
    names = {predictions.videos[number]: number for number in tags}
    missing = [name for name in names if name not in clips]
    for name, clip in [*clips.items(), *(clips_of(cfg, missing) if missing else ())]:
        if (number := names.get(name)) is not None:
            said = _said(run, predictions, number, shown.TOPK_PREDS)
            _add_animation(writer, f"{tags[number]}/{name}: {said}", clip.frames, step)


def _said(run: FinishedRun, predictions: Predictions, number: int, top: int) -> str:
    """The prediction in words, such as "wave 71 %, not catch"."""
    names, ranked = run.class_names, predictions.classes[number, :top]
    shares = predictions.probabilities[number, :top]
    guesses = [f"{names[index]} {100 * share:.0f} %" for index, share in zip(ranked, shares, strict=True) if index >= 0]
    truth = "" if predictions.right[number] else f", not {names[predictions.labels[number]]}"
    return ", ".join(guesses) + truth


def _add_embeddings(writer: SummaryWriter, cfg: CfgNode, run: FinishedRun, predictions: Predictions, step: int) -> None:
    """The features of videos, spread over the classes, for TensorBoard's projector."""
    names, device, path = run.class_names, choose_device(cfg), run.results["checkpoint"]
    model, _ = load_whole(cfg, read_checkpoint(path))
    classifier = Classifier(cfg, model.to(device).eval(), tuple(names), device, path, [])
    numbers = {predictions.videos[number]: number for number in _spread(predictions, cfg.TENSORBOARD.EMBEDDINGS)}
    rows, features, images = [], [], []
    for batch in _batches(clips_of(cfg, numbers), cfg.TEST.BATCH_SIZE):
        _, embeddings = classifier.compute(torch.stack([clip.clip for _, clip in batch]), features=True)
        features.append(embeddings)
        for name, clip in batch:
            number = numbers[name]
            guess, truth = predictions.classes[number, 0], predictions.labels[number]
            rows.append([name, names[truth], names[guess] if guess >= 0 else ""])
            frames = clip.frames
            images.append(np.asarray(shrunk(frames[len(frames) // 2 : len(frames) // 2 + 1], 48)[0]))
    if not rows:
        return
    folder = tensorboard_folder(cfg)  # of an earlier test of the same checkpoint, to which this would be added
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


def _add_weights(writer: SummaryWriter, run: FinishedRun, step: int) -> None:
    """Histograms of the weights of the checkpoint tested."""
    for name, value in read_checkpoint(run.results["checkpoint"]).state.items():
        if value.is_floating_point():
            writer.add_histogram(f"weights/{name}", value.float(), step)


def _add(writer: SummaryWriter, tag: str, figure: charts.Figure, step: int) -> None:
    writer.add_image(_printable(tag), charts.pixels(figure), step, dataformats="HWC")


def _add_animation(writer: SummaryWriter, tag: str, frames: np.ndarray, step: int) -> None:
    """Frames, uint8 (T, H, W, 3), as a GIF: what TensorBoard shows of a video."""
    images = shrunk(frames)
    file = io.BytesIO()
    pause = round(1000 * _SECONDS / len(images))
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=pause, loop=0)
    width, height = images[0].size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
    summary = Summary(value=[Summary.Value(tag=_printable(tag), image=image)])
    writer.file_writer.add_summary(summary, step)


def _listed(path: str, names: list[str]) -> list[int]:
    """Numbers of the classes whose names a text file has, one a line; without a file, of all."""
    if not path:
        return list(range(len(names)))
    try:
        lines = Path(path).read_text(encoding=encoding_of(Path(path))).splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected names of classes, one a line") from error
    return _numbers(path, [line.strip() for line in lines if line.strip()], names)


def _categories(path: str, names: list[str]) -> dict[str, list[int]]:
    """Numbers of the classes of each category in a JSON file; without a file, none."""
    if not path:
        return {}
    try:
        categories = simplejson.loads(Path(path).read_text(encoding=encoding_of(Path(path))))
        return {str(name): _numbers(path, list(classes), names) for name, classes in categories.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no JSON of categories ({error}): expected {{category: [class, ...]}}") from error


def _numbers(path: str, wanted: list[str], names: list[str]) -> list[int]:
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in wanted if name not in numbers]:
        raise UserError(f"{path} names classes that the dataset does not have: {shorten(unknown)}")
    return [numbers[name] for name in wanted]


def _spread(predictions: Predictions, count: int) -> list[int]:
    """Numbers of so many videos, of all classes in proportion."""
    by_class = np.argsort(predictions.labels, kind="stable")
    return by_class[np.linspace(0, len(by_class) - 1, min(count, len(by_class))).round().astype(int)].tolist()


def _batches(items: Iterable[tuple[str, SampledClip]], size: int) -> Iterator[list[tuple[str, SampledClip]]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
