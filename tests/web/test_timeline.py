"""Windows over untrusted long videos, in bounded time and memory."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.datasets.made_videos import encode, ffmpeg, moving_scene
from tests.patience import PATIENCE
from timesformer.localization.timeline import Timeline, find_actions
from timesformer.localization.windows import WindowScores
from timesformer.web import timeline
from timesformer.web.options import Options
from timesformer.web.service import Service
from timesformer.web.timeline import coarse_to_fine, score_video, spread_windows, without_gaps
from timesformer.web.uploads import Limits, RefusedError


@pytest.fixture
def service(checkpoint: Path) -> Service:
    return Service.load(Options(checkpoint=str(checkpoint), device="cpu", limits=Limits(decoding_seconds=PATIENCE)))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds."""
    return encode(tmp_path_factory.mktemp("long") / "long.mp4", moving_scene(80, 48, 32), "libx264", rate=10, g="7")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long.mp4", "odd.mp4", "old.avi", "raw.h264"])  # the last one has no times
def test_segments_are_those_of_predict(service: Service, video: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    odd = ["-frames:v", "77"] if name == "odd.mp4" else []
    ffmpeg("-i", video, *odd, *(["-c:v", "mpeg4"] if name == "old.avi" else ["-c:v", "libx264"]), path)
    expected = find_actions(service.classifier, path)
    scored = score_video(service, path, service.inspect(path), service.samplers[0], service.default_views)
    assert len(scored.windows) == scored.planned == len(expected.windows)
    for window, other in zip(scored.windows, expected.windows, strict=True):
        assert (window.start, window.end) == pytest.approx((other.start, other.end), abs=1e-6)
        assert window.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    found = Timeline(str(path), windows=scored.windows).with_segments(service.classifier.class_names)
    borders = [[(part.start, part.end, part.class_name) for part in t.segments] for t in (found, expected)]
    assert borders[0] == borders[1] != []


@pytest.mark.slow
def test_windows_of_a_longer_video_are_spread(service: Service, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_WINDOWS", 6)
    scored = score_video(service, video, service.inspect(video), "uniform", 1)
    assert (len(scored.windows), scored.is_spread) == (6, True)
    assert (scored.windows[0].start, scored.windows[-1].end) == pytest.approx((0, 8.0))


@pytest.mark.slow
def test_late_answer_is_coarse_and_covers_the_video(
    service: Service, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = service.inspect(video)
    service.limits = Limits(decoding_seconds=20)
    clock = iter([0.0, 1.0, *[21.0] * 100])
    monkeypatch.setattr(timeline, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(timeline, "_PART", 3)
    scored = score_video(service, video, properties, "uniform", 1)
    assert len(scored.windows) == 6 < scored.planned
    assert scored.windows[0].start == 0
    assert all(before.end >= after.start for before, after in zip(scored.windows, scored.windows[1:], strict=False))
    assert scored.windows[-1].end > 0.7 * properties.seconds


@pytest.mark.slow
def test_damage_is_refused_without_the_path(service: Service, video: Path, tmp_path: Path) -> None:
    properties, path = service.inspect(video), tmp_path / "damaged.mp4"
    path.write_bytes(video.read_bytes()[:1000])
    with pytest.raises(RefusedError) as caught:
        score_video(service, path, properties, "uniform", 1)
    assert str(tmp_path) not in str(caught.value)


def test_windows_are_spread_over_the_video() -> None:
    spans = spread_windows(7200.0, 2.0, timeline.MAX_WINDOWS)
    assert len(spans) == timeline.MAX_WINDOWS
    assert (spans[0][0], spans[-1][1]) == (0.0, 7200.0)
    for number in (1, 2, 5, 8, 100):
        order = coarse_to_fine(number)
        assert sorted(order) == list(range(number))
        for count in range(1, number):
            borders = np.array([-1, *sorted(order[:count]), number])
            assert np.diff(borders).max() <= 2 ** (int(np.ceil(np.log2(number))) - int(np.log2(count))) + 1


def test_gaps_between_windows_are_filled() -> None:
    windows = [WindowScores(start, start + 1.0, np.ones(1, np.float32)) for start in (0.0, 3.0, 3.5)]
    assert [(window.start, window.end) for window in without_gaps(windows)] == [(0, 2), (2, 4), (3.5, 4.5)]
