"""When which action happens in a video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.datasets.decoding.open import Video, VideoError, name_of, to_source
from timesformer.inference.classifier import Classifier, check_classifier
from timesformer.localization.segments import Segment, find_segments
from timesformer.localization.window_parts import Part
from timesformer.localization.windows import WindowScores, score_windows


@dataclass(frozen=True, eq=False)
class Timeline:
    """The actions in a video; only `video` and `error` are set if nothing of it could be read."""

    video: str  # its path as given, or a description
    segments: list[Segment] = field(default_factory=list)  # in order of time
    windows: list[WindowScores] = field(default_factory=list)
    error: str = ""  # why the video could not be read, or not to its end

    def with_segments(self, class_names: Sequence[str], **options: Any) -> "Timeline":
        """Returns the timeline with the segments of its windows; `options` are those of `find_segments`."""
        return replace(self, segments=find_segments(self.windows, class_names, **options))

    @property
    def duration(self) -> float:
        """End of the last window in seconds; 0 without one."""
        return self.windows[-1].end if self.windows else 0.0

    @property
    def problem(self) -> str:
        """The error without the path of the video."""
        return self.error.removeprefix(f"{self.video}: ")

    def __str__(self) -> str:
        lines = [
            f"  {clock(segment.start)} - {clock(segment.end)}  "
            + (f"{segment.class_name} {100 * segment.probability:.1f} %" if segment.class_name else "no action")
            for segment in self.segments
        ]
        nothing = [] if lines or self.error else ["  no action"]
        return "\n".join([self.video, *lines, *nothing, *([f"  {self.problem}"] if self.error else [])])

    def to_dict(self) -> dict[str, Any]:
        """Returns what `json.dumps` accepts, without the windows. Probabilities have six decimals."""
        segments = [
            {
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "class": segment.class_name,
                "probability": round(segment.probability, 6),
            }
            for segment in self.segments
        ]
        return {
            "video": self.video,
            "duration": round(self.duration, 3),
            "segments": segments,
            "error": self.problem,
        }


def find_actions(
    classifier: Classifier,
    video: "Video",
    *,
    window: float | None = None,
    stride: float | None = None,
    fps: float | None = None,
    cfg: CfgNode | None = None,
    on_part: Callable[[Part], object] | None = None,
    **options: Any,
) -> Timeline:
    """Finds when which action happens in a video.

    `options` are those of `find_segments`, all others are described at `score_windows`. If a video is damaged, the
    timeline ends there, with an `error`; raises VideoError if nothing of it can be read.
    """
    check_classifier(classifier)
    windows: list[WindowScores] = []
    error = ""
    find_segments([], classifier.class_names, **options)  # checks the options
    source = to_source(video, fps)
    scores = score_windows(classifier, source, window=window, stride=stride, cfg=cfg, fps=fps, on_part=on_part)
    try:
        windows.extend(scores)
    except VideoError as problem:
        if not windows:
            raise
        error = str(problem)
    timeline = Timeline(name_of(source), windows=windows, error=error)
    return timeline.with_segments(classifier.class_names, **options)


def clock(seconds: float) -> str:
    """Returns a time as H:MM:SS.mmm, as in WebVTT; hours have two digits or more."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
