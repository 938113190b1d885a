"""Clips to check and calibrate exported models with: of given videos, or generated."""

from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timesformer.datasets.sources.clip_files import KINDS, find_below
from timesformer.errors import UserError, shorten
from timesformer.inference.classifier import Classifier
from timesformer.inference.clip_batches import read_batches

MOST_CLIPS = 256
"""Clips of a folder that are read, evenly chosen from the sorted list of all."""
NUM_GENERATED = 4


@dataclass(frozen=True)
class ClipSet:
    """Clips with their classes."""

    clips: Tensor  # uint8 [number, 3, frames, height, width], one of each video
    labels: np.ndarray | None  # int64 [number]: the classes; None if one of them is unknown
    source: str  # their folder and the number of unreadable videos in it, or "generated"

    def __len__(self) -> int:
        return len(self.clips)


def read_clips(classifier: Classifier, folder: Path, most: int = MOST_CLIPS) -> ClipSet:
    """Reads the middle view of the videos below a folder, at any depth; the class is the name of a folder above it.

    Raises UserError if there are no videos, or none can be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: expected a folder of videos, in folders named after their classes")
    found = sorted(find_below(folder).clips)
    if not found:
        raise UserError(f"{folder} holds no videos: expected {KINDS}, at any depth")
    chosen = [found[index * len(found) // most] for index in range(most)] if len(found) > most else found
    cfg = classifier.options(views=1, crops=1)
    clips: dict[int, Tensor] = {}
    problems: dict[int, str] = {}
    for batch in read_batches(cfg, [str(folder / path) for path in chosen], workers=0):
        clips |= {part.video: batch.clips[part.rows][0] for part in batch.parts}
        problems |= {part.video: part.problem for part in batch.failed}
    if not clips:
        raise UserError(f"no video in {folder} can be read: {shorten(problems.values(), '; ', 2)}")
    labels = [_class_of(folder.name / PurePath(chosen[video]), classifier.class_names) for video in sorted(clips)]
    source = f"{folder}, {len(problems)} unreadable" if problems else str(folder)
    known = None if None in labels else np.array(labels)
    return ClipSet(torch.stack([clips[video] for video in sorted(clips)]), known, source)


def generate_clips(classifier: Classifier, number: int = NUM_GENERATED) -> ClipSet:
    """Makes clips of smooth random colors that move in a random direction; the same in every call."""
    frames, side = classifier.cfg.DATA.NUM_FRAMES, classifier.cfg.DATA.TEST_CROP_SIZE
    random = torch.Generator().manual_seed(0)
    clips = []
    for _ in range(number):
        coarse = torch.rand(1, 3, 8, 8, generator=random)
        image = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)[0]
        step = torch.randint(-side // 8, side // 8 + 1, (2,), generator=random).tolist()
        moved = [image.roll((step[0] * frame, step[1] * frame), dims=(1, 2)) for frame in range(frames)]
        clips.append(torch.stack(moved, dim=1).clamp(0, 1))
    return ClipSet((torch.stack(clips) * 255).round().to(torch.uint8), None, "generated")


def _class_of(path: PurePath, class_names: tuple[str, ...]) -> int | None:
    """The class that the nearest folder with the name of one gives."""
    return next((class_names.index(name) for name in reversed(path.parts[:-1]) if name in class_names), None)
