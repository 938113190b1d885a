"""From videos to sampled, cropped uint8 clips, and a dataset of them that is the same on every worker and rank."""

import errno
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import Dataset

from timesformer.datasets.catalog import load_split
from timesformer.datasets.decoding.open import VideoError, VideoReader, open_video
from timesformer.datasets.manifest import known
from timesformer.datasets.records import VideoRecord
from timesformer.datasets.transforms.augmentation import Augmentation
from timesformer.datasets.transforms.sampling import Sampler
from timesformer.datasets.transforms.spatial import CENTER, horizontal_flip, resize, spatial_sampling
from timesformer.datasets.transforms.timeline import Timeline, render, source_numbers
from timesformer.datasets.workers.dataloader import WorkerStatus
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError
from timesformer.runtime.resource_limits import is_out_of_files

Key = tuple[int, int, int]
"""What an item is asked for by: epoch, index, and how often that index came before in the epoch."""

NO_CLIP: Key = (-1, -1, -1)
"""The key of an item that stands for none: a black clip of video -1."""

REPLACEMENT_TRIES = 10  # so many unreadable videos of a class in a row are no accident


@dataclass(frozen=True, eq=False)
class SampledClip:
    """One view of a video, as the model gets it and as a person sees it.

    Attributes:
        clip: uint8 (3, T, H, W), 0..255, sampled and cropped; BGR with DATA.REVERSE_INPUT_CHANNEL, else RGB.
        frames: the same pixels, uint8 (T, H, W, 3) RGB; not to be changed, as it may share the clip's memory.
        numbers: of the T frames in the video, from 0; of a frame that stretching made of several, the first of those.
        times: seconds from the first frame of the video to each frame, as they are shown; NaN where that is unknown, as
            for a folder of frames.
        view: number of the view, as `ClipDataset` counts them: crops change fastest.
    """

    clip: Tensor
    frames: np.ndarray
    numbers: tuple[int, ...]
    times: tuple[float, ...]
    view: int

    @classmethod
    def of(
        cls, clip: Tensor, numbers: tuple[int, ...], times: tuple[float, ...], view: int, is_bgr: bool
    ) -> "SampledClip":
        """With the frames of this clip."""
        return cls(clip, (clip.flip(0) if is_bgr else clip).permute(1, 2, 3, 0).numpy(), numbers, times, view)


class ClipMaker:
    """Makes clips of videos as the configuration asks for in a split ("train", "val" or "test").

    Attributes:
        training: whether the split is the one that is trained on.
        num_crops, num_views: crops of a clip, and views (clips along the time x crops) of a video; 1 unless in testing.
        crop_size: side of a clip in pixels.
    """

    def __init__(self, cfg: CfgNode, split: str) -> None:
        self.training = split == "train"
        self.num_crops = cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
        self.num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * self.num_crops if split == "test" else 1
        self.crop_size = cfg.DATA.TEST_CROP_SIZE if split == "test" else cfg.DATA.TRAIN_CROP_SIZE
        self._dataset = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
        self._sampler = Sampler.from_cfg(cfg, split)
        self._augment = Augmentation.from_cfg(cfg) if self.training else None
        self._data = cfg.DATA

    def make(
        self, record: VideoRecord, views: Sequence[int], rngs: Sequence[np.random.RandomState]
    ) -> list[SampledClip]:
        """These views of the video, opened once for all of them, decoded, cropped and augmented.

        Args:
            record: of the video.
            views: numbers from 0 to num_views - 1; in training and validation 0.
            rngs: the source of all chance, for each view.

        Raises:
            VideoError: if the video cannot be read.
        """
        data = self._data
        options = {"backend": data.DECODING_BACKEND, "short_side": data.DECODE_SHORT_SIDE}
        with as_video_error(record.path):
            num_frames, fps = known(record)
            reader = open_video(record.path, num_frames=num_frames, fps=fps, **options)
        with reader:
            read, promised = _Reading(reader), reader.num_frames
            made = []
            for view, rng in zip(views, rngs, strict=True):
                reader.num_frames = promised  # what one view finds out must not change what the next one is
                made.append(self._make(reader, read, view, rng))
            return made

    def black(self) -> Tensor:
        """What stands for a clip that there is not, uint8 (3, T, H, W)."""
        return torch.zeros(3, self._data.NUM_FRAMES, self.crop_size, self.crop_size, dtype=torch.uint8)

    def _make(self, reader: VideoReader, read: "_Reading", view: int, rng: np.random.RandomState) -> SampledClip:
        pixels, numbers = self._sample(reader, read, view, rng)
        # T, 3, H, W: resizing uint8 is fast in this order
        clip = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        with as_video_error(reader.path):  # frames of a broken file may have a shape that nothing can be made of
            clip = self._crop(clip, rng, view)
        if self._augment:
            clip = self._augment(clip, rng)
        data, clip = self._data, clip.transpose(0, 1)
        clip = (clip.flip(0) if data.REVERSE_INPUT_CHANNEL else clip).contiguous()
        return SampledClip.of(clip, numbers, reader.times(numbers), view, data.REVERSE_INPUT_CHANNEL)

    def _sample(
        self, reader: VideoReader, read: "_Reading", view: int, rng: np.random.RandomState
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        """Sampled frames, uint8 (T, H, W, 3), and their numbers."""
        promised, before = reader.num_frames, rng.get_state()
        try:
            return self._frames(reader, read, view, rng)
        except VideoError:
            if reader.num_frames in (0, promised):
                raise
            # The file promised more frames than there are: now that their number is known, sample among those.
            rng.set_state(before)
            return self._frames(reader, read, view, rng)

    def _frames(
        self, reader: VideoReader, read: "_Reading", view: int, rng: np.random.RandomState
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        view //= self.num_crops
        options, wanted, sampler = self._data.PRE_SAMPLING, self._data.NUM_FRAMES, self._sampler
        stretch = {"methods": options.METHODS, "factors": options.BRIGHTNESS_FACTORS} if options.ENABLED else {}
        if options.ENABLED and options.ORDER == "after_sampling":
            sampled = sampler.available(reader.num_frames, rng, view, reader.fps, reader.timing)
            timeline = Timeline(len(sampled), wanted, **stretch)
            # A timeline that the methods could not stretch is repeated from its start.
            frames = [timeline[i % len(timeline)] for i in range(wanted)]
            pixels = render(frames, lambda numbers: read([sampled[number] for number in numbers]))
            return pixels, tuple(sampled[number] for number in source_numbers(frames))
        timeline = Timeline(reader.num_frames, math.ceil(sampler.window_length(reader.fps)), **stretch)
        timing = reader.timing if len(timeline) == reader.num_frames else None
        positions = sampler.positions(len(timeline), rng, view, reader.fps, timing)
        frames = [timeline[position] for position in positions]
        return render(frames, read), source_numbers(frames)

    def _crop(self, clip: Tensor, rng: np.random.RandomState, view: int) -> Tensor:
        """Square clip of `crop_size`, uint8 (T, 3, H, W)."""
        data, size = self._data, self.crop_size
        if data.SPATIAL_MODE == "resize":
            clip = resize(clip, (size, size))
            return horizontal_flip(clip, 0.5, rng) if self.training and data.RANDOM_FLIP else clip
        if self.training:
            scales = data.TRAIN_JITTER_SCALES
            return spatial_sampling(clip, -1, *scales, size, rng, data.RANDOM_FLIP, data.INV_UNIFORM_SAMPLE)
        # As in the original: three crops cover the whole frame, and one is the centre of a larger one, except for ssv2.
        crop = view % self.num_crops if self.num_crops > 1 else CENTER
        short = size if self.num_crops > 1 or self._dataset == "ssv2" else data.TRAIN_JITTER_SCALES[0]
        return spatial_sampling(clip, crop, short, short, size, rng)


class _Reading:
    """Reads frames, and gives those that were read last again: all crops of a clip are cut from the same ones."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader = reader
        self._numbers: tuple[int, ...] = ()
        self._pixels = np.empty(0, np.uint8)

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        if tuple(numbers) != self._numbers:
            with as_video_error(self._reader.path):
                self._pixels = self._reader.read(numbers)
            self._numbers = tuple(numbers)
        return self._pixels


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips of a split ("train", "val" or "test") as the configuration asks for.

    An item is asked for by (epoch, index, repeat), where the last and the first may be missing and are 0 then. In
    testing every video gives TEST.NUM_ENSEMBLE_VIEWS x TEST.NUM_SPATIAL_CROPS items: index = video * views + view, and
    the crop changes fastest. Everything random about an item depends on (RNG_SEED, epoch, video, view or repeat) alone.

    Items are dicts of: clip uint8 (3, T, H, W) RGB or BGR; label int; video int, the number of the record; view int;
    readable bool; errors, the reasons why videos could not be read, by number of the record. Such a video is, in
    training, replaced by another one of its class (video is then the number of that one). In validation and testing, if
    no other can be read either, and with DATA.ON_UNREADABLE error, the item is not `readable` and its clip is black:
    what becomes of that is the main process's to say.

    Raises DataError when the split cannot be found.
    """

    in_hand: WorkerStatus | None = None  # where a loading process notes what it reads

    def __init__(self, cfg: CfgNode, split: str) -> None:
        found = load_split(cfg, split)
        self.split = split
        self.records = found.records
        self.class_names = found.class_names
        self.training = split == "train"
        self._maker = ClipMaker(cfg, split)
        self.num_views = self._maker.num_views
        self._data = cfg.DATA
        self._seed = cfg.RNG_SEED
        self._in_time = TimeLimit(cfg.DATA.DECODE_TIMEOUT)
        self._too_slow: dict[int, str] = {}  # what this process will not wait for again

    def __len__(self) -> int:
        return len(self.records) * self.num_views

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        if key == NO_CLIP:
            return self._item(self._maker.black(), 0, -1, 0, False, {})
        epoch, index, repeat = (*key, 0)[:3] if isinstance(key, tuple) else (0, key, 0)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a dataset of {len(self)}")
        video, view = divmod(index, self.num_views)
        errors: dict[int, str] = {}
        for candidate in self._candidates(epoch, video, repeat):
            rng = rng_of(self._seed, epoch, candidate, repeat if self.training else view)
            try:
                clip = self._load(candidate, view, rng)
            except VideoError as error:
                errors[candidate] = str(error)
                if len(errors) > REPLACEMENT_TRIES:
                    break
            else:
                return self._item(clip, int(self.records.labels[video]), candidate, view, True, errors)
        return self._item(self._maker.black(), int(self.records.labels[video]), video, view, False, errors)

    def _item(
        self, clip: Tensor, label: int, video: int, view: int, readable: bool, errors: dict[int, str]
    ) -> dict[str, Any]:
        return {"clip": clip, "label": label, "video": video, "view": view, "readable": readable, "errors": errors}

    def _candidates(self, epoch: int, video: int, repeat: int) -> Iterator[int]:
        """The video itself, and in training those that may take its place, in the order to be tried."""
        yield video
        if self.training and self._data.ON_UNREADABLE == "continue":
            same_class = np.flatnonzero(self.records.labels == self.records.labels[video])
            others = rng_of(self._seed, epoch, video, repeat, 1).permutation(same_class).tolist()
            yield from (other for other in others if other != video and other not in self.records.problems)

    def _load(self, video: int, view: int, rng: np.random.RandomState) -> Tensor:
        """A clip of the video, uint8 (3, T, H, W); VideoError if it cannot be read."""
        record = self.records[video]
        if record.problem:
            raise VideoError(f"{record.path}: {record.problem}")
        if video in self._too_slow:
            raise VideoError(self._too_slow[video])
        if self.in_hand:
            self.in_hand.take(video)
        try:
            return self._in_time(lambda: self._maker.make(record, [view], [rng])[0].clip)
        except TookTooLongError:
            self._too_slow[video] = reason = too_slow(record.path, self._data.DECODE_TIMEOUT)
            raise VideoError(reason) from None


def too_slow(path: str, seconds: float) -> str:
    """Why a video is unreadable that was still being decoded after DATA.DECODE_TIMEOUT seconds."""
    return f"{path}: decoding took longer than DATA.DECODE_TIMEOUT {seconds:g} seconds"


def middle_view(cfg: CfgNode) -> int:
    """Number of the view in the middle of a tested video: of its clips the middle one, and of that one's crops."""
    crops = cfg.TEST.NUM_SPATIAL_CROPS
    return (cfg.TEST.NUM_ENSEMBLE_VIEWS - 1) // 2 * crops + crops // 2


def rng_of(*key: int) -> np.random.RandomState:
    """The source of chance of a clip: of (RNG_SEED, epoch, video, view or repeat)."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(key)))


@contextmanager
def as_video_error(path: str) -> Iterator[None]:
    """Turn whatever a broken file makes a library raise into a VideoError, which tells its kind.

    That no more files can be opened is no fault of the file, and raises an OSError.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_files(error):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path) from error
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{path}: reading it failed with an unexpected {type(error).__name__}: {error}") from error
