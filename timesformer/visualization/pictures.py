"""Pictures as figures of a paper: example videos with their predictions, and images from files."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from timesformer.visualization import fonts
from timesformer.visualization.charts import BAD, GOOD, INK, STYLE
from timesformer.visualization.examples import Strip
from timesformer.visualization.run_files import FinishedRun

_WIDTH = 7.0  # inches, the text of a page
_LETTERS = 105  # in a line of it
_MAX_WIDTH = 2400  # pixels of a picture


@matplotlib.rc_context(STYLE)
def draw_examples(run: FinishedRun, strips: Mapping[str, Strip], numbers: Sequence[int]) -> Figure | None:
    """Frames of test videos below each other, with names, true and most probable classes; None without frames."""
    predictions = run.predictions
    shown = [number for number in numbers if predictions.videos[number] in strips]
    if not shown:
        return None
    names = [fonts.drawable(name, f"class {number}") for number, name in enumerate(run.class_names)]
    clips = {number: fonts.drawable(predictions.videos[number], f"clip {number}") for number in shown}
    pictures = [Image.open(io.BytesIO(strips[predictions.videos[number]].jpeg)) for number in shown]
    height = sum(0.32 + _WIDTH * picture.height / picture.width for picture in pictures)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    for axes, number, picture in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, pictures, strict=True):
        _show(axes, picture)
        is_correct = bool(predictions.correct[number])
        guesses = ", ".join(
            f"{names[label]} ({100 * share:.0f}\N{NO-BREAK SPACE}%)" for label, share in predictions.ranked(number)
        )
        title = f"{clips[number]}: true {names[predictions.labels[number]]}, predicted {guesses}"
        axes.set_title(
            textwrap.fill(title, _LETTERS),
            fontsize=8,
            fontweight="normal",
            color=GOOD if is_correct else BAD,
            family=fonts.families(),
        )
    return figure


@matplotlib.rc_context(STYLE)
def draw_picture(picture: Image.Image, title: str = "") -> Figure:
    """A picture with a title, as wide as the text of a page."""
    picture = picture.convert("RGB")
    picture.thumbnail((_MAX_WIDTH, 2 * _MAX_WIDTH))
    height = min(9.0, _WIDTH * picture.height / picture.width) + 0.3 * bool(title)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    _show(axes, picture)
    if title:
        axes.set_title(fonts.drawable(title), fontsize=8, fontweight="normal", color=INK, family=fonts.families())
    return figure


def _show(axes: matplotlib.axes.Axes, picture: Image.Image) -> None:
    axes.imshow(np.asarray(picture), interpolation="none")  # as it is, in vector formats too
    axes.set_axis_off()
