"""Predictions for a clip whose frames are revealed one by one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejson
import torch

from timesformer.atomic import write_text_atomically
from timesformer.datasets.clips import SampledClip

if TYPE_CHECKING:
    from timesformer.inference.classifier import Classifier

_FILE = "revealed_frames.json"


@dataclass(frozen=True)
class RevealedClip:
    """Probabilities of a clip after each of its frames; lists have a value for each frame.

    Attributes:
        video: name of the video.
        true: probability of the true class.
        predicted: probability of the class that is predicted for the video, from all its views.
        best: number of the most probable class.
    """

    video: str
    true: list[float]
    predicted: list[float]
    best: list[int]

    @property
    def decided(self) -> int:
        """Number of frames after which the most probable class does not change any more."""
        others = [place for place, label in enumerate(self.best, start=1) if label != self.best[-1]]
        return max(others, default=0) + 1


def reveal_frames(classifier: "Classifier", clip: SampledClip) -> np.ndarray:
    """Probabilities, float32 [frames, classes]: in row k, frames after number k are replaced by frame k."""
    frames = clip.clip.shape[1]
    places = torch.arange(frames)
    versions = [clip.clip[:, places.clamp(max=last)] for last in range(frames)]
    size = classifier.cfg.TEST.BATCH_SIZE
    batches = (torch.stack(versions[start : start + size]) for start in range(0, frames, size))
    return torch.cat([classifier.compute(batch)[0] for batch in batches]).softmax(dim=1).numpy()


def summarize(video: str, label: int, predicted: int, probabilities: np.ndarray) -> RevealedClip:
    """The values of `RevealedClip` from probabilities, [frames, classes], and the true and the predicted class."""
    of_classes = (probabilities[:, number].astype(float).round(6).tolist() for number in (label, predicted))
    return RevealedClip(video, *of_classes, probabilities.argmax(axis=1).tolist())


def write_revealed(folder: Path, clips: list[RevealedClip]) -> None:
    """Writes the predictions of revealed clips."""
    write_text_atomically(folder / _FILE, simplejson.dumps([asdict(clip) for clip in clips], indent=1) + "\n")


def read_revealed(folder: Path) -> list[RevealedClip]:
    """What `write_revealed` wrote; empty if the file is missing or damaged."""
    try:
        content = simplejson.loads((folder / _FILE).read_text(encoding="utf-8", errors="surrogateescape"))
        return [RevealedClip(**clip) for clip in content]
    except (OSError, ValueError, TypeError):
        return []
