"""Figures of a study: PNG files next to its tables, from the finished cells of a row."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from timesformer.atomic import write_atomically
from timesformer.datasets.catalog import load_split
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.runtime.run_folder import best_path
from timesformer.studies.cells import Cell
from timesformer.studies.plan import Plan
from timesformer.visualization import charts, fonts
from timesformer.visualization.attention import attention_of, overlay
from timesformer.visualization.examples import least_confident_correct, load_clips, make_strip, most_confident_errors
from timesformer.visualization.run_files import FinishedRun, read_run

_EXAMPLES = 4  # correct predictions, and as many mistakes
_ATTENTION_SIDE = 144  # pixels; smaller frames are enlarged


def draw_figures(plan: Plan) -> tuple[list[tuple[str, Path]], list[str]]:
    """Draws figures of finished rows; returns their titles and files, and why others could not be drawn."""
    pictures, problems = [], []
    folder = plan.folder / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, wanted in plan.study.figures.items():
        rows = [row for table in plan.tables if table.number == wanted.table for row in table.rows]
        for index, row in enumerate((row for row in rows if row.row.name in wanted.rows), start=1):
            cells = [cell for cell in row.cells if cell.results()]
            if not cells:
                continue
            title, draw = _KINDS[kind]
            path = folder / f"{kind}_{wanted.table}_{index}.png"
            try:
                content = draw(cells)
            except UserError as error:
                problems.append(f"{title}, {row.row.name}: {error}")
            else:
                write_atomically(path, lambda file, content=content: file.write(content))
                pictures.append((f"{title}: table {wanted.table}, {row.row.name}", path))
    return pictures, problems


def _confusion(cells: Sequence[Cell]) -> bytes:
    """Predictions of the test videos by class, of all seeds."""
    runs = [_read(cell) for cell in cells]
    counts = np.zeros((len(runs[0].class_names),) * 2, np.int64)
    for run in runs:
        readable = run.predictions.readable
        np.add.at(counts, (run.predictions.labels[readable], run.predictions.classes[readable, 0]), 1)
    side = max(5.0, 0.3 * len(counts) + 2)
    return charts.png(charts.confusion_matrix(counts, runs[0].class_names, _subtitle(cells), (side, side)))


def _per_class(cells: Sequence[Cell]) -> bytes:
    """Top-1 of each class, mean over the seeds."""
    runs = [_read(cell) for cell in cells]
    by_class = [[math.nan if c["top1"] is None else c["top1"] for c in run.results["per_class"]] for run in runs]
    return charts.png(charts.per_class(runs[0].class_names, np.mean(by_class, axis=0), _subtitle(cells)))


def _cmc(cells: Sequence[Cell]) -> bytes:
    """Cumulative match characteristic: top-k in percent for all k, of each seed and their mean."""
    saved = [((cell.results() or {}).get("metrics") or {}).get("cmc") for cell in cells]
    if not all(saved):
        raise UserError("results.json has no metrics.cmc; test the run again")
    ks, runs = saved[0]["k"], [one["accuracy"] for one in saved]
    curves = [charts.Curve("", ks, run, faint=len(runs) > 1) for run in runs]
    curves += [charts.Curve("", ks, np.mean(runs, axis=0).tolist())] * (len(runs) > 1)
    figure = charts.line_chart(curves, _subtitle(cells), "k")
    figure.axes[0].set_ylabel("top-k (%)")
    return charts.png(figure)


def _attention(cells: Sequence[Cell]) -> bytes:
    """A correctly predicted video, and below it the attention rollout."""
    predictions = _read(cells[0]).predictions
    classifier = load_model(best_path(cells[0].cfg))
    correct = np.flatnonzero(predictions.correct)
    number = int(correct[np.argmax(predictions.confidence[correct])]) if len(correct) else 0
    records = load_split(cells[0].cfg, "test").records
    path = records[list(records.names).index(predictions.videos[number])].path
    clip, maps = attention_of(classifier, path)
    rows = [np.concatenate(list(frames), axis=1) for frames in (clip.frames, overlay(clip.frames, maps))]
    picture = Image.fromarray(np.concatenate(rows))
    scale = max(1, _ATTENTION_SIDE // clip.frames.shape[1])
    file = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def _examples(cells: Sequence[Cell]) -> bytes:
    """Frames of the most confident mistakes and the least confident correct predictions, with their top-5 classes."""
    run = _read(cells[0])
    predictions = run.predictions
    names = [fonts.drawable(name, f"class {number}") for number, name in enumerate(run.class_names)]
    errors, correct = most_confident_errors(predictions), least_confident_correct(predictions)
    chosen = [*errors[:_EXAMPLES], *correct[:_EXAMPLES]]
    clips = dict(load_clips(cells[0].cfg, [predictions.videos[number] for number in chosen]))
    shown = [number for number in chosen if predictions.videos[number] in clips]
    if not shown:
        raise UserError("none of the test videos can be read any more")
    strips = [Image.open(io.BytesIO(make_strip(clips[predictions.videos[number]]).jpeg)) for number in shown]
    width = 9.0  # inches; each strip has a line of text above it
    height = sum(0.4 + width * picture.height / picture.width for picture in strips)
    figure = Figure(figsize=(width, height), layout="constrained")
    for axes, number, picture in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strips, strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        listed = zip(predictions.classes[number], predictions.probabilities[number], strict=True)
        top = ", ".join(f"{names[label]} {100 * probability:.0f} %" for label, probability in listed)
        correct = bool(predictions.correct[number])
        axes.set_title(
            f"{'correct' if correct else 'incorrect'}: {names[predictions.labels[number]]}; predicted {top}",
            loc="left",
            fontsize=9,
            color=charts.GOOD if correct else charts.BAD,
            parse_math=False,
            family=fonts.families(),
        )
    with matplotlib.rc_context({"savefig.facecolor": "white"}):
        return charts.png(figure)


def _read(cell: Cell) -> FinishedRun:
    run = read_run(cell.folder)
    if run.predictions is None:
        raise UserError(" ".join(run.notes))
    return run


def _subtitle(cells: Sequence[Cell]) -> str:
    return f"Over {len(cells)} training seed{'s' * (len(cells) > 1)}"


_KINDS: dict[str, tuple[str, Callable[[Sequence[Cell]], bytes]]] = {
    "confusion": ("Confusion matrix", _confusion),
    "per_class": ("Top-1 by class", _per_class),
    "cmc": ("Top-k by k (CMC curve)", _cmc),
    "attention": ("Attention", _attention),
    "examples": ("Incorrect and correct predictions", _examples),
}
