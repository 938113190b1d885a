"""The page about a training before it runs: its learning rates and its augmented clips, as HTML or as PNG."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from fvcore.common.config import CfgNode
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from timesformer.config.options import OPTIONS, get_option
from timesformer.datasets.catalog import Splits
from timesformer.datasets.clips import SampledClip
from timesformer.engine.optim import batches_per_step, clips_per_step
from timesformer.errors import counted
from timesformer.preview.clips import Draw, MixedClip, PreviewVideo, choose_videos, load_draws, load_mixed
from timesformer.preview.plan import TrainingPlan
from timesformer.visualization import fonts
from timesformer.visualization.charts import MUTED, SERIES, STYLE, Curve, line_chart, png, svg
from timesformer.visualization.examples import Strip, make_strip
from timesformer.visualization.pages.page import render_page

_POINTS = 400  # of a curve
_MAX_LABELS = 6  # curves with a legend; the table lists all


class Preview:
    """A configuration's plan, `videos` with `draws` clips each, and mixed clips."""

    def __init__(self, cfg: CfgNode, title: str, videos: int, draws: int) -> None:
        self.cfg, self.title = cfg, title
        self.plan = TrainingPlan(cfg, Splits(cfg))
        loader = self.plan.loader
        self.videos = list(load_draws(cfg, loader.dataset, choose_videos(loader, videos), draws))
        self.mixed = load_mixed(cfg, loader, videos)
        self.rates = self.plan.rates(self._sampled())

    def html(self) -> bytes:
        """The page, self-contained."""
        cfg, plan = self.cfg, self.plan
        seen = "in the views whose features are cached" if cfg.FEATURES.ENABLED else "in the first epochs"
        content = {
            "title": self.title,
            "subtitle": " · ".join((cfg.MODEL.MODEL_NAME, cfg.TRAIN.DATASET, cfg.DATA.PATH_TO_DATA_DIR)),
            "notes": [note for note in (plan.advice, self._unfreezing()) if note],
            "tiles": self.tiles(),
            "charts": [Markup(svg(figure)) for figure in self.charts()],
            "groups": self.groups(),
            "seen": seen,
            "videos": [self._video(video) for video in self.videos],
            "mixed": [self._mixed(clip) for clip in self.mixed],
            "options": _changed_options(cfg),
        }
        return render_page("preview.html", **content).encode()

    def tiles(self) -> list[tuple[str, str, str, str]]:
        """Label, value, unit and explanation of the numbers at the top."""
        cfg, plan, data = self.cfg, self.plan, self.cfg.DATA
        steps = "" if plan.steps == plan.batches else f"; {plan.steps:,} optimizer steps each"
        rates = self.rates[self.rates.max(axis=1).argmax()]
        frames, seconds = self._covered()
        return [
            ("clips per epoch", f"{plan.clips_per_epoch:,}", "", self._clips()),
            (
                "iterations",
                f"{plan.iterations:,}",
                "",
                f"{counted(cfg.SOLVER.MAX_EPOCH, 'epoch')} of {plan.batches:,}{steps}",
            ),
            ("warm-up", f"{plan.warmup:,}", "iterations" if plan.warmup != 1 else "iteration", self._warmup()),
            (
                "highest learning rate",
                f"{rates.max():.3g}",
                "",
                f"{rates[0]:.3g} at the start, {rates[-1]:.3g} at the end",
            ),
            ("optimizer step", f"{clips_per_step(cfg):,}", "clips", self._batches()),
            (
                "a clip",
                f"{data.NUM_FRAMES}",
                "frames" if data.NUM_FRAMES > 1 else "frame",
                f"{data.TRAIN_CROP_SIZE} x {data.TRAIN_CROP_SIZE} pixels",
            ),
            ("frames covered", frames, "", "from the first to the last frame of a clip; of the clips below"),
            ("seconds covered", seconds, "s" if seconds != "–" else "", self._time_source()),
        ]

    def charts(self) -> list[Figure]:
        """The learning rate over all epochs, and from the start to the end of warm-up."""
        plan = self.plan
        charts = [self._chart(self._sampled(), "Learning rate")]
        if plan.warmup:
            numbers = np.unique(np.linspace(0, min(2 * plan.warmup, plan.iterations - 1), _POINTS).round().astype(int))
            charts.append(self._chart(numbers.tolist(), f"Warm-up of {self._warmup()}", "iteration"))
        return charts

    def groups(self) -> list[dict[str, Any]]:
        """Rows of the table of learning rates."""
        return [
            {
                "color": f"var(--series-{number % len(SERIES) + 1})",
                "label": group.label,
                "count": group.count,
                "factor": group.factor,
                "first": float(row[0]),
                "highest": float(row.max()),
                "last": float(row[-1]),
            }
            for number, (group, row) in enumerate(zip(self.plan.groups, self.rates, strict=True))
        ]

    @matplotlib.rc_context(STYLE)
    def png(self) -> bytes:
        """A picture of the learning rate and the clips."""
        rows = [(self._caption(video, draw), draw) for video in self.videos for draw in video.draws]
        width, top, row = 1240, 330, 150
        figure = Figure((width / 100, (top + row * len(rows)) / 100))
        page = figure.add_axes((0, 0, 1, 1), frameon=False)
        limits = {"xlim": (0, width), "ylim": (top + row * len(rows), 0), "aspect": "auto"}
        page.set(**limits)  # pixels from the top left corner
        page.axis("off")
        text = {"family": fonts.families(), "fontsize": 10}
        page.text(20, 24, fonts.drawable(self.title), fontweight="bold", va="center", **text)
        chart = _decode(png(self.charts()[0]))
        page.imshow(chart, extent=(20, 20 + chart.shape[1], 40 + chart.shape[0], 40), interpolation="nearest")
        for number, (label, value, unit, details) in enumerate(self.tiles()):
            page.text(500, 70 + 30 * number, f"{label}: {value} {unit}".rstrip(), va="center", **text)
            page.text(800, 70 + 30 * number, details, va="center", color=MUTED, **text)
        for number, (caption, draw) in enumerate(rows):
            y = top + row * number + 14
            page.text(20, y, fonts.drawable(caption), va="center", **text)
            left = 20
            for clip in (_whole(draw), draw.clip):
                picture = _decode(make_strip(clip).jpeg)
                scale = min(112 / picture.shape[0], (width - 60) / 2 / picture.shape[1])
                wide, high = picture.shape[1] * scale, picture.shape[0] * scale
                page.imshow(picture, extent=(left, left + wide, y + 14 + high, y + 14))
                left += (width - 20) / 2
        page.set(**limits)  # imshow changes them
        return png(figure)

    def _sampled(self) -> list[int]:
        """Iterations at which the curves are drawn: evenly spaced, with more of them in the warm-up."""
        last, warmup = self.plan.iterations - 1, min(self.plan.warmup, self.plan.iterations - 1)
        dense, even = np.linspace(0, warmup, _POINTS // 4), np.linspace(warmup, last, _POINTS * 3 // 4)
        return np.unique(np.concatenate([dense, even]).round().astype(int)).tolist()

    def _chart(self, iterations: Sequence[int], title: str, unit: str = "epoch") -> Figure:
        plan = self.plan
        x = [iteration + 1 if unit == "iteration" else iteration / plan.batches for iteration in iterations]
        named = 1 < len(plan.groups) <= _MAX_LABELS
        curves = [
            Curve(group.label if named else "", x, rates.tolist(), number)
            for number, (group, rates) in enumerate(zip(plan.groups, plan.rates(iterations), strict=True))
        ]
        return line_chart(curves, title, unit)

    def _clips(self) -> str:
        dataset = self.plan.loader.dataset
        clips, classes = len(dataset.records), len(dataset.class_names)
        more = "" if clips == self.plan.clips_per_epoch else "; clips of rare classes repeat"
        return f"{counted(clips, 'training clip')} of {counted(classes, 'class')}{more}"

    def _batches(self) -> str:
        cfg = self.cfg
        if cfg.FEATURES.ENABLED:
            return "of cached features"
        nodes = f" on {cfg.NUM_SHARDS} nodes" if cfg.NUM_SHARDS > 1 else ""
        return f"{batches_per_step(cfg)} x TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}{nodes}"

    def _warmup(self) -> str:
        return counted(self.cfg.SOLVER.WARMUP_EPOCHS or self.plan.warmup / self.plan.batches, "epoch")

    def _unfreezing(self) -> str:
        epoch = self.cfg.MODEL.UNFREEZE_EPOCH
        return (
            epoch and f"In the first {epoch} epochs, MODEL.FREEZE {self.cfg.MODEL.FREEZE} applies; then all is trained."
        )

    def _covered(self) -> tuple[str, str]:
        """Smallest and largest number of frames and of seconds from the first to the last frame of the clips shown."""
        clips = [draw.clip for video in self.videos for draw in video.draws]
        if not clips:
            return "–", "–"
        frames = [max(clip.numbers) - min(clip.numbers) + 1 for clip in clips]
        seconds = [max(times) - min(times) for times in map(self._times, clips)]
        return _range([f"{min(frames)}", f"{max(frames)}"]), _range([f"{min(seconds):.2f}", f"{max(seconds):.2f}"])

    def _times(self, clip: SampledClip) -> list[float]:
        """Seconds of the frames; of frames of an unknown rate, at DATA.TARGET_FPS."""
        pairs = zip(clip.numbers, clip.times, strict=True)
        return [number / self.cfg.DATA.TARGET_FPS if math.isnan(time) else time for number, time in pairs]

    def _time_source(self) -> str:
        unknown = any(math.isnan(draw.clip.times[0]) for video in self.videos for draw in video.draws)
        return f"at DATA.TARGET_FPS {self.cfg.DATA.TARGET_FPS:g}" if unknown else "at the frame rates of the videos"

    def _video(self, video: PreviewVideo) -> dict[str, Any]:
        length = f"{video.num_frames} frames" + (f", {video.seconds:.2f} s" if video.seconds else "")
        shown, draws = (), []
        for draw in video.draws:
            # Frames that do not change from draw to draw are shown once.
            original = None if draw.clip.numbers == shown else _image(make_strip(_whole(draw)))
            shown = draw.clip.numbers
            draws.append(
                {
                    "label": draw.label,
                    "frames": self._frames(draw.clip),
                    "original": original,
                    "augmented": _image(make_strip(draw.clip)),
                }
            )
        return {
            "name": video.name,
            "class": video.class_name,
            "length": length,
            "draws": draws,
            "problem": video.problem,
        }

    def _frames(self, clip: SampledClip) -> str:
        """The numbers and times of the frames that a strip shows."""
        strip = make_strip(clip)
        times = [f"{time:.2f}" for time in strip.times if time is not None]
        more = "" if len(strip.numbers) == strip.sampled else f" ({len(strip.numbers)} of {strip.sampled})"
        text = f"frames {', '.join(map(str, strip.numbers))}{more}"
        return f"{text} at {', '.join(times)}\N{NO-BREAK SPACE}s" if times else text

    def _caption(self, video: PreviewVideo, draw: Draw) -> str:
        return f"{video.class_name}: {video.name}, {draw.label}, {self._frames(draw.clip)}"

    def _mixed(self, clip: MixedClip) -> dict[str, str]:
        label = " + ".join(f"{100 * probability:.0f} % {name}" for name, probability in clip.label if probability > 0)
        return {"label": label, "image": _image(make_strip(clip.clip))}


def _whole(draw: Draw) -> SampledClip:
    """The frames of the video as a clip."""
    return SampledClip(draw.clip.clip, draw.original, draw.clip.numbers, draw.clip.times, draw.clip.view)


def _image(strip: Strip) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(strip.jpeg).decode()}"


def _decode(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _range(ends: list[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def _changed_options(cfg: CfgNode) -> list[tuple[str, str, str]]:
    """Key, value and default of the options that differ from their default."""
    pairs = [(key, get_option(cfg, key), option.default) for key, option in OPTIONS.items()]
    return [(key, str(value), str(default) or "(empty)") for key, value, default in pairs if value != default]
