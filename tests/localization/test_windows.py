"""Windows over long videos."""

import weakref
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from tests.datasets.made_videos import encode, ffmpeg, moving_scene
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipMaker
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.decoding.pyav import VideoFile
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.inference.clip_batches import make_views
from timesformer.localization.window_clips import WindowClipMaker
from timesformer.localization.window_length import default_window
from timesformer.localization.window_reader import WindowClips, WindowReader
from timesformer.localization.windows import WindowScores, score_windows

LOSSLESS = {"codec": "libx264", "qp": "0", "g": "1"}  # all frames are key frames
SAMPLERS = {
    "dense": ["DATA.SAMPLER", "dense", "DATA.TARGET_FPS", 25.0],
    "dense, full window": ["DATA.SAMPLER", "dense", "DATA.SAMPLER_WINDOW", "full"],
    "uniform": ["DATA.SAMPLER", "uniform"],
    "equidistant": ["DATA.SAMPLER", "equidistant"],
    "random": ["DATA.SAMPLER", "random"],
    "segment": ["DATA.SAMPLER", "segment"],
    "stretched": ["DATA.PRE_SAMPLING.ENABLED", True, "DATA.SAMPLING_RATE", 8],
    "stretched after sampling": ["DATA.PRE_SAMPLING.ENABLED", True, "DATA.PRE_SAMPLING.ORDER", "after_sampling"],
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two videos of 40 frames: with 25 frames per second, and with pauses of 0.7 seconds."""
    folder, frames = tmp_path_factory.mktemp("videos"), moving_scene(40, 48, 32)
    lengths = [40, 40, 120, 20, 60, 40, 700, 40] * 5
    times = [sum(lengths[:number]) for number in range(len(frames))]
    return {
        "constant": encode(folder / "constant.mp4", frames, **LOSSLESS),
        "variable": encode(folder / "variable.mp4", frames, times=times, **LOSSLESS),
    }


def cut(video: Path, start: float, end: float, target: Path) -> Path:
    """The frames first shown from `start` to before `end`, copied unchanged by the program `ffmpeg`."""
    # A little earlier than frames begin, so that rounding does not matter.
    outside = f"noise=amount=0:drop='lt(pts*tb,{start - 1e-4})+gte(pts*tb,{end - 1e-4})'"
    ffmpeg("-i", video, "-c", "copy", "-bsf:v", outside, "-avoid_negative_ts", "make_zero", target)
    return target


def config(*options: object) -> CfgNode:
    cfg = get_cfg()
    small = ["DATA.NUM_FRAMES", 4, "DATA.SAMPLING_RATE", 2, "DATA.TEST_CROP_SIZE", 24]
    small += ["DATA.TRAIN_JITTER_SCALES", [28, 32], "TEST.NUM_ENSEMBLE_VIEWS", 2, "TEST.NUM_SPATIAL_CROPS", 3]
    cfg.merge_from_list([*small, *options])
    return cfg


def read(cfg: CfgNode, video: Path, window: float, stride: float) -> list[WindowClips]:
    with WindowReader(cfg, str(video)) as reader:
        return list(reader.read(window, stride))


def clips_of(cfg: CfgNode, path: Path) -> list[torch.Tensor]:
    maker = ClipMaker(cfg, "test")
    return [clip.clip for clip in make_views(maker, str(path), range(maker.num_views), cfg.RNG_SEED)]


@pytest.mark.parametrize(
    ("video", "sampler"), [*(("constant", name) for name in SAMPLERS), ("variable", "dense"), ("variable", "uniform")]
)
def test_clips_equal_those_of_the_stretch_cut_out_by_ffmpeg(
    video: str, sampler: str, videos: dict[str, Path], tmp_path: Path
):
    cfg = config(*SAMPLERS[sampler])
    windows = read(cfg, videos[video], 0.6, 0.3)
    assert [window.start for window in windows[:3]] == [0.0, 0.3, 0.6]
    for number, window in enumerate([windows[1], windows[2], windows[-1]]):
        expected = clips_of(cfg, cut(videos[video], window.start, window.end, tmp_path / f"{number}.mp4"))
        assert len(window.views) == len(expected) == 6
        for view, clip in zip(window.views, expected, strict=True):
            assert torch.equal(window.clips[view], clip)


def test_a_window_without_new_frames_has_the_frame_that_is_shown(videos: dict[str, Path], tmp_path: Path):
    cfg = config("DATA.SAMPLER", "uniform")
    windows = read(cfg, videos["variable"], 0.2, 0.1)
    paused = next(window for window in windows if window.start == pytest.approx(0.5))
    expected = clips_of(cfg, cut(videos["variable"], 0.32, 1.02, tmp_path / "frame.mp4"))
    assert all(torch.equal(paused.clips[view], clip) for view, clip in zip(paused.views, expected, strict=True))


@pytest.mark.parametrize("video", ["constant", "variable"])
@pytest.mark.parametrize("stride", [0.25, 0.75])
def test_windows_do_not_depend_on_whether_times_of_frames_are_known(
    video: str, stride: float, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    cfg = config("DATA.SAMPLER", "equidistant")
    known = read(cfg, videos[video], 0.5, stride)
    monkeypatch.setattr(VideoFile, "known_ticks", lambda self: None)
    unknown = read(cfg, videos[video], 0.5, stride)
    assert [window[:2] for window in known] == [window[:2] for window in unknown]
    for one, other in zip(known, unknown, strict=True):
        assert all(map(torch.equal, one.clips, other.clips))


@pytest.mark.parametrize("is_known", [True, False])
def test_frames_are_decoded_once_and_kept_for_a_window(
    is_known: bool, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    """Windows of 12 frames, of which each clip has all, overlap by half."""
    decoded: list[int] = []
    kept: list[int] = []  # at each frame
    alive: set[int] = set()
    decode, prepare = VideoFile._decode_packet, WindowClipMaker.prepare

    def count_decoded(self: VideoFile, *arguments: Any, **options: Any) -> list[av.VideoFrame]:
        frames = decode(self, *arguments, **options)
        decoded.extend(frame.pts for frame in frames)
        return frames

    def count_kept(self: WindowClipMaker, image: np.ndarray) -> list[torch.Tensor]:
        crops = prepare(self, image)
        alive.add(number := len(kept))
        weakref.finalize(crops[0], alive.remove, number)
        kept.append(len(alive))
        return crops

    if not is_known:
        monkeypatch.setattr(VideoFile, "known_ticks", lambda self: None)
    cfg = config("DATA.SAMPLER", "equidistant", "DATA.NUM_FRAMES", 12)
    with WindowReader(cfg, str(videos["constant"])) as reader:
        monkeypatch.setattr(VideoFile, "_decode_packet", count_decoded)
        monkeypatch.setattr(WindowClipMaker, "prepare", count_kept)
        assert len(list(reader.read(0.48, 0.24))) == 6
    assert len(decoded) == len(set(decoded)) == len(kept) == 40
    assert max(kept) <= 12 + 3  # one before the window, and two after it


def scores(checkpoint: Path, video: Path, *options: str, **arguments: object) -> list[WindowScores]:
    return list(score_windows(load_model(checkpoint, "cpu", options), video, **arguments))


@pytest.mark.numerical
def test_scores_equal_predictions_for_the_stretches(videos: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path):
    options = ["TEST.NUM_SPATIAL_CROPS", "3", "TEST.BATCH_SIZE", "2"]
    windows = scores(tiny_checkpoint, videos["constant"], *options, window=0.5)
    borders = [*((n / 4, n / 4 + 0.5) for n in range(5)), (1.1, 1.6)]
    assert [(window.start, window.end) for window in windows] == borders
    classifier = load_model(tiny_checkpoint, "cpu", options)
    for number, window in enumerate(windows):
        stretch = cut(videos["constant"], window.start, window.end, tmp_path / f"{number}.mp4")
        assert window.probabilities == pytest.approx(classifier.predict(stretch).probabilities, abs=1e-6)


def test_a_short_video_is_one_window(videos: dict[str, Path], tiny_checkpoint: Path):
    (window,) = scores(tiny_checkpoint, videos["constant"], window=5.0)
    assert (window.start, window.end) == (0.0, 1.6)


def test_windows_before_damage_are_scored(videos: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path):
    content, damaged = bytearray(videos["constant"].read_bytes()), tmp_path / "damaged.mp4"
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    damaged.write_bytes(content)
    found: list[WindowScores] = []
    with pytest.raises(VideoError, match=r"damaged\.mp4"):
        found.extend(score_windows(load_model(tiny_checkpoint, "cpu"), damaged, window=0.2))
    assert 3 <= len(found) <= 9
    expected = scores(tiny_checkpoint, videos["constant"], window=0.2)[: len(found)]
    assert np.allclose([w.probabilities for w in found], [w.probabilities for w in expected], atol=1e-6)


def test_sound_that_begins_earlier_shifts_the_windows(videos: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path):
    delayed = tmp_path / "delayed.mp4"
    sound = ["-f", "lavfi", "-i", "sine=duration=2", "-itsoffset", "0.5", "-i", videos["constant"]]
    ffmpeg(*sound, "-map", "0:a", "-map", "1:v", "-c:v", "copy", "-c:a", "aac", delayed)
    windows = scores(tiny_checkpoint, delayed, window=0.8)
    assert [window.start for window in windows] == pytest.approx([0.5, 0.9, 1.3], abs=0.05)  # AAC frames are 0.023 s


def test_folders_of_frames_have_the_given_rate(tiny_data: Path, tiny_checkpoint: Path):
    folder = next(tiny_data.glob("test/walk/*"))
    windows = scores(tiny_checkpoint, folder, window=1.0, stride=1.0, fps=2.0)
    assert [(window.start, window.end) for window in windows] == [(0.0, 1.0), (0.5, 1.5)]


def test_frames_in_memory_need_their_rate(videos: dict[str, Path], tiny_checkpoint: Path):
    with open_video(videos["constant"]) as video:
        frames = np.stack(list(video.frames()))
    found, expected = (scores(tiny_checkpoint, video, window=0.5, fps=25.0) for video in (frames, videos["constant"]))
    assert [window.end for window in found] == [window.end for window in expected]
    assert np.array_equal([w.probabilities for w in found], [w.probabilities for w in expected])
    with pytest.raises(VideoError, match="fps"):
        scores(tiny_checkpoint, frames, window=0.5)


@pytest.mark.parametrize(
    ("name", "seconds"), [("window", 0.0), ("window", float("inf")), ("window", "1"), ("stride", -1.0)]
)
def test_windows_have_a_length(name: str, seconds: object, videos: dict[str, Path], tiny_checkpoint: Path):
    with pytest.raises(UserError, match=name):
        scores(tiny_checkpoint, videos["constant"], **{name: seconds})


def test_the_default_window_is_the_span_of_a_clip():
    dense = config("DATA.SAMPLER", "dense", "DATA.TARGET_FPS", 10.0)
    assert default_window(dense, 25.0) == (pytest.approx(0.8), "")
    assert default_window(config("DATA.SAMPLER", "uniform"), 16.0) == (0.5, "")
    seconds, note = default_window(config("DATA.SAMPLER", "segment"), 25.0)
    assert f"{seconds:g} seconds" in note
    assert default_window(config("DATA.SAMPLER", "segment"), 25.0, 4.8) == (4.8, "")
