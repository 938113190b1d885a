"""A map of test clips: the input of the output layer for each, reduced to two dimensions (t-SNE)."""

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from timesformer.atomic import report_write_errors, write_atomically

if TYPE_CHECKING:
    from timesformer.inference.classifier import Classifier

MAX_CLIPS = 400
_FILE = "embedding.npz"
_SIDE, _COLUMNS = 64, 20  # pixels of a thumbnail, and thumbnails in a row of the sheet
_MIN_CLIPS = 4  # t-SNE needs neighbors


@dataclass(frozen=True)
class Embedding:
    """Features of clips and their places.

    Attributes:
        videos: names of the videos.
        features: float32 [clips, dim], input of the output layer for the middle view, see `Classifier.embed`.
        points: float32 [clips, 2].
        total: number of test videos that the clips were drawn from.
        sheet: JPEG of a thumbnail of each clip (its middle frame), row by row, `columns` in each row.
        columns: of the sheet.
        side: width and height of a thumbnail in pixels.
    """

    videos: list[str]
    features: np.ndarray
    points: np.ndarray
    total: int
    sheet: bytes
    columns: int = _COLUMNS
    side: int = _SIDE


def choose_clips(videos: Sequence[str], most: int, seed: int) -> set[str]:
    """At most this number of videos, drawn at random."""
    if len(videos) <= most:
        return set(videos)
    chosen = np.random.default_rng(seed).choice(len(videos), most, replace=False)
    return {videos[number] for number in chosen.tolist()}


@dataclass
class EmbeddingRecorder:
    """Computes the features of chosen clips, which come in batches."""

    classifier: "Classifier"
    chosen: set[str]
    total: int
    _features: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    _thumbnails: list[Image.Image] = field(default_factory=list, init=False)

    def add(self, clips: Tensor, names: Sequence[str]) -> None:
        """Computes the features of those clips, uint8 [batch, 3, frames, height, width], that are chosen."""
        rows = [row for row, name in enumerate(names) if name in self.chosen]
        if not rows:
            return
        _, features = self.classifier.compute(clips[rows], features=True)
        self._features |= zip([names[row] for row in rows], features.numpy(), strict=True)
        is_bgr = self.classifier.cfg.DATA.REVERSE_INPUT_CHANNEL
        for clip in clips[rows]:
            frame = clip[:, clip.shape[1] // 2]
            pixels = (frame.flip(0) if is_bgr else frame).permute(1, 2, 0).numpy()
            self._thumbnails.append(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX))

    def finish(self) -> Embedding | None:
        """The embedding; None with fewer than 4 clips."""
        if len(self._features) < _MIN_CLIPS:
            return None
        features = np.stack(list(self._features.values())).astype(np.float32)
        sheet = _make_sheet(self._thumbnails)
        return Embedding(list(self._features), features, map_features(features), self.total, sheet)


def map_features(features: np.ndarray) -> np.ndarray:
    """Places of features, float32 [clips, dim], in two dimensions, float32 [clips, 2].

    t-SNE (van der Maaten and Hinton, JMLR 9, 2008) of scikit-learn, started from the principal components, with a
    perplexity of 30, or a third of the number of clips if that is less.
    """
    from sklearn.manifold import TSNE  # late: takes a second to import

    perplexity = min(30.0, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    return TSNE(perplexity=perplexity, init=init, random_state=0).fit_transform(features).astype(np.float32)


def write_embedding(folder: Path, embedding: Embedding) -> None:
    """Writes an embedding as an .npz file, without pickled objects."""
    arrays = {
        "videos": np.frombuffer("\0".join(embedding.videos).encode("utf-8", "surrogateescape"), np.uint8),
        "features": embedding.features,
        "points": embedding.points,
        "sheet": np.frombuffer(embedding.sheet, np.uint8),
        "sizes": np.array([embedding.total, embedding.columns, embedding.side]),
    }
    path = folder / _FILE
    with report_write_errors(path):
        write_atomically(path, lambda file: np.savez(file, **arrays))


def read_embedding(folder: Path) -> Embedding | None:
    """What `write_embedding` wrote; None if the file is missing or damaged."""
    try:
        with np.load(folder / _FILE) as arrays:
            videos = arrays["videos"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            total, columns, side = arrays["sizes"].tolist()
            sheet = arrays["sheet"].tobytes()
            return Embedding(videos, arrays["features"], arrays["points"], total, sheet, columns, side)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _make_sheet(thumbnails: Iterable[Image.Image]) -> bytes:
    images, file = list(thumbnails), io.BytesIO()
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, -(-len(images) // _COLUMNS) * _SIDE))
    for number, image in enumerate(images):
        sheet.paste(image, (number % _COLUMNS * _SIDE, number // _COLUMNS * _SIDE))
    sheet.save(file, "JPEG", quality=75)
    return file.getvalue()
