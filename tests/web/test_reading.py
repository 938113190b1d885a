"""Untrusted videos: each is read or refused, within its limits."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.made_videos import encode, moving_scene
from tests.web.conftest import write_clip
from tests.web.faults import crash, exhaust_memory, hang
from timesformer import load_model
from timesformer.datasets.clips import SampledClip
from timesformer.web.reading import Readers, sample_clips
from timesformer.web.uploads import Limits, RefusedError

pytestmark = pytest.mark.slow

Sample = Callable[[str], list[SampledClip]]


@pytest.fixture(scope="module")
def sample(checkpoint: Path) -> Sample:
    return partial(sample_clips, load_model(checkpoint, "cpu").cfg)


@pytest.fixture
def make_readers() -> Iterator[Callable[..., Readers]]:
    """make_readers(**limits): one process, with these limits."""
    made: list[Readers] = []

    def make(**limits: float) -> Readers:
        made.append(Readers(Limits(**limits), 1))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for readers in made:
        readers.close()


def test_clips_are_those_of_a_prediction(
    checkpoint: Path, clips: list[Path], sample: Sample, make_readers: Callable[..., Readers]
) -> None:
    video = make_readers().video(clips[0], sample)
    assert (video.num_frames, video.fps, video.width, video.height) == (12, 10.0, 32, 32)
    expected = load_model(checkpoint, "cpu").clips(clips[0])
    assert len(video.clips) == len(expected) == 2
    for clip, other in zip(video.clips, expected, strict=True):
        assert clip.clip.equal(other.clip)
        assert np.array_equal(clip.frames, other.frames)
        assert clip.times == other.times


def test_invalid_videos_are_refused(
    no_clips: Callable[[str], Path], clips: list[Path], sample: Sample, make_readers: Callable[..., Readers]
) -> None:
    readers = make_readers()
    for name in ("text", "cut", "playlist", "concat", "huge frames", "noise"):
        path = no_clips(name)
        with pytest.raises(RefusedError) as caught:
            readers.video(path, sample)
        assert str(path.parent) not in str(caught.value)
    assert readers.video(clips[0], sample).num_frames == 12


def test_limits_are_checked_before_decoding(
    tmp_path: Path, clips: list[Path], make_readers: Callable[..., Readers]
) -> None:
    with pytest.raises(RefusedError, match="32 × 32"):
        make_readers(pixels=1000).video(clips[0], crash)
    hour = write_clip(tmp_path / "hour.mp4", 0, frames=10, rate=Fraction(1, 360))
    with pytest.raises(RefusedError, match="1:00:00 h"):
        make_readers().video(hour, crash)


@pytest.mark.parametrize(("fault", "named"), [(crash, "SIGABRT"), (hang, "10 seconds"), (exhaust_memory, "allocate")])
def test_faults_of_the_decoder_are_contained(
    clips: list[Path], fault: Sample, named: str, sample: Sample, make_readers: Callable[..., Readers]
) -> None:
    readers = make_readers(decoding_seconds=10 if fault is hang else 60, decoding_bytes=2**29)
    assert readers.video(clips[0], sample).num_frames == 12
    with pytest.raises(RefusedError, match=named):
        readers.video(clips[0], fault)
    assert readers.video(clips[0], sample).num_frames == 12  # in another process


def test_length_follows_from_timestamps(tmp_path: Path, sample: Sample, make_readers: Callable[..., Readers]) -> None:
    path = encode(tmp_path / "slow.mkv", moving_scene(8), "libx264", [1000 * number for number in range(8)])
    video = make_readers(seconds=9).video(path, sample)
    assert video.seconds == pytest.approx(8)
    for clip in video.clips:
        assert clip.times == pytest.approx(clip.numbers)
    with pytest.raises(RefusedError):
        make_readers(seconds=7).video(path, sample)
