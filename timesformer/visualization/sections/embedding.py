"""The map of the test clips in a report."""

import base64
import colorsys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from timesformer.analysis.analysis_folder import find_analysis
from timesformer.analysis.embedding import Embedding, read_embedding
from timesformer.visualization import fonts
from timesformer.visualization.charts import SERIES, new_chart
from timesformer.visualization.run_charts import report_chart
from timesformer.visualization.run_files import FinishedRun

_FEW_CLASSES = 8  # have the colors of lines
_MAX_LEGEND = 30  # classes


def embedding_section(run: FinishedRun, folder: Path) -> dict[str, Any] | None:
    """Values of `templates/_embedding.html`; None without a map."""
    embedding, predictions = read_embedding(folder), run.predictions
    if embedding is None or predictions is None:
        return None
    row_of = {video: row for row, video in enumerate(predictions.videos)}
    rows = [(place, row_of[video]) for place, video in enumerate(embedding.videos) if video in row_of]
    points = _to_unit(embedding.points)
    labels = sorted({int(predictions.labels[row]) for _, row in rows})
    errors = sum(not predictions.correct[row] for _, row in rows)
    return {
        "hint": _hint(embedding, len(rows), errors),
        "data": {
            "points": [
                {
                    "x": round(float(points[place, 0]), 4),
                    "y": round(float(points[place, 1]), 4),
                    "video": predictions.videos[row],
                    "true": int(predictions.labels[row]),
                    "predicted": int(predictions.classes[row, 0]),
                    "confidence": round(float(predictions.confidence[row]), 4),
                    "thumbnail": place,
                }
                for place, row in sorted(rows, key=lambda pair: (predictions.labels[pair[1]], pair[1]))
            ],
            "names": {label: run.class_names[label] for label in {*labels, *predictions.classes[:, 0].tolist()} - {-1}},
            "colors": {label: _color(place, len(labels)) for place, label in enumerate(labels)},
            "columns": embedding.columns,
            "side": embedding.side,
        },
        "sheet": f"data:image/jpeg;base64,{base64.b64encode(embedding.sheet).decode()}",
        "classes": [(label, run.class_names[label]) for label in labels],
    }


@report_chart("files")
def draw_map(run: FinishedRun) -> Figure | None:
    """The map of the test clips as a figure; errors are crosses."""
    folder = find_analysis(run.folder, run.results)
    embedding, predictions = folder and read_embedding(folder), run.predictions
    if embedding is None or predictions is None:
        return None
    row_of = {video: row for row, video in enumerate(predictions.videos)}
    rows = np.array([row_of.get(video, -1) for video in embedding.videos])
    points, rows = _to_unit(embedding.points)[rows >= 0], rows[rows >= 0]
    labels, correct = predictions.labels[rows], predictions.correct[rows]
    figure, axes = new_chart("Map of the test clips (t-SNE)", size=(5.6, 4.4))
    for place, label in enumerate(classes := np.unique(labels)):
        color = SERIES[place] if len(classes) <= _FEW_CLASSES else _color(place, len(classes))
        name = fonts.drawable(run.class_names[label], f"class {label}")
        for chosen, marker in ((correct, "o"), (~correct, "x")):
            x, y = points[(labels == label) & chosen].T
            axes.scatter(x, y, s=12, marker=marker, color=color, linewidths=1)
        axes.scatter([], [], s=12, color=color, label=name)
    axes.set(xticks=[], yticks=[], aspect="equal")
    if len(classes) <= _MAX_LEGEND:
        columns = 1 if len(classes) <= 15 else 2
        figure.legend(loc="outside right upper", ncols=columns, prop={"family": fonts.families(), "size": 7})
    return figure


def _hint(embedding: Embedding, shown: int, errors: int) -> str:
    sample = "All" if shown == embedding.total else f"{shown:,} of"
    text = f"{sample} {embedding.total:,} test clips: the input of the output layer for their middle view"
    dimensions = embedding.features.shape[1]
    return f"{text} ({dimensions} numbers), reduced to two by t-SNE; {errors:,} of {shown:,} are errors."


def _to_unit(points: np.ndarray) -> np.ndarray:
    """Points, float [clips, 2], in the unit square, with one scale for both axes."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = max(float((high - low).max()), 1e-12)
    return (points - (low + high) / 2) / scale + 0.5


def _color(place: int, classes: int) -> str:
    if classes <= _FEW_CLASSES:
        return f"var(--series-{place + 1})"
    red, green, blue = colorsys.hls_to_rgb(place * 0.61803 % 1, 0.45 + 0.12 * (place % 2), 0.65)  # distant hues
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
