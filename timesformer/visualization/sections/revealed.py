"""Charts of the confidence as the frames of a clip are revealed one by one."""

import base64
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timesformer.analysis.revealed_frames import RevealedClip, read_revealed
from timesformer.visualization import fonts
from timesformer.visualization.charts import BAD, GOOD, STYLE, new_chart, svg
from timesformer.visualization.examples import most_confident_errors, read_strips
from timesformer.visualization.run_files import FinishedRun, Predictions

FRAMES = "revealed_frames.zip"
_EACH = 4  # errors, and correct predictions


def revealed_examples(predictions: Predictions) -> list[int]:
    """Numbers of videos: the most confident errors, and correct predictions from the least to the most confident."""
    correct = np.flatnonzero(predictions.readable & predictions.correct)
    correct = correct[np.argsort(predictions.confidence[correct], kind="stable")]
    places = np.unique(np.linspace(0, len(correct) - 1, min(_EACH, len(correct))).round().astype(int))
    return [*most_confident_errors(predictions)[:_EACH], *correct[places].tolist()]


def revealed_section(run: FinishedRun, folder: Path) -> list[dict[str, Any]]:
    """Values of `templates/_revealed.html`: a chart for each example, empty without any."""
    if run.predictions is None:
        return []
    row_of = {video: row for row, video in enumerate(run.predictions.videos)}
    strips, names = read_strips(folder / FRAMES), run.class_names
    examples = []
    for clip in read_revealed(folder):
        strip, row = strips.get(clip.video), row_of[clip.video]
        label, predicted = names[run.predictions.labels[row]], names[run.predictions.classes[row, 0]]
        final = names[clip.best[-1]]
        examples.append(
            {
                "video": clip.video,
                "label": label,
                "predicted": predicted,
                "correct": predicted == label,
                "view": "" if final == predicted else final,
                "decided": clip.decided,
                "frames": len(clip.best),
                "chart": Markup(svg(_chart(clip, label, predicted))),
                "image": strip and f"data:image/jpeg;base64,{base64.b64encode(strip.jpeg).decode()}",
            }
        )
    return examples


@matplotlib.rc_context(STYLE)
def _chart(clip: RevealedClip, label: str, predicted: str) -> Figure:
    title = f"Frames revealed: {fonts.drawable(label)}"
    figure, axes = new_chart(title, "frames revealed", "probability (%)", (4.7, 2.1))
    frames = range(1, len(clip.true) + 1)
    lines = [(clip.true, GOOD, f"{label} (true class)")]
    if predicted != label:
        lines.append((clip.predicted, BAD, f"{predicted} (predicted)"))
    for values, color, name in lines:
        axes.plot(frames, 100 * np.array(values), color=color, marker="o", markersize=3.2, label=fonts.drawable(name))
    axes.set_ylim(-3, 103)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(prop={"family": fonts.families(), "size": 8})
    return figure
