"""The prediction for a video, as text, JSON or HTML."""

import base64
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from timesformer.datasets.clips import SampledClip

_LONG, _TIMES_LONGER = 10.0, 3.0  # seconds of a long video, and so many times what its model was trained on
_SHOWN_FRAMES = 8
_FRAME_HEIGHT = 96  # pixels, in HTML
_BAR_WIDTH, _BAR_HEIGHT = 200, 12
_BAR_COLOR = (59, 125, 216)  # has contrast on white and on black


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Prediction for a video; only `video` and `error` are set if it could not be read."""

    video: str  # its path as given, or a description
    top: list[tuple[str, float]] = field(default_factory=list)  # the most probable classes, in descending order
    probabilities: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))  # float32 [classes], calibrated
    num_views: int = 0  # number of views that were averaged
    embedding: np.ndarray | None = None  # float32 [dim], input of the last linear layer, mean over views; if requested
    clips: list[SampledClip] = field(default_factory=list)  # the views, if requested
    seconds: float = 0.0  # time it took
    error: str = ""  # why the video could not be read
    used: float = 0.0  # seconds of the video between the first and last frames of its views
    duration: float = 0.0  # seconds of the whole video, 0 if unknown
    clip_seconds: float = 0.0  # median length of the training clips, 0 if unknown

    @property
    def coverage_note(self) -> str:
        """How much of a long video was used; empty for others (`is_long`)."""
        if not is_long(self.duration, self.used, self.clip_seconds):
            return ""
        trained = f", training clips have {self.clip_seconds:.1f} s" if self.clip_seconds else ""
        return f"used {self.used:.1f} s of {self.duration:.0f} s{trained}"

    def __str__(self) -> str:
        classes = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in self.top)
        return self.error or f"{self.video}: {classes}"

    def __repr__(self) -> str:
        if self.error:
            return f"Prediction(video={self.video!r}, error={self.error!r})"
        top = ", ".join(f"({name!r}, {probability:.4f})" for name, probability in self.top)
        return f"Prediction(video={self.video!r}, top=[{top}], num_views={self.num_views})"

    def to_dict(self) -> dict[str, Any]:
        """Returns what `json.dumps` accepts.

        `video`, `top`, `error`, `used` and `duration` are those of the JSON file of predict. Also `num_views`,
        `seconds` (the time it took) and `probabilities` of all classes; `embedding` and `clips`, with the numbers and
        times of their frames (None if unknown), if they were requested. Probabilities have six decimals.
        """
        content: dict[str, Any] = {
            "video": self.video,
            "top": [{"class": name, "probability": round(probability, 6)} for name, probability in self.top],
            "error": self.error,
            "num_views": self.num_views,
            "seconds": round(self.seconds, 6),
            "used": round(self.used, 3),
            "duration": round(self.duration, 3),
            "probabilities": [round(float(probability), 6) for probability in self.probabilities],
        }
        if self.embedding is not None:
            content["embedding"] = self.embedding.tolist()
        if self.clips:
            content["clips"] = [
                {
                    "view": clip.view,
                    "numbers": list(map(int, clip.numbers)),
                    "times": [None if math.isnan(time) else round(time, 6) for time in clip.times],
                }
                for clip in self.clips
            ]
        return content

    def _repr_html_(self) -> str:
        """Returns bars of the classes and, with `keep_clips`, frames of the middle view, for notebooks."""
        if self.error:
            return f"<div>{escape(self.error)}</div>"
        # Sites that show notebooks remove styles, so bars are images with a width.
        bar = _data_url(Image.new("RGB", (1, 1), _BAR_COLOR), "PNG")
        rows = "".join(
            f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:left">'
            + _img(bar, "", max(1, round(_BAR_WIDTH * probability)), _BAR_HEIGHT)
            + f'</td><td style="text-align:right">{100 * probability:.1f} %</td></tr>'
            for name, probability in self.top
        )
        views = f"<small>{self.num_views} view{'s' * (self.num_views > 1)}, predicted in {self.seconds:.2f} s</small>"
        return f"<div><b>{escape(self.video)}</b><br>{views}{self._strip()}<table>{rows}</table></div>"

    def _strip(self) -> str:
        if not self.clips:
            return ""
        clip = self.clips[(len(self.clips) - 1) // 2]
        images = []
        for number in np.unique(np.linspace(0, len(clip.frames) - 1, _SHOWN_FRAMES).round().astype(int)):
            time, image = clip.times[number], Image.fromarray(clip.frames[number])
            size = round(image.width * _FRAME_HEIGHT / image.height), _FRAME_HEIGHT
            url = _data_url(image.resize(size) if image.height > _FRAME_HEIGHT else image, "JPEG")
            title = f"frame {clip.numbers[number]}" if math.isnan(time) else f"{time:.2f} s"
            images.append(_img(url, title, *size, margin=2))
        return f"<div>{''.join(images)}</div>"


class CoverageNotes:
    """Collects which videos are much longer than the parts of them that were used."""

    def __init__(self) -> None:
        self._number, self._first = 0, ""

    def add(self, prediction: Prediction) -> None:
        """Counts a prediction."""
        if note := prediction.coverage_note:
            self._number += 1
            self._first = self._first or f"{prediction.video}: {note}"

    def print(self, quiet: bool) -> None:
        """Prints a warning, unless `quiet` or all videos are short."""
        if self._number and not quiet:
            more = f" (and {self._number - 1} more videos)" if self._number > 1 else ""
            print(f"warning: {self._first}{more}; add --timeline, or --views N", file=sys.stderr)


def _img(url: str, title: str, width: int, height: int, margin: int = 0) -> str:
    style = f"display:inline;margin:{margin}px;max-width:none"
    return f'<img src="{url}" alt="{title}" title="{title}" width="{width}" height="{height}" style="{style}">'


def _data_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def is_long(duration: float, used: float, clip_seconds: float) -> bool:
    """Whether a video has 10 seconds or more and is at least three times as long as the training clips.

    If the length of the training clips is unknown (0), it is compared with the seconds that were used.
    """
    return round(duration, 1) >= _LONG and duration >= _TIMES_LONGER * (clip_seconds or used)


def covered_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """Returns how many seconds intervals cover together; NaN times count as none."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(span for span in spans if not math.isnan(span[0] + span[1])):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
