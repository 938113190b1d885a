"""Draws an attended clip: its frames, the attention over them, the predictions, and attention over time."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

from timesformer.datasets.clips import SampledClip
from timesformer.visualization import fonts
from timesformer.visualization.attention import COLORS, color_scale, overlay
from timesformer.visualization.charts import INK, LINE, MUTED, SERIES, STYLE, png

# Pixels.
_MARGIN, _GAP, _TITLE, _TIME, _SCALE, _BAR, _CURVES = 25, 5, 80, 24, 50, 26, 260
_NAMES = 190  # width of the class names
_MIN_WIDTH, _MAX_WIDTH, _MAX_CELL = 750, 1240, 240
_LINE_COLORS = LinearSegmentedColormap.from_list("", ("#2a0a5e", "#b5367a", "#fb9a3c"))  # first to last frame


@dataclass(frozen=True)
class PatchCurves:
    """Attention of a patch in each frame (or tubelet) to each."""

    position: tuple[int, int] | None  # row and column of the patch to mark; None if all have the same curves
    weights: np.ndarray  # [steps, steps], from 0 to 1
    label: str


@matplotlib.rc_context(STYLE)
def attention_strip(
    clip: SampledClip,
    maps: np.ndarray,
    top: Sequence[tuple[str, float]],
    title: str,
    subtitle: str = "",
    max_frames: int = 16,
    curves: PatchCurves | None = None,
) -> bytes:
    """A PNG of sampled frames with their times, the same frames with attention, predictions and curves.

    Args:
        clip: the view of the video.
        maps: float [frames, rows, columns] from `attention_maps`.
        top: predicted classes and their scores from 0 to 1, the best first.
    """
    total, height, width, _ = clip.frames.shape
    chosen = np.unique(np.linspace(0, total - 1, min(total, max_frames)).round().astype(int))
    if len(chosen) < total:
        subtitle += f"{'; ' if subtitle else ''}{len(chosen)} of {total} frames shown"
    columns = min(len(chosen), 8)
    cell = min(_MAX_WIDTH // columns - _GAP, _MAX_CELL)
    tall = round(cell * height / width)
    row_height = _TIME + 2 * (tall + _GAP) + 10
    page_width = max(columns * (cell + _GAP), _MIN_WIDTH)
    below = _TITLE + -(-len(chosen) // columns) * row_height + _SCALE
    bars_height = 30 + _BAR * len(top)
    page_height = below + bars_height + (_CURVES if curves else 0)
    figure = Figure(((page_width + 2 * _MARGIN) / 100, (page_height + 2 * _MARGIN) / 100))
    page = figure.add_axes((0, 0, 1, 1), frameon=False)
    limits = {"xlim": (-_MARGIN, page_width + _MARGIN), "ylim": (page_height + _MARGIN, -_MARGIN), "aspect": "auto"}
    page.set(**limits)  # pixels from the top left corner within the margins
    page.axis("off")
    _write_fitted(page, 0, 16, title, page_width, fontsize=13, fontweight="bold")
    page.text(0, 34, textwrap.fill(subtitle, page_width // 8), color=MUTED, va="top")
    frames = np.stack([np.asarray(Image.fromarray(clip.frames[number]).resize((cell, tall))) for number in chosen])
    attended = overlay(frames, maps[chosen], color_scale(maps))
    for index, number in enumerate(chosen):
        x, y = index % columns * (cell + _GAP), _TITLE + index // columns * row_height + _TIME
        time = f"{clip.times[number]:.2f} s".replace("nan s", f"frame {clip.numbers[number]}")
        page.text(x + cell / 2, y - 5, time, ha="center")
        for picture, top_edge in ((frames[index], y), (attended[index], y + tall + _GAP)):
            page.imshow(picture, extent=(x, x + cell, top_edge + tall, top_edge), interpolation="nearest")
            if curves and curves.position:
                (row, column), high, wide = curves.position, tall / maps.shape[1], cell / maps.shape[2]
                mark = Rectangle((x + column * wide, top_edge + row * high), wide, high, fill=False, ec="white")
                mark.set(linewidth=1.5, path_effects=[withStroke(linewidth=4, foreground=INK)])
                page.add_patch(mark)
    _draw_scale(_inset(page, 16, below - _SCALE, 300, 10), maps)
    _draw_bars(page, below, top, page_width)
    if curves:
        _draw_curves(_inset(page, 55, below + bars_height + 30, page_width - 165, _CURVES - 80), clip, curves)
    page.set(**limits)  # imshow changes them
    return png(figure)


def _inset(page: Axes, x: float, y: float, width: float, height: float) -> Axes:
    """Further axes at pixels of the page."""
    w, h = page.figure.get_size_inches() * 100
    return page.figure.add_axes(((_MARGIN + x) / w, 1 - (_MARGIN + y + height) / h, width / w, height / h))


def _write_fitted(page: Axes, x: float, y: float, text: str, width: float, **style: object) -> None:
    """Text on one line, cut off after `width` pixels, with ? for what no font can draw."""
    line = fonts.drawable(" ".join(text.split()))
    written = page.text(x, y, line, family=fonts.families(), **style)
    while line and written.get_window_extent().width > width:
        line = line[: -1 - len(line) // 20]
        written.set_text(f"{line}…")


def _draw_scale(axes: Axes, maps: np.ndarray) -> None:
    relative = maps / max(float(maps.mean()), 1e-12)
    scale = color_scale(relative)
    bar = axes.figure.colorbar(ScalarMappable(scale, COLORS), cax=axes, orientation="horizontal")
    bar.outline.set_visible(False)
    ticks = [value for value in (scale.vmin, 1.0, scale.vmax) if value != 1.0 or 0.15 < scale(1.0) < 0.85]
    bar.set_ticks(ticks, labels=[f"{value:.2g}" if value >= 0.01 else "0" for value in ticks], fontsize=8)
    axes.text(1.04, 0.5, "attention to a patch; the mean is 1", transform=axes.transAxes, color=MUTED, va="center")


def _draw_bars(page: Axes, y: float, top: Sequence[tuple[str, float]], width: float) -> None:
    page.text(0, y + 12, "predicted", fontweight="bold")
    full = width - _NAMES - 60
    for number, (name, score) in enumerate(top):
        middle = y + 30 + (number + 0.5) * _BAR
        for length, color in ((full, LINE), (full * score, MUTED if number else SERIES[0])):
            page.add_patch(Rectangle((_NAMES, middle - 9), length, 18, color=color, linewidth=0))
        _write_fitted(page, _NAMES - 10, middle, name, _NAMES - 10, ha="right", va="center")
        page.text(_NAMES + full + 8, middle, f"{100 * score:.1f} %", va="center")


def _draw_curves(axes: Axes, clip: SampledClip, curves: PatchCurves) -> None:
    steps = len(curves.weights)
    times, in_seconds = np.asarray(clip.times), True
    if np.isnan(times).any() or not (np.diff(times) > 0).all():  # frames may repeat or go backwards
        times, in_seconds = np.arange(len(times)), False
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    times = times.reshape(steps, -1).mean(axis=1)  # of the frames of a tubelet
    axes.axhline(100 / steps, color=MUTED, linewidth=1, linestyle=":", label="uniform")
    max_lines = 8 if steps <= 16 else 4
    for number in np.unique(np.linspace(0, steps - 1, min(steps, max_lines)).round().astype(int)):
        (line,) = axes.plot(times, 100 * curves.weights[number], color=_LINE_COLORS(number / max(steps - 1, 1)))
        line.set(label=f"{times[number]:.2f} s" if in_seconds else f"{times[number]:g}", markersize=3.5)
        line.set_marker("o" if steps <= 16 else "")
    axes.set_title(curves.label, fontsize=9)
    axes.set(xlabel="to the frame at (s)" if in_seconds else "to frame of the clip", ylabel="attention (%)")
    axes.set_ylim(bottom=0)
    title = "from the frame at" if in_seconds else "from frame"
    axes.legend(title=title, title_fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
