"""Readers are timed only if they return the correct frames; both orders of cropping give the same clip."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from timesformer.benchmarks.readers import READERS, compare_readers, largest_difference, thumbnails
from timesformer.benchmarks.shards import shard_table

POSITIONS = [3, 9, 17, 19, 19]


def this_project(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    return READERS["this project"](path, positions, window)


def cells_for(path: Path, *readers: Callable) -> list[str]:
    named = {str(number): reader for number, reader in enumerate(readers)}
    return compare_readers(path, named, [POSITIONS], 20, thumbnails(path), rounds=1)[0]


@pytest.mark.parametrize("title", ["H.264", "MPEG-4", "JPEG"])
def test_readers_return_the_requested_frames(tiny_clips: dict[str, Path], title: str) -> None:
    ours, *others = cells_for(tiny_clips[title], this_project, *READERS.values())
    assert re.fullmatch(r"\d+\.\d", ours)
    allowed = r"not installed|\d+\.\d" + "|-" * (title == "JPEG")
    assert all(re.fullmatch(allowed, cell) for cell in others), others


def test_a_reader_of_wrong_frames_is_not_timed(tiny_clips: dict[str, Path]) -> None:
    def read_next(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        return this_project(path, [min(position + 1, 19) for position in positions], window)

    assert cells_for(tiny_clips["MPEG-4"], read_next) == ["3 of 5 frames wrong"]


@pytest.mark.parametrize(
    ("error", "cell"),
    [(ImportError, "not installed"), (KeyError, "fails (KeyError)"), (IsADirectoryError, "-")],
)
def test_missing_and_failing_readers_are_named(tiny_clips: dict[str, Path], error: type, cell: str) -> None:
    def fail(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        raise error

    assert cells_for(tiny_clips["JPEG"], fail) == [cell]


def test_shards_and_files_are_compared(tiny_clips: dict[str, Path], tmp_path: Path) -> None:
    *_, video, frames = shard_table({name: tiny_clips[name] for name in ("MPEG-4", "JPEG")}, tmp_path, 1, 6)
    assert re.fullmatch(r"\| MPEG-4 \| \d+ \| \d+ \| \d+\.\d\d \|", video)
    assert re.fullmatch(r"\| JPEG \| \d+ \| \d+ \| \d+\.\d\d \|", frames)


@pytest.mark.parametrize("training", [True, False])
def test_both_orders_of_cropping_give_the_same_clip(training: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 256, 340, 3), dtype=np.uint8)
    assert all(0 < largest_difference(frames, training, seed) <= 1.05 for seed in range(3))
