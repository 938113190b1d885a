"""Figures of a study: PNG, SVG and PDF files next to its tables, from the finished cells of a row."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from timesformer.datasets.catalog import load_split
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.runtime.run_folder import best_path
from timesformer.studies.cells import Cell
from timesformer.studies.plan import Plan
from timesformer.studies.tables import Picture
from timesformer.visualization import charts
from timesformer.visualization.attention import attention_of, overlay
from timesformer.visualization.examples import least_confident_correct, load_clips, make_strip, most_confident_errors
from timesformer.visualization.pictures import draw_examples, draw_picture
from timesformer.visualization.run_files import FinishedRun, read_run

_EXAMPLES = 4  # correct predictions, and as many mistakes


def draw_figures(plan: Plan) -> tuple[list[Picture], list[str]]:
    """Draws the figures for finished rows; returns them, and the problems of the others."""
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
            name = f"{kind}_{wanted.table}_{index}"
            try:
                figure = draw(cells)
            except UserError as error:
                problems.append(f"{title}, {row.row.name}: {error}")
            else:
                drawn = Markup(charts.svg(figure))
                charts.save(figure, folder, name)
                pictures.append(
                    Picture(f"{title}: table {wanted.table}, {row.row.name}", folder / f"{name}.png", drawn)
                )
    return pictures, problems


def _confusion(cells: Sequence[Cell]) -> Figure:
    """Predictions of the test videos by class, of all seeds."""
    runs = [_read(cell) for cell in cells]
    counts = np.zeros((len(runs[0].class_names),) * 2, np.int64)
    for run in runs:
        readable = run.predictions.readable
        np.add.at(counts, (run.predictions.labels[readable], run.predictions.classes[readable, 0]), 1)
    return charts.confusion_matrix(counts, runs[0].class_names, _subtitle(cells))


def _per_class(cells: Sequence[Cell]) -> Figure:
    """Top-1 of each class, mean over the seeds."""
    runs = [_read(cell) for cell in cells]
    by_class = [[math.nan if c["top1"] is None else c["top1"] for c in run.results["per_class"]] for run in runs]
    return charts.per_class(runs[0].class_names, np.mean(by_class, axis=0), _subtitle(cells))


def _cmc(cells: Sequence[Cell]) -> Figure:
    """Cumulative match characteristic: top-k in percent for all k, of each seed and their mean."""
    saved = [((cell.results() or {}).get("metrics") or {}).get("cmc") for cell in cells]
    if not all(saved):
        raise UserError("results.json has no metrics.cmc; test the run again")
    ks, runs = saved[0]["k"], [one["accuracy"] for one in saved]
    curves = [charts.Curve("", ks, run, faint=len(runs) > 1) for run in runs]
    curves += [charts.Curve("", ks, np.mean(runs, axis=0).tolist())] * (len(runs) > 1)
    figure = charts.line_chart(curves, _subtitle(cells), "k")
    figure.axes[0].set_ylabel("top-k (%)")
    return figure


def _attention(cells: Sequence[Cell]) -> Figure:
    """A correctly predicted video, and below it the attention rollout."""
    run = _read(cells[0])
    predictions, names = run.predictions, run.class_names
    classifier = load_model(best_path(cells[0].cfg))
    correct = np.flatnonzero(predictions.correct)
    number = int(correct[np.argmax(predictions.confidence[correct])]) if len(correct) else 0
    records = load_split(cells[0].cfg, "test").records
    path = records[list(records.names).index(predictions.videos[number])].path
    clip, maps = attention_of(classifier, path)
    rows = [np.concatenate(list(frames), axis=1) for frames in (clip.frames, overlay(clip.frames, maps))]
    title = f"{predictions.videos[number]}: {names[predictions.labels[number]]}"
    return draw_picture(Image.fromarray(np.concatenate(rows)), title)


def _examples(cells: Sequence[Cell]) -> Figure:
    """Frames of the most confident mistakes and the least confident correct predictions, with their top-5 classes."""
    run = _read(cells[0])
    chosen = [
        *most_confident_errors(run.predictions)[:_EXAMPLES],
        *least_confident_correct(run.predictions)[:_EXAMPLES],
    ]
    clips = load_clips(cells[0].cfg, [run.predictions.videos[number] for number in chosen])
    figure = draw_examples(run, {name: make_strip(clip) for name, clip in clips}, chosen)
    if figure is None:
        raise UserError("none of the test videos can be read any more")
    return figure


def _read(cell: Cell) -> FinishedRun:
    run = read_run(cell.folder)
    if run.predictions is None:
        raise UserError(" ".join(run.notes))
    return run


def _subtitle(cells: Sequence[Cell]) -> str:
    return f"Over {len(cells)} training seed{'s' * (len(cells) > 1)}"


_KINDS: dict[str, tuple[str, Callable[[Sequence[Cell]], Figure]]] = {
    "confusion": ("Confusion matrix", _confusion),
    "per_class": ("Top-1 by class", _per_class),
    "cmc": ("Top-k by k (CMC curve)", _cmc),
    "attention": ("Attention", _attention),
    "examples": ("Incorrect and correct predictions", _examples),
}
