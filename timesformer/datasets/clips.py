"""A dataset of clips: each item is one sampled, cropped uint8 clip of one video, the same on every worker and rank."""

from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import Dataset

from timesformer.datasets.augmentation import Augmentation
from timesformer.datasets.reader import VideoError, VideoReader, open_video
from timesformer.datasets.records import load_split
from timesformer.datasets.sampling import Sampler
from timesformer.datasets.timeline import Timeline, render
from timesformer.datasets.transforms import CENTER, horizontal_flip, resize, spatial_sampling

REPLACEMENT_TRIES = 10  # so many unreadable videos in a row are no accident


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips of a split ("train", "val" or "test") as the configuration asks for.

    An item is asked for by (epoch, index), or by index alone for epoch 0. In testing every video gives
    TEST.NUM_ENSEMBLE_VIEWS x TEST.NUM_SPATIAL_CROPS items: index = video * views + view, and the crop changes fastest.
    Everything random about an item depends on (RNG_SEED, epoch, video, view) alone.

    Items are dicts of: clip uint8 (3, T, H, W) RGB; label int; video int, the number of the record; view int;
    errors, the reasons why videos could not be read, by name of the record. Such a video is, in training, replaced by
    another one (label and video are then those of the other one); in validation and testing its clip is zeros.

    Raises DataError when the split cannot be found.
    """

    def __init__(self, cfg: CfgNode, split: str) -> None:
        found = load_split(cfg, split)
        self.records = found.records
        self.class_names = found.class_names
        self.training = split == "train"
        self.num_crops = cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
        self.num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * self.num_crops if split == "test" else 1
        self.crop_size = cfg.DATA.TEST_CROP_SIZE if split == "test" else cfg.DATA.TRAIN_CROP_SIZE
        self._sampler = Sampler.from_cfg(cfg, split)
        self._augment = Augmentation.from_cfg(cfg) if self.training else None
        self._data = cfg.DATA
        self._seed = cfg.RNG_SEED

    def __len__(self) -> int:
        return len(self.records) * self.num_views

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a dataset of {len(self)}")
        video, view = divmod(index, self.num_views)
        errors: dict[str, str] = {}
        for candidate in self._candidates(epoch, video):
            try:
                clip = self._load(epoch, candidate, view)
                break
            except VideoError as error:
                errors[self.records[candidate].name] = str(error)
        else:
            if self.training:
                remedy = "check that the clips in DATA.PATH_TO_DATA_DIR are whole"
                raise VideoError("\n  ".join(["none of several videos could be read:", *errors.values(), remedy]))
            clip, candidate = self._black(), video
        label = self.records[candidate].label
        return {"clip": clip, "label": label, "video": candidate, "view": view, "errors": errors}

    def _candidates(self, epoch: int, video: int) -> list[int]:
        """The video itself, and in training those that may take its place."""
        if not self.training:
            return [video]
        rng = _rng(self._seed, epoch, video)
        others = rng.randint(0, len(self.records), REPLACEMENT_TRIES).tolist()
        return [video, *(other for other in others if other != video)]

    def _load(self, epoch: int, video: int, view: int) -> Tensor:
        record = self.records[video]
        options = {"backend": self._data.DECODING_BACKEND, "short_side": self._data.DECODE_SHORT_SIDE}
        with open_video(record.path, num_frames=record.num_frames, fps=record.fps, **options) as reader:
            rng = _rng(self._seed, epoch, video, view)
            promised = reader.num_frames
            try:
                frames = self._frames(reader, rng, view)
            except VideoError:
                if reader.num_frames in (0, promised):
                    raise
                # The file promised more frames than there are: now that their number is known, sample among those.
                rng = _rng(self._seed, epoch, video, view)
                frames = self._frames(reader, rng, view)
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)  # T, 3, H, W: resizing uint8 is fast in this order
        clip = self._crop(clip, rng, view)
        if self._augment:
            clip = self._augment(clip, rng)
        return clip.transpose(0, 1).contiguous()

    def _frames(self, reader: VideoReader, rng: np.random.RandomState, view: int) -> np.ndarray:
        """Sampled frames, uint8 (T, H, W, 3)."""
        view //= self.num_crops
        options, wanted = self._data.PRE_SAMPLING, self._data.NUM_FRAMES
        stretch = {"methods": options.METHODS, "factors": options.BRIGHTNESS_FACTORS} if options.ENABLED else {}
        if options.ENABLED and options.ORDER == "after_sampling":
            sampled = self._sampler.available(reader.num_frames, rng, view)
            timeline = Timeline(len(sampled), wanted, **stretch)
            # A timeline that the methods could not stretch is repeated from its start.
            frames = [timeline[i % len(timeline)] for i in range(wanted)]
            return render(frames, lambda numbers: reader.read([sampled[number] for number in numbers]))
        timeline = Timeline(reader.num_frames, wanted * self._data.SAMPLING_RATE, **stretch)
        positions = self._sampler.positions(len(timeline), rng, view)
        return render([timeline[position] for position in positions], reader.read)

    def _crop(self, clip: Tensor, rng: np.random.RandomState, view: int) -> Tensor:
        """Square clip of `crop_size`, uint8 (T, 3, H, W)."""
        data, size = self._data, self.crop_size
        if data.SPATIAL_MODE == "resize":
            clip = resize(clip, (size, size))
            return horizontal_flip(clip, 0.5, rng) if self.training and data.RANDOM_FLIP else clip
        if self.training:
            return spatial_sampling(clip, -1, *data.TRAIN_JITTER_SCALES, size, rng, data.RANDOM_FLIP)
        # The short side becomes the crop's, so that one crop loses nothing of it and three cover the whole frame.
        crop = view % self.num_crops if self.num_crops > 1 else CENTER
        return spatial_sampling(clip, crop, size, size, size, rng)

    def _black(self) -> Tensor:
        return torch.zeros(3, self._data.NUM_FRAMES, self.crop_size, self.crop_size, dtype=torch.uint8)


def _rng(*key: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(key)))
