"""Videos of strangers: whatever is in the file, it ends in clips or in a sentence, and takes no more than it may."""

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
from timesformer.web.reading import read_clips, read_here, sample_clips
from timesformer.web.uploads import Limits, RefusedError

Sample = Callable[[str], list[SampledClip]]


@pytest.fixture(scope="module")
def sample(checkpoint: Path) -> Sample:
    return partial(sample_clips, load_model(checkpoint, "cpu").cfg)


def crash(path: str) -> list[SampledClip]:
    os.abort()


def hang(path: str) -> list[SampledClip]:
    time.sleep(1000)
    return []


def devour(path: str) -> list[SampledClip]:
    return [np.ones(2**28, np.uint8) for _ in range(8)]  # type: ignore[misc]


def test_the_clips_are_those_of_a_prediction_without_the_page(
    checkpoint: Path, clips: list[Path], sample: Sample
) -> None:
    footage = read_clips(clips[0], sample, Limits())
    assert (footage.num_frames, footage.fps, footage.width, footage.height) == (12, 10.0, 32, 32)
    expected = load_model(checkpoint, "cpu").clips(clips[0])
    assert len(footage.clips) == len(expected) == 2
    for clip, other in zip(footage.clips, expected, strict=True):
        assert clip.clip.equal(other.clip)
        assert np.array_equal(clip.frames, other.frames)
        assert clip.times == other.times


@pytest.mark.parametrize("name", ["text", "empty", "cut", "header alone", "playlist", "concat", "huge frames", "noise"])
def test_what_is_no_video_is_said_to_be_none(name: str, no_clips: Callable[[str], Path], sample: Sample) -> None:
    path = no_clips(name)
    with pytest.raises(RefusedError, match=r"This file cannot be read: .+") as caught:
        read_here(str(path), sample, Limits())
    assert str(path.parent) not in str(caught.value)
    assert "unexpected" not in str(caught.value)


def test_a_video_beyond_a_limit_is_refused_before_it_is_decoded(tmp_path: Path, clips: list[Path]) -> None:
    with pytest.raises(RefusedError, match=r"32 × 32 pixels, and at most 1,000 pixels"):
        read_here(str(clips[0]), crash, Limits(pixels=1000))
    hour = write_clip(tmp_path / "hour.mp4", 0, frames=10, rate=Fraction(1, 360))
    with pytest.raises(RefusedError, match=r"too long: 1:00:00 h, and at most 5:00 min"):
        read_here(str(hour), crash, Limits())


def test_a_decoder_that_crashes_hangs_or_devours_memory_harms_nobody_else(clips: list[Path]) -> None:
    with pytest.raises(RefusedError, match=r"cannot be read: the decoder crashed \(SIGABRT\)"):
        read_clips(clips[0], crash, Limits())
    with pytest.raises(RefusedError, match=r"took longer than 0.5 seconds"):
        read_clips(clips[0], hang, Limits(decoding_seconds=0.5))
    with pytest.raises(RefusedError, match=r"cannot be read: .*allocate"):
        read_clips(clips[0], devour, Limits(decoding_bytes=2**30))


def test_the_length_is_that_of_the_times_at_which_frames_are_shown(tmp_path: Path, sample: Sample) -> None:
    times = [1000 * number for number in range(8)]
    path = encode(tmp_path / "slow.mkv", moving_scene(8), "libx264", times)
    footage = read_clips(path, sample, Limits(seconds=9))
    assert footage.seconds == pytest.approx(8)
    for clip in footage.clips:
        assert clip.times == pytest.approx(clip.numbers)
    with pytest.raises(RefusedError):
        read_clips(path, sample, Limits(seconds=7))
