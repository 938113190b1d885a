"""Training clips in other libraries' usual ways, for a comparison with this project's loader.

Items are normalized clips, float32 [frames, 3, size, size], of `NUM_FRAMES` frames with a distance of `SAMPLING_RATE`
from a random start; the last frame of a shorter video repeats.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor
from torch.utils.data import Dataset

from timesformer.config import get_cfg
from timesformer.torchvision_import import import_package

_DATA = get_cfg().DATA
SIZE = 224


class _Clips(Dataset[Tensor]):
    name: str  # of the way, in the table

    def __init__(self, paths: Sequence[Path], num_frames: int, sampling_rate: int) -> None:
        self.paths = list(map(str, paths))
        self._num_frames, self._sampling_rate = num_frames, sampling_rate

    def __len__(self) -> int:
        return len(self.paths)

    def positions(self, length: int) -> list[int]:
        """Numbers of the frames of a clip, in order, in a video of `length` frames."""
        last_start = max(0, length - self._num_frames * self._sampling_rate)
        start = int(torch.randint(last_start + 1, ()))
        return [min(start + self._sampling_rate * number, length - 1) for number in range(self._num_frames)]


class DecordClips(_Clips):
    """decord reads the frames in one thread; torchvision scales, crops, flips and normalizes them."""

    name = "decord and torchvision"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        v2 = import_package("torchvision.transforms.v2", "the comparison")
        self._reader = import_package("decord", "the comparison").VideoReader
        low, high = _DATA.TRAIN_JITTER_SCALES
        self._transform = v2.Compose(
            [
                v2.RandomShortestSize(list(range(low, high + 1))),
                v2.RandomCrop(SIZE),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(_DATA.MEAN, _DATA.STD),
            ]
        )

    def __getitem__(self, index: int) -> Tensor:
        reader = self._reader(self.paths[index], num_threads=1)
        frames = reader.get_batch(self.positions(len(reader))).asnumpy()
        return self._transform(torch.from_numpy(frames).permute(0, 3, 1, 2))


class HuggingFaceClips(_Clips):
    """Clips as in the documentation of transformers for VideoMAE.

    PyAV decodes from the start of the file to the last frame of the clip; an image processor scales, crops the center
    and normalizes.
    """

    name = "PyAV and VideoMAEImageProcessor"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._processor = import_package("transformers", "the comparison").VideoMAEImageProcessor()

    def __getitem__(self, index: int) -> Tensor:
        with av.open(self.paths[index]) as container:
            wanted = self.positions(container.streams.video[0].frames)
            frames = {}
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if number >= wanted[-1]:
                    break
        return self._processor([frames[number] for number in wanted], return_tensors="pt")["pixel_values"][0]


OTHERS: tuple[type[_Clips], ...] = (DecordClips, HuggingFaceClips)
