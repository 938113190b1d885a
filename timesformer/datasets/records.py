"""The records of a dataset split, one per video, stored in columns."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from timesformer.errors import UserError, shorten

SPLITS = ("train", "val", "test")

_BLOCK = 10_000  # strings that are packed and unpacked together


class DataError(UserError):
    """A dataset on disk is missing, incomplete, or contradicts itself or the configuration."""


class MissingSplitError(DataError):
    """A dataset does not have a split, or has it without labels; folds are drawn from its other splits."""


@dataclass(frozen=True)
class VideoRecord:
    """One labelled video: `path` is a video file or a folder of frames, `name` an id that is unique in the split.

    A manifest gives `num_frames`, `fps` and `bytes` (file size when it was written), 0 if unknown, and `problem`: why
    the video cannot be read; empty if it can be read or was not checked. The frames of a folder are `pattern`
    (`%06d.jpg#<first>-<last>`) in it if its modification time in nanoseconds is `modified`.
    """

    path: str
    label: int
    name: str
    num_frames: int = 0
    fps: float = 0.0
    problem: str = ""
    bytes: int = 0
    pattern: str = ""
    modified: int = 0


class Column(Sequence[str]):
    """Read-only strings that forked workers share; a list would be copied as reference counts change."""


class Strings(Column):
    """Strings in one buffer."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._text, lengths, rest = bytearray(), [np.zeros(1, np.int64)], iter(strings)
        while block := list(itertools.islice(rest, _BLOCK)):
            text = "".join(block).encode("utf-8", "surrogateescape")
            parts = block if text.isascii() else [string.encode("utf-8", "surrogateescape") for string in block]
            self._text += text
            lengths.append(np.fromiter(map(len, parts), np.int64, len(parts)))
        self._ends = np.concatenate(lengths).cumsum()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        index = range(len(self))[index]
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")

    def choose(self, indices: np.ndarray) -> Iterator[str]:
        """The strings with these indices, int64 (strings,)."""
        for start, end in zip(self._ends[indices].tolist(), self._ends[indices + 1].tolist(), strict=True):
            yield self._text[start:end].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _BLOCK):
            ends = self._ends[first : first + _BLOCK + 1]
            text = self._text[ends[0] : ends[-1]]
            spans = itertools.pairwise((ends - ends[0]).tolist())
            if text.isascii():  # characters are bytes: the text is decoded once
                block = text.decode()
                yield from (block[start:end] for start, end in spans)
            else:
                yield from (text[start:end].decode("utf-8", "surrogateescape") for start, end in spans)


class Records(Sequence[VideoRecord]):
    """The videos of a split in columns: a million take less than 100 MB, which DataLoader workers share.

    `names` are unique; `labels` are class indices, int64 (videos,); `paths` are `folder` joined with each name if None.
    Names and paths are copied into a `Column` if they are in none.
    `problems` holds by index why videos cannot be read; `describe` adds to a record on access.
    """

    def __init__(
        self, names: Iterable[str], labels: Iterable[int], paths: Iterable[str] | None = None, folder: str = ""
    ) -> None:
        self.names = names if isinstance(names, Column) else Strings(names)
        self.labels = np.asarray(labels, np.int64) if isinstance(labels, np.ndarray) else np.fromiter(labels, np.int64)
        self._paths = paths if paths is None or isinstance(paths, Column) else Strings(paths)
        self._folder = folder
        self.problems: dict[int, str] = {}
        self.describe: Callable[[VideoRecord], VideoRecord] | None = None
        lengths = {len(column) for column in (self.names, self.labels, self._paths) if column is not None}
        if len(lengths) > 1:
            raise ValueError(f"columns of {sorted(lengths)} values, expected one length")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> VideoRecord:  # type: ignore[override]  # no slices
        index = range(len(self))[index]
        path, label, problem = self._path(index), int(self.labels[index]), self.problems.get(index, "")
        record = VideoRecord(path, label, self.names[index], problem=problem)
        return self.describe(record) if self.describe else record

    def _path(self, index: int) -> str:
        return os.path.join(self._folder, self.names[index]) if self._paths is None else self._paths[index]

    def paths(self) -> Iterator[str]:
        """The paths of all videos."""
        if self._paths is not None:
            return iter(self._paths)
        return (os.path.join(self._folder, name) for name in self.names)


@dataclass(frozen=True)
class DatasetSplit:
    """The videos of one split. Labels are indices into `class_names`, which are the same for all splits."""

    records: Records
    class_names: tuple[str, ...]


def join_problems(what: str, problems: list[str], remedy: str) -> DataError:
    """One error for several `problems` of the same kind, with the first few of them."""
    return DataError("\n".join([f"{what}:", "  " + shorten(problems, "\n  "), remedy]))
