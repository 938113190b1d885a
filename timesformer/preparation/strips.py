"""Pictures of clips: some of their frames side by side."""

import io
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.workers.pool import in_processes
from timesformer.progress import Progress

_HEIGHT, _GAP = 84, 2  # pixels
_TIME_LIMIT = 60.0  # seconds to read the frames of a strip

Strip = tuple[str, tuple[int, ...]]
"""A clip, by its path from the dataset's folder, and numbers of its frames."""


def read_strips(root: Path, strips: Iterable[Strip], workers: int) -> dict[Strip, bytes]:
    """JPEG images of strips, 84 pixels high at most, without unreadable ones."""
    wanted = list(dict.fromkeys(strips))
    found: dict[Strip, bytes] = {}
    with Progress("reading pictures", len(wanted), "clip") as progress:
        for outcome in in_processes(partial(_read_strip, str(root)), wanted, workers, _TIME_LIMIT):
            if outcome.result:
                found[outcome.item] = outcome.result
            progress.advance()
    return found


def _read_strip(root: str, strip: Strip) -> bytes:
    clip, numbers = strip
    with open_video(os.path.join(root, clip), short_side=_HEIGHT) as video:
        images = [Image.fromarray(frame) for frame in video.read(numbers)]
    for image in images:
        image.thumbnail((image.width, _HEIGHT), Image.Resampling.BOX)
    return encode_strip(images)


def encode_strip(images: Sequence[Image.Image]) -> bytes:
    """A JPEG image with images of one size side by side."""
    width, height = images[0].size
    picture = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, height), "white")
    for number, image in enumerate(images):
        picture.paste(image, (number * (width + _GAP), 0))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
    return file.getvalue()
