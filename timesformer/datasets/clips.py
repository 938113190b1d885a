"""Sampled, cropped uint8 clips of videos, and the dataset that DataLoader workers read them from."""

import errno
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from fvcore.common.config import CfgNode
from numpy.random import RandomState
from torch import Tensor
from torch.utils.data import Dataset

from timesformer.config.load import ConfigError
from timesformer.datasets.catalog import load_split
from timesformer.datasets.decoding.open import Source, VideoError, VideoReader, open_video
from timesformer.datasets.manifest import known_video
from timesformer.datasets.records import DatasetSplit, VideoRecord
from timesformer.datasets.transforms.augmentation import Augmentation
from timesformer.datasets.transforms.sampling import VideoInfo, build_sampler
from timesformer.datasets.transforms.spatial import CENTER, horizontal_flip, resize, spatial_sampling
from timesformer.datasets.transforms.timeline import Frame, Timeline, render, renumber, source_numbers
from timesformer.datasets.workers.dataloader import WorkerStatus
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError
from timesformer.runtime.resource_limits import is_out_of_files

Key = tuple[int, int, int]
"""Epoch, index of the item, and how often that index came before in the epoch."""

PADDING_KEY: Key = (-1, -1, -1)
"""Key of the padding item: a black clip of video -1."""

REPLACEMENT_TRIES = 10  # so many unreadable videos of a class in a row are not bad luck

Read = Callable[[tuple[int, ...]], np.ndarray]


@dataclass(frozen=True, eq=False)
class SampledClip:
    """One view of a video.

    Attributes:
        clip: uint8 [3, frames, height, width], 0 to 255, cropped; BGR with DATA.REVERSE_INPUT_CHANNEL, else RGB.
        frames: the same pixels, uint8 [frames, height, width, 3], RGB; read-only, it may share memory with `clip`.
        numbers: number of each frame in the video, from 0; of a frame interpolated between two, the first of them.
        times: seconds from the first frame of the video to each frame; NaN where unknown (folders of frames).
        view: number of the view, as in `ClipDataset`; crops change fastest.
        duration: seconds of the whole video, 0 if unknown.
    """

    clip: Tensor
    frames: np.ndarray
    numbers: tuple[int, ...]
    times: tuple[float, ...]
    view: int
    duration: float = 0.0

    @property
    def span(self) -> tuple[float, float]:
        """Times of the first and the last frame."""
        return min(self.times), max(self.times)

    @classmethod
    def of(
        cls,
        clip: Tensor,
        numbers: tuple[int, ...],
        times: tuple[float, ...],
        view: int,
        is_bgr: bool,
        duration: float = 0.0,
    ) -> "SampledClip":
        """Make `frames` from the clip."""
        frames = rearrange(clip.flip(0) if is_bgr else clip, "c t h w -> t h w c").numpy()
        return cls(clip, frames, numbers, times, view, duration)


class ClipMaker:
    """Makes the clips of a split ("train", "val" or "test") from videos.

    `num_crops` of a clip and `num_views` (clips along the time x crops) of a video are 1 unless in testing; `crop_size`
    is the height and width of a clip in pixels.
    """

    def __init__(self, cfg: CfgNode, split: str) -> None:
        testing = split == "test"
        self.training = split == "train"
        self.num_crops = cfg.TEST.NUM_SPATIAL_CROPS if testing else 1
        self.num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * self.num_crops if testing else 1
        self.crop_size = cfg.DATA.TEST_CROP_SIZE if testing else cfg.DATA.TRAIN_CROP_SIZE
        self.dataset = cfg.TEST.DATASET if testing else cfg.TRAIN.DATASET
        self.sampler = build_sampler(cfg, split)
        self._augmentation = Augmentation(cfg) if self.training else None
        self._data = cfg.DATA

    def make(self, record: VideoRecord, views: Sequence[int], rngs: Sequence[RandomState]) -> list[SampledClip]:
        """Decode, crop and augment views (0 to num_views - 1) of a video, which is opened once.

        `rngs`, one for each view, are the only source of randomness. Raises VideoError if the video cannot be read.
        """
        with as_video_error(record.path):
            reader = self.open(record)
        return self.make_from(reader, views, rngs)

    def make_from(self, reader: VideoReader, views: Sequence[int], rngs: Sequence[RandomState]) -> list[SampledClip]:
        """Make views of an open video as `make`, and close it."""

        @functools.lru_cache(maxsize=1)  # all crops of a clip are cut from the same frames
        def read(numbers: tuple[int, ...]) -> np.ndarray:
            with as_video_error(reader.path):
                return reader.read(numbers)

        with reader:
            num_frames, clips = reader.num_frames, []
            for view, rng in zip(views, rngs, strict=True):
                reader.num_frames = num_frames  # a view must not depend on what reading another one found
                clips.append(self._make(reader, read, view, rng))
            return clips

    def open(self, record: VideoRecord) -> VideoReader:
        """Open a video; a subclass may return a reader of other frames. Raises VideoError."""
        video, num_frames, fps = known_video(record)
        return open_video(video, short_side=self._data.DECODE_SHORT_SIDE, num_frames=num_frames, fps=fps)

    def open_source(self, source: Source, fps: float | None = None, allow_cut_short: bool = False) -> VideoReader:
        """Open a video that is not in a dataset; arguments and errors as in `open_video`.

        Raises VideoError if the sampler needs the frame rate of frames in memory, and it is unknown.
        """
        short_side = self._data.DECODE_SHORT_SIDE
        reader = open_video(source, short_side=short_side, fps=fps, allow_cut_short=allow_cut_short)
        if self.sampler.needs_fps and not reader.fps and isinstance(source, VideoReader):
            raise VideoError(
                f"{reader.path}: its frame rate is unknown, and the {self.sampler.name} sampler needs it: give fps=, "
                f"frames per second (folders of frames are taken to have {self._data.TARGET_FPS:g}, DATA.TARGET_FPS)"
            )
        return reader

    def padding_clip(self) -> Tensor:
        """Return a black clip, uint8 [3, frames, height, width]."""
        return torch.zeros(3, self._data.NUM_FRAMES, self.crop_size, self.crop_size, dtype=torch.uint8)

    def plan(self, video: VideoInfo, view: int, rng: RandomState) -> list[Frame]:
        """Choose the DATA.NUM_FRAMES frames of a view of a video; a stretched video has means and gains of frames."""
        options, num_frames, sampler = self._data.PRE_SAMPLING, self._data.NUM_FRAMES, self.sampler
        view //= self.num_crops
        stretch = (options.METHODS, options.BRIGHTNESS_FACTORS) if options.ENABLED else ()
        if options.ENABLED and options.ORDER == "after_sampling":
            sampled = sampler.available(video, rng, view)
            timeline = Timeline(len(sampled), num_frames, *stretch)
            # A timeline that the methods could not stretch repeats from its start.
            return [renumber(timeline[i % len(timeline)], sampled) for i in range(num_frames)]
        timeline = Timeline(video.length, math.ceil(sampler.window_length(video.fps)), *stretch)
        if len(timeline) != video.length:
            video = VideoInfo(len(timeline), video.fps)
        positions = sampler.positions(video, rng, view)
        if len(positions) != num_frames or not 0 <= min(positions) <= max(positions) < video.length:
            expected = f"{num_frames} (DATA.NUM_FRAMES) numbers from 0 to {video.length - 1}"
            raise ConfigError([f"DATA.SAMPLER {sampler.name} returned {list(positions)}, expected {expected}"])
        return [timeline[position] for position in positions]

    def crop(self, pixels: np.ndarray, view: int, rng: RandomState) -> Tensor:
        """Crop frames, uint8 [frames, height, width, 3], to a square: uint8 [frames, 3, crop_size, crop_size].

        Raises ValueError or RuntimeError for frames whose shape cannot be cropped.
        """
        clip = rearrange(torch.from_numpy(pixels), "t h w c -> t c h w")  # resizing uint8 is fast in this order
        return self._crop(clip, rng, view)

    def to_clip(self, frames: Tensor, rng: RandomState) -> Tensor:
        """Augment cropped frames; returns a clip as in `SampledClip`."""
        if self._augmentation:
            frames = self._augmentation(frames, rng)
        clip = rearrange(frames, "t c h w -> c t h w")
        return (clip.flip(0) if self._data.REVERSE_INPUT_CHANNEL else clip).contiguous()

    def _make(self, reader: VideoReader, read: Read, view: int, rng: RandomState) -> SampledClip:
        pixels, numbers = self._sample(reader, read, view, rng)
        with as_video_error(reader.path):  # frames of a broken file may have a shape that cannot be cropped
            frames = self.crop(pixels, view, rng)
        clip = self.to_clip(frames, rng)
        is_bgr = self._data.REVERSE_INPUT_CHANNEL
        return SampledClip.of(clip, numbers, reader.times(numbers), view, is_bgr, reader.seconds)

    def _sample(
        self, reader: VideoReader, read: Read, view: int, rng: RandomState
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        """Sampled frames, uint8 [frames, height, width, 3], and their numbers."""
        num_frames, state = reader.num_frames, rng.get_state()
        try:
            return self._read_frames(reader, read, view, rng)
        except VideoError:
            if reader.num_frames in (0, num_frames):
                raise
            rng.set_state(state)  # fewer frames decode than promised: sample again from those
            return self._read_frames(reader, read, view, rng)

    def _read_frames(
        self, reader: VideoReader, read: Read, view: int, rng: RandomState
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        frames = self.plan(VideoInfo(reader.num_frames, reader.fps, reader.timing), view, rng)
        return render(frames, read), source_numbers(frames)

    def _crop(self, clip: Tensor, rng: RandomState, view: int) -> Tensor:
        """Square clip, uint8 [frames, 3, crop_size, crop_size]."""
        data, size = self._data, self.crop_size
        if data.SPATIAL_MODE == "resize":
            clip = resize(clip, (size, size))
            return horizontal_flip(clip, 0.5, rng) if self.training and data.RANDOM_FLIP else clip
        if self.training:
            scales = data.TRAIN_JITTER_SCALES
            return spatial_sampling(clip, -1, *scales, size, rng, data.RANDOM_FLIP, data.INV_UNIFORM_SAMPLE)
        # As in the original: three crops cover the whole frame, and one is the center of a larger one, except for ssv2.
        crop = view % self.num_crops if self.num_crops > 1 else CENTER
        short = size if self.num_crops > 1 or self.dataset == "ssv2" else data.TRAIN_JITTER_SCALES[0]
        return spatial_sampling(clip, crop, short, short, size, rng)


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips of a split ("train", "val" or "test").

    The key of an item is (epoch, index, repeat), (epoch, index) or index; missing parts are 0. In testing every video
    has several views: index = video * views + view, and the crop changes fastest. All randomness of an item depends on
    (RNG_SEED, epoch, video, view or repeat) alone; with DATA.DRAW_ONCE, the epoch is 0.

    Items are dicts: clip uint8 [3, frames, height, width], RGB or BGR; label, video (number of the record), view int;
    readable bool; errors dict, the reason for each unreadable video. In training an unreadable video is replaced by
    another one of its class. In validation and testing, with DATA.ON_UNREADABLE error, or if no other one can be read,
    the item is not `readable` and its clip is black.

    `found` is the split, if it was loaded before; else it is found on disk, with DataError if that fails.
    """

    worker_status: WorkerStatus | None = None  # where a DataLoader worker records what it reads

    def __init__(self, cfg: CfgNode, split: str, found: DatasetSplit | None = None) -> None:
        found = found or load_split(cfg, split)
        self.split = split
        self.records = found.records
        self.class_names = found.class_names
        self.training = split == "train"
        self.maker = ClipMaker(cfg, split)
        self.num_views = self.maker.num_views
        self._data = cfg.DATA
        self._seed = cfg.RNG_SEED
        self._time_limit = TimeLimit(cfg.DATA.DECODE_TIMEOUT)
        self._too_slow: dict[int, str] = {}  # videos that this process will not wait for again

    def __len__(self) -> int:
        return len(self.records) * self.num_views

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        if key == PADDING_KEY:
            return make_item(self.maker.padding_clip(), 0, -1, 0, False, {})
        epoch, index, repeat = (*key, 0)[:3] if isinstance(key, tuple) else (0, key, 0)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a dataset of {len(self)}")
        epoch = 0 if self._data.DRAW_ONCE else epoch
        video, view = divmod(index, self.num_views)
        label, errors = int(self.records.labels[video]), {}
        for candidate in self._candidates(epoch, video, repeat):
            rng = clip_rng(self._seed, epoch, candidate, repeat if self.training else view)
            try:
                clip = self.load_view(candidate, view, rng)
            except VideoError as error:
                errors[candidate] = str(error)
                if len(errors) > REPLACEMENT_TRIES:
                    break
            else:
                return make_item(clip, label, candidate, view, True, errors)
        return make_item(self.maker.padding_clip(), label, video, view, False, errors)

    def _candidates(self, epoch: int, video: int, repeat: int) -> Iterator[int]:
        """The video, then in training its replacements in random order."""
        yield video
        if self.training and self._data.ON_UNREADABLE == "continue":
            same_class = np.flatnonzero(self.records.labels == self.records.labels[video])
            others = clip_rng(self._seed, epoch, video, repeat, 1).permutation(same_class).tolist()
            yield from (other for other in others if other != video and other not in self.records.problems)

    def load_view(self, video: int, view: int, rng: RandomState) -> Tensor:
        """A clip of the video, uint8 [3, frames, height, width]; VideoError if it cannot be read."""
        record = self.records[video]
        if record.problem:
            raise VideoError(f"{record.path}: {record.problem}")
        if video in self._too_slow:
            raise VideoError(self._too_slow[video])
        if self.worker_status:
            self.worker_status.record(video)
        try:
            return self._time_limit(lambda: self.maker.make(record, [view], [rng])[0].clip)
        except TookTooLongError:
            self._too_slow[video] = reason = timeout_message(record.path, self._data.DECODE_TIMEOUT)
            raise VideoError(reason) from None


def make_item(
    clip: Tensor, label: int, video: int, view: int, readable: bool, errors: dict[int, str]
) -> dict[str, Any]:
    """Return the item of a `ClipDataset`."""
    return {"clip": clip, "label": label, "video": video, "view": view, "readable": readable, "errors": errors}


def timeout_message(path: str, seconds: float) -> str:
    """Return the error message of a video that took longer than DATA.DECODE_TIMEOUT."""
    return f"{path}: decoding took longer than DATA.DECODE_TIMEOUT {seconds:g} seconds"


def middle_view(cfg: CfgNode) -> int:
    """Return the number of the middle view of a test video: the middle crop of the middle clip."""
    crops = cfg.TEST.NUM_SPATIAL_CROPS
    return (cfg.TEST.NUM_ENSEMBLE_VIEWS - 1) // 2 * crops + crops // 2


def clip_rng(*key: int) -> RandomState:
    """Return the random generator of a clip; key: (RNG_SEED, epoch, video, view or repeat)."""
    return RandomState(np.random.MT19937(np.random.SeedSequence(key)))


@contextmanager
def as_video_error(path: str) -> Iterator[None]:
    """Turn any error that a broken file causes in a library into a VideoError; too many open files raise OSError."""
    try:
        yield
    except Exception as error:
        if is_out_of_files(error):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path) from error
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{path}: reading it failed with an unexpected {type(error).__name__}: {error}") from error
