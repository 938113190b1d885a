"""The figures of a study, each a PNG file beside its tables, from the first finished cell of a row."""

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
from timesformer.studies.cells import Cell, PlannedTable
from timesformer.studies.outcomes import outcome_of
from timesformer.studies.pages import Picture
from timesformer.visualization import charts, fonts
from timesformer.visualization.attention import attention_of, overlay
from timesformer.visualization.examples import least_confident_correct, load_clips, make_strip, most_confident_errors
from timesformer.visualization.run_files import FinishedRun, read_run

_EXAMPLES = 4  # right ones, and as many wrong ones
_SCALE = 3  # of the small frames of an attention map


def draw_figures(
    wanted: Sequence[tuple[str, int, tuple[str, ...]]], tables: Sequence[PlannedTable], folder: Path
) -> tuple[list[Picture], list[str]]:
    """Draws figures into `folder`/figures.

    Args:
        wanted: kind (study.FIGURES), number of the table, names of its rows.
        tables: of the study.
        folder: of its page.

    Returns:
        The pictures of the rows that are finished, and what kept others from being drawn.
    """
    pictures, problems = [], []
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for kind, number, names in wanted:
        rows = [row for table in tables if table.number == number for row in table.rows if row.row.name in names]
        for place, row in enumerate(rows, start=1):
            finished = outcome_of(row).cells
            if not finished:
                continue
            title, draw = _KINDS[kind]
            path = folder / "figures" / f"{kind}_{number}_{place}.png"
            try:
                content = draw([cell for cell, _ in finished])
            except UserError as error:
                problems.append(f"{title}, {row.row.name}: {error}")
            else:
                write_atomically(path, lambda file, content=content: file.write(content))
                pictures.append(Picture(f"{title}: table {number}, {row.row.name}", f"figures/{path.name}"))
    return pictures, problems


def _confusion(cells: Sequence[Cell]) -> bytes:
    """What the test videos of all seeds were taken for."""
    runs = [_read(cell) for cell in cells]
    counts = np.zeros((len(runs[0].class_names),) * 2, np.int64)
    for run in runs:
        known = run.predictions.readable
        np.add.at(counts, (run.predictions.labels[known], run.predictions.classes[known, 0]), 1)
    side = max(5.0, 0.3 * len(counts) + 2)
    return charts.png(charts.confusion_matrix(counts, runs[0].class_names, _over(cells), (side, side)))


def _per_class(cells: Sequence[Cell]) -> bytes:
    """Top-1 of each class, mean over the seeds."""
    runs = [_read(cell) for cell in cells]
    by_class = [[math.nan if c["top1"] is None else c["top1"] for c in run.results["per_class"]] for run in runs]
    return charts.png(charts.per_class(runs[0].class_names, np.mean(by_class, axis=0), _over(cells)))


def _attention(cells: Sequence[Cell]) -> bytes:
    """A video that is recognised, and below it where the model looks (attention rollout)."""
    run = _read(cells[0])
    classifier = load_model(cells[0].folder / "checkpoints" / "best.pyth")
    numbers = np.flatnonzero(run.predictions.correct)
    number = int(numbers[np.argmax(run.predictions.confidence[numbers])]) if len(numbers) else 0
    name = run.predictions.videos[number]
    records = load_split(cells[0].cfg, "test").records
    clip, maps = attention_of(classifier, records[list(records.names).index(name)].path)
    rows = [np.concatenate(list(frames), axis=1) for frames in (clip.frames, overlay(clip.frames, maps))]
    picture = Image.fromarray(np.concatenate(rows))
    scale = max(1, _SCALE * 48 // clip.frames.shape[1])
    file = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def _examples(cells: Sequence[Cell]) -> bytes:
    """Frames of the surest mistakes and of the least sure hits, with the five most probable classes of each."""
    run, cfg = _read(cells[0]), cells[0].cfg
    predictions = run.predictions
    names = [fonts.drawable(name, f"class {number}") for number, name in enumerate(run.class_names)]
    chosen = [*most_confident_errors(predictions, _EXAMPLES), *least_confident_correct(predictions, _EXAMPLES)]
    clips = dict(load_clips(cfg, [predictions.videos[number] for number in chosen]))
    shown = [number for number in chosen if predictions.videos[number] in clips]
    if not shown:
        raise UserError("none of the test videos can be read any more")
    strips = [Image.open(io.BytesIO(make_strip(clips[predictions.videos[number]]).jpeg)) for number in shown]
    width = 9.0  # inches; above each strip is a line of text
    height = sum(0.4 + width * picture.height / picture.width for picture in strips)
    figure = Figure(figsize=(width, height), layout="constrained")
    places = figure.subplots(len(shown), squeeze=False)[:, 0]
    for axes, number, picture in zip(places, shown, strips, strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        listed = zip(predictions.classes[number], predictions.probabilities[number], strict=True)
        top = ", ".join(f"{names[label]} {100 * share:.0f} %" for label, share in listed)
        right = bool(predictions.correct[number])
        axes.set_title(
            f"{'right' if right else 'wrong'}: {names[predictions.labels[number]]}; predicted {top}",
            loc="left",
            fontsize=9,
            color=charts.GOOD if right else charts.BAD,
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


def _over(cells: Sequence[Cell]) -> str:
    return f"Over {len(cells)} training seed{'s' * (len(cells) > 1)}"


_KINDS: dict[str, tuple[str, Callable[[Sequence[Cell]], bytes]]] = {
    "confusion": ("Confusion matrix", _confusion),
    "per_class": ("Top-1 by class", _per_class),
    "attention": ("Attention", _attention),
    "examples": ("Wrong and right predictions", _examples),
}
