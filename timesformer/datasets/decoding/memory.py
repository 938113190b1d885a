"""Videos that are Python objects: frames in memory, and the content of a video file."""

import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from timesformer.datasets.decoding.base import StreamTiming, VideoError, VideoReader
from timesformer.datasets.decoding.images import rgb_pixels

if TYPE_CHECKING:
    from torch import Tensor

EXPECTED = "uint8 frames [frames, height, width, 3], RGB from 0 to 255"
_TICKS = 512  # per frame, as FFmpeg writes MP4 files of 24, 25 and 30 frames per second


@dataclass(frozen=True)
class EncodedVideo:
    """The content of a video file; `name` is that of messages and `Prediction.video`."""

    content: bytes
    name: str

    def open(self) -> BinaryIO:
        """The content as a file with this name."""
        return _NamedFile(self.content, self.name)


class _NamedFile(io.BytesIO):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class Frames(VideoReader):
    """Frames in memory. They are not copied: do not change them while they are read.

    Args:
        frames: array or tensor on any device, uint8 [frames, height, width, 3], RGB; or a list of images of one size:
            PIL images, uint8 arrays or tensors [height, width, 3].
        fps: frames per second; 0: unknown. Only the dense sampler needs it.
        name: for messages and `Prediction.video`; default: a description.

    Raises VideoError if the frames have another shape or type, or there are none.
    """

    def __init__(
        self, frames: "np.ndarray | Tensor | Sequence[Any]", fps: float | None = None, name: str | None = None
    ) -> None:
        is_list = isinstance(frames, list | tuple)
        if is_list:
            described = f"list of {len(frames)} image{'s' * (len(frames) != 1)}"
        else:
            frames = frames if _is_tensor(frames) else np.asarray(frames)
            described = "tensor" if _is_tensor(frames) else "array"
        super().__init__(name or described)
        self.fps = check_fps(fps, self.path)
        problem = _list_problem(frames) if is_list else _array_problem(frames)
        if problem:
            raise self._error(problem)
        if not name and not is_list:
            self.path += f" {tuple(frames.shape)}"
        self.images = frames
        self.num_frames = len(frames)
        if self.fps:  # the samplers choose the same frames as of a file
            self.timing = StreamTiming(self.num_frames, self.fps, self.num_frames * _TICKS)

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if _is_tensor(self.images):
            yield from zip(wanted, self.images[list(wanted)].detach().cpu().numpy(), strict=True)
            return
        for number in wanted:
            image = self.images[number]
            try:
                yield number, _pixels(image)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise self._error(f"image {number} is unreadable ({error})") from error


def check_fps(fps: float | None, name: str) -> float:
    """Return a frame rate, 0.0 for None; VideoError if it is not above 0."""
    if fps is not None and not (isinstance(fps, int | float | np.number) and 0 < fps < math.inf):
        expected = "expected frames per second, a number above 0; omit it if unknown"
        raise VideoError(f"fps of {name} is {fps!r}, {expected}")
    return float(fps or 0)


def is_array(value: object) -> bool:
    """Return whether `value` is an array or a tensor of any library, not a PIL image."""
    return _is_tensor(value) or (hasattr(value, "__array__") and not isinstance(value, Image.Image))


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # a tensor exists only if torch is imported
    return torch is not None and isinstance(value, torch.Tensor)


def _pixels(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        return rgb_pixels(ImageOps.exif_transpose(image))
    return image.detach().cpu().numpy() if _is_tensor(image) else np.asarray(image)


def _array_problem(frames: Any) -> str:
    """What is wrong with an array of frames, and how to convert it; empty if it is as expected."""
    shape, is_tensor = tuple(frames.shape), _is_tensor(frames)
    axes = "permute" if is_tensor else "transpose"
    advice = ""
    if len(shape) == 5:
        advice = "give one video, frames[0], or several to predict_many"
    elif len(shape) == 3 and shape[2] == 3:
        advice = "of a single image, give image[None]"
    elif len(shape) == 3:
        gray = "frames[..., None].expand(-1, -1, -1, 3)" if is_tensor else "frames[..., None].repeat(3, axis=3)"
        advice = f"of gray frames, give {gray}"
    elif len(shape) == 1 and shape[0]:
        advice = "of the content of a video file, give bytes"
    elif len(shape) != 4:
        advice = "stack the frames of one video"
    elif 0 in shape:
        advice = "there are no frames" if not shape[0] else "the frames are empty"
    elif shape[3] == 3:
        pass
    elif shape[1] == 3:
        advice = f"of [frames, 3, height, width], give frames.{axes}(0, 2, 3, 1)"
    elif shape[0] == 3:
        advice = f"of [3, frames, height, width], give frames.{axes}(1, 2, 3, 0)"
    elif shape[3] == 4:
        advice = "of RGBA, give frames[..., :3]"
    else:
        advice = "convert them to RGB"
    if advice:
        return f"its shape is {list(shape)}, expected {EXPECTED}: {advice}"
    dtype = str(frames.dtype).removeprefix("torch.")
    return "" if dtype == "uint8" else f"its type is {_describe_values(frames, dtype)}"


def _describe_values(frames: Any, dtype: str) -> str:
    to_uint8 = "to(torch.uint8)" if _is_tensor(frames) else 'astype("uint8")'
    try:
        low, high = float(frames.min()), float(frames.max())
    except (TypeError, ValueError, RuntimeError):
        return f"{dtype}, expected {EXPECTED}"
    found = f"{dtype} from {low:.4g} to {high:.4g}, expected {EXPECTED}"
    if not (low >= 0 and high <= 65535):  # also if they are not finite
        return f"{found}: undo their normalization"
    if dtype == "bool" or (high <= 1 and "float" in dtype):
        return f"{found}: give (frames * 255).{'' if dtype == 'bool' else 'round().'}{to_uint8}"
    if high > 255:
        return f"{found}: of 16 bits, give (frames // 256).{to_uint8}"
    return f"{found}: give frames.{'round().' * ('float' in dtype)}{to_uint8}"


def _list_problem(images: Sequence[Any]) -> str:
    """What is wrong with a list of images; empty if it is as expected."""
    if not images:
        return "there are no images in it, expected one for each frame"
    sizes: dict[tuple[int, int], int] = {}  # width and height, and the number of the first image of this size
    for number, image in enumerate(images):
        if isinstance(image, Image.Image):
            size = image.size
        elif is_array(image):
            shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
            if len(shape) == 4:
                return f"its item {number} is an array {shape}: give one video, or several to predict_many"
            if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != "uint8":
                return f"its item {number} is {dtype} {list(shape)}, expected uint8 [height, width, 3], RGB"
            size = shape[1], shape[0]
        else:
            several = "; give several videos to predict_many" if _is_content(image) else ""
            return f"its item {number} is of type {type(image).__name__}, expected images, or paths of images{several}"
        sizes.setdefault(size, number)
    if len(sizes) > 1:
        ((width, height), first), ((other_width, other_height), second) = list(sizes.items())[:2]
        found = f"image {first} has {width}x{height} pixels, and image {second} {other_width}x{other_height}"
        return f"{found}, expected one size: resize or crop them"
    return ""


def _is_content(item: object) -> bool:
    return isinstance(item, bytes | bytearray | memoryview | os.PathLike | str | Frames) or hasattr(item, "read")
