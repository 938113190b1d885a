"""Readers are timed only if they return the correct frames; both orders of cropping give the same clip."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tools.benchmark.cropping import largest_difference
from tools.benchmark.readers import NotReadable, check_reader, compare_readers, find_readers, thumbnails

POSITIONS = [3, 9, 17, 19, 19]


def this_project(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    return find_readers()["this project"](path, positions, window)


def cells_for(path: Path, *readers: Callable | None) -> list[str]:
    named = {str(number): reader for number, reader in enumerate(readers)}
    return compare_readers(path, named, [POSITIONS], 20, thumbnails(path), rounds=1)[0]


@pytest.mark.parametrize("reader", find_readers())
@pytest.mark.parametrize("title", ["H.264", "MPEG-4", "JPEG"])
def test_readers_return_the_requested_frames(tiny_clips: dict[str, Path], reader: str, title: str) -> None:
    read = find_readers()[reader]
    if read is None:
        pytest.skip(f"{reader} is not installed")
    try:
        wrong, _ = check_reader(read, tiny_clips[title], [POSITIONS], 20, thumbnails(tiny_clips[title]))
    except NotReadable:
        assert title == "JPEG"
    else:
        assert wrong == 0


def test_a_reader_of_wrong_frames_is_not_timed(tiny_clips: dict[str, Path]) -> None:
    def read_next(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        return this_project(path, [min(position + 1, 19) for position in positions], window)

    correct, wrong = cells_for(tiny_clips["MPEG-4"], this_project, read_next)
    assert re.fullmatch(r"\d+\.\d", correct)
    assert wrong == "3 of 5 frames wrong"


def test_missing_and_failing_readers_are_named(tiny_clips: dict[str, Path]) -> None:
    def fail(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        raise KeyError("any error of another library")

    def refuse(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        raise NotReadable("no folders")

    assert cells_for(tiny_clips["JPEG"], None, fail, refuse) == ["not installed", "fails (KeyError)", "-"]


@pytest.mark.parametrize("training", [True, False])
def test_both_orders_of_cropping_give_the_same_clip(training: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 256, 340, 3), dtype=np.uint8)
    assert all(0 < largest_difference(frames, training, seed) <= 1.05 for seed in range(3))
