"""Untrusted videos: each is read or refused, within its limits."""

import os
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.made_videos import encode, moving_scene
from tests.web.conftest import write_clip
from timesformer import load_model
from timesformer.datasets.clips import SampledClip
from timesformer.web.reading import read_video, sample_clips
from timesformer.web.uploads import Limits, RefusedError

pytestmark = pytest.mark.slow

Sample = Callable[[str], list[SampledClip]]


@pytest.fixture(scope="module")
def sample(checkpoint: Path) -> Sample:
    return partial(sample_clips, load_model(checkpoint, "cpu").cfg)


def crash(path: str) -> list[SampledClip]:
    os.abort()


def hang(path: str) -> list[SampledClip]:
    time.sleep(1000)
    return []


def exhaust_memory(path: str) -> list[SampledClip]:
    return [np.ones(2**28, np.uint8) for _ in range(8)]  # type: ignore[misc]


def test_clips_are_those_of_a_prediction(checkpoint: Path, clips: list[Path], sample: Sample) -> None:
    video = read_video(clips[0], sample, Limits())
    assert (video.num_frames, video.fps, video.width, video.height) == (12, 10.0, 32, 32)
    expected = load_model(checkpoint, "cpu").clips(clips[0])
    assert len(video.clips) == len(expected) == 2
    for clip, other in zip(video.clips, expected, strict=True):
        assert clip.clip.equal(other.clip)
        assert np.array_equal(clip.frames, other.frames)
        assert clip.times == other.times


@pytest.mark.parametrize("name", ["text", "cut", "playlist", "concat", "huge frames", "noise"])
def test_invalid_video_is_refused(name: str, no_clips: Callable[[str], Path], sample: Sample) -> None:
    path = no_clips(name)
    with pytest.raises(RefusedError) as caught:
        read_video(path, sample, Limits())
    assert str(path.parent) not in str(caught.value)


def test_limits_are_checked_before_decoding(tmp_path: Path, clips: list[Path]) -> None:
    with pytest.raises(RefusedError, match="32 × 32"):
        read_video(clips[0], crash, Limits(pixels=1000))
    hour = write_clip(tmp_path / "hour.mp4", 0, frames=10, rate=Fraction(1, 360))
    with pytest.raises(RefusedError, match="1:00:00 h"):
        read_video(hour, crash, Limits())


@pytest.mark.parametrize(
    ("fault", "named"), [(crash, "SIGABRT"), (hang, r"0\.5 seconds"), (exhaust_memory, "allocate")]
)
def test_faults_of_the_decoder_are_contained(clips: list[Path], fault: Sample, named: str) -> None:
    with pytest.raises(RefusedError, match=named):
        read_video(clips[0], fault, Limits(decoding_seconds=0.5 if fault is hang else 60, decoding_bytes=2**30))


def test_length_follows_from_timestamps(tmp_path: Path, sample: Sample) -> None:
    path = encode(tmp_path / "slow.mkv", moving_scene(8), "libx264", [1000 * number for number in range(8)])
    video = read_video(path, sample, Limits(seconds=9))
    assert video.seconds == pytest.approx(8)
    for clip in video.clips:
        assert clip.times == pytest.approx(clip.numbers)
    with pytest.raises(RefusedError):
        read_video(path, sample, Limits(seconds=7))
