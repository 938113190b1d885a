"""What a dataset is made of: one record per video, in the columns of a split."""

import copy
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from timesformer.errors import UserError, shorten

SPLITS = ("train", "val", "test")


class DataError(UserError):
    """A dataset on disk that is missing, incomplete or contradicts itself or the configuration."""


@dataclass(frozen=True)
class VideoRecord:
    """One labelled video: `path` is a video file or a folder of frames, `name` a stable id unique in the split.

    num_frames, fps: as a manifest tells them; 0 where none does.
    problem: why the manifest says that it cannot be read; empty if it can, or nobody looked.
    bytes: of the video when the manifest was written, which speaks of a video of that size alone; 0 without one.
    """

    path: str
    label: int
    name: str
    num_frames: int = 0
    fps: float = 0.0
    problem: str = ""
    bytes: int = 0


class Strings(Sequence[str]):
    """Strings that never change, as one buffer: no Python object each, and nothing to copy for a forked process."""

    def __init__(self, strings: Iterable[str]) -> None:
        text, lengths = bytearray(), array("q", [0])
        remaining = iter(strings)
        while some := [string.encode("utf-8", "surrogateescape") for string in islice(remaining, 4096)]:
            text += b"".join(some)
            lengths.extend(map(len, some))
        self._text, self._ends = text, np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        if not -len(self) <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        index %= len(self)
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        ends = self._ends.tolist()  # ten times as fast as one number after the other
        return (self._text[begin:end].decode("utf-8", "surrogateescape") for begin, end in pairwise(ends))

    def at(self, indices: np.ndarray) -> Iterator[str]:
        """The strings of these indices, int (strings,) of 0 or more: three times as fast as one by one."""
        begins, ends = self._ends[indices].tolist(), self._ends[1:][indices].tolist()
        return (
            self._text[begin:end].decode("utf-8", "surrogateescape") for begin, end in zip(begins, ends, strict=True)
        )


class Records(Sequence[VideoRecord]):
    """The videos of a split as columns: a million take under 100 MB, and loading processes share them.

    Args:
        names: of the videos, each once.
        labels: of the videos, int.
        paths: of the videos, where they are not `folder` joined with the name.
        folder: put before every name that stands for a path.
        num_frames, fps: of the videos; 0 where unknown.
        problems: why some cannot be read, by number.

    Attributes:
        names: Strings.
        labels: int64 array (videos,).
        problems: as given.
    """

    def __init__(
        self,
        names: Iterable[str],
        labels: Iterable[int],
        paths: Iterable[str] | None = None,
        folder: str = "",
        num_frames: Iterable[int] | None = None,
        fps: Iterable[float] | None = None,
        problems: dict[int, str] | None = None,
    ) -> None:
        self.names = names if isinstance(names, Strings) else Strings(names)
        self.labels = np.fromiter(labels, np.int64)
        self._paths = None if paths is None else Strings(paths)
        self._folder = folder
        self._num_frames = None if num_frames is None else np.fromiter(num_frames, np.int32)
        self._fps = None if fps is None else np.fromiter(fps, np.float64)
        self.problems = problems or {}
        self._describe: Callable[[VideoRecord], VideoRecord] | None = None
        columns = (self.labels, self._paths, self._num_frames, self._fps)
        if lengths := {len(column) for column in columns if column is not None} - {len(self.names)}:
            raise ValueError(f"columns of {sorted(lengths)} values for {len(self.names)} names: give one each")

    @classmethod
    def of(cls, records: Iterable[VideoRecord]) -> "Records":
        """The columns of single records."""
        rows = list(records)
        return cls(
            [row.name for row in rows],
            [row.label for row in rows],
            [row.path for row in rows],
            num_frames=[row.num_frames for row in rows],
            fps=[row.fps for row in rows],
            problems={number: row.problem for number, row in enumerate(rows) if row.problem},
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> VideoRecord:  # type: ignore[override]  # no slices
        name = self.names[index]
        record = VideoRecord(
            path=os.path.join(self._folder, name) if self._paths is None else self._paths[index],
            label=int(self.labels[index]),
            name=name,
            num_frames=0 if self._num_frames is None else int(self._num_frames[index]),
            fps=0.0 if self._fps is None else float(self._fps[index]),
            problem=self.problems.get(index % len(self), ""),
        )
        return record if self._describe is None else self._describe(record)

    def paths(self) -> Iterator[str]:
        """The paths of all videos, a million in less than a second."""
        if self._paths is None:
            return (os.path.join(self._folder, name) for name in self.names)
        return iter(self._paths)

    def described_by(self, describe: Callable[[VideoRecord], VideoRecord], problems: dict[int, str]) -> "Records":
        """These records with what else is known of them: `describe` is called for each when it is asked for, `problems`
        come on top of those there are."""
        described = copy.copy(self)
        described._describe = describe
        described.problems = self.problems | problems
        return described

    def __iter__(self) -> Iterator[VideoRecord]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None


@dataclass(frozen=True)
class DatasetSplit:
    """The videos of one split; a record's `label` is an index into `class_names`, which is the same for all splits."""

    records: Records
    class_names: tuple[str, ...]


def join_problems(what: str, problems: list[str], remedy: str) -> DataError:
    """Make one error out of several `problems` of the same kind, showing the first few."""
    return DataError("\n".join([f"{what}:", "  " + shorten(problems, "\n  "), remedy]))
