"""Readers are timed only on frames that were found to be the right ones; the tables hold what was measured."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tools.benchmark import cropping, loading, made_clips
from tools.benchmark.decoding import measure_readers, thumbnails
from tools.benchmark.made_clips import number_in
from tools.benchmark.readers import ORIGINAL, NotReadable, find_readers
from tools.benchmark.tables import marks

POSITIONS = [3, 9, 17, 19, 19]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def this_project(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    return find_readers()["this project"](path, positions, window)


def cells_for(path: Path, *readers: Callable | None, rounds: int = 1) -> list[str]:
    named = {str(number): reader for number, reader in enumerate(readers)}
    return measure_readers(path, named, [POSITIONS], 20, thumbnails(path), rounds)[0]


@pytest.mark.parametrize("reader", find_readers())
@pytest.mark.parametrize("title", ["H.264", "MPEG-4", "JPEG"])
def test_every_reader_returns_the_frames_with_the_numbers_asked_for(
    tiny_clips: dict[str, Path], reader: str, title: str
) -> None:
    read = find_readers()[reader]
    if read is None:
        pytest.skip(f"{reader} is not installed")
    try:
        frames = read(tiny_clips[title], POSITIONS, 20)
    except NotReadable:
        assert title == "JPEG"
    else:
        assert frames.dtype == np.uint8
        assert [number_in(frame) for frame in frames] == POSITIONS


def test_a_reader_of_wrong_frames_is_found_and_not_timed(tiny_clips: dict[str, Path]) -> None:
    def next_ones(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        return this_project(path, [min(position + 1, 19) for position in positions], window)

    right, wrong = cells_for(tiny_clips["MPEG-4"], this_project, next_ones)
    assert re.fullmatch(r"\d+\.\d", right)
    assert wrong == "3 of 5 frames wrong"


def test_readers_that_are_not_there_or_fail_are_named_in_their_cells(tiny_clips: dict[str, Path]) -> None:
    def fails(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        raise KeyError("whatever another library raises")

    def cannot(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
        raise NotReadable("no folders")

    assert cells_for(tiny_clips["JPEG"], None, fails, cannot) == ["not installed", "fails (KeyError)", "-"]


def test_readers_take_turns_round_after_round(tiny_clips: dict[str, Path]) -> None:
    calls = []

    def noting(name: str) -> Callable:
        def read(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
            calls.append(name)
            return this_project(path, positions, window)

        return read

    cells_for(tiny_clips["MPEG-4"], noting("a"), noting("b"), rounds=8)
    turns = [set(calls[place : place + 2]) for place in range(0, len(calls), 2)]
    assert turns == [{"a", "b"}] * 9  # once to check the frames, and in each of the rounds


def test_both_orders_of_cropping_give_the_same_clip_within_rounding() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 256, 340, 3), dtype=np.uint8)
    for training in (True, False):
        *_, difference = cropping.compare(frames, training, rounds=3)
        assert 0 < difference <= 1.05


def test_the_tables_of_the_data_are_printed_and_written(
    run_benchmark: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_clips: dict[str, Path],
    tiny_recipes: tuple,
) -> None:
    monkeypatch.setattr(made_clips, "RECIPES", tiny_recipes)
    page = tmp_path / "page.md"
    page.write_text("".join("\n".join([*marks(name), ""]) for name in ("readers", "crops", "loading")))
    few = ["--rounds", "1", "--starts", "1", "--workers", "0", "--clips", "2"]
    user = str(tiny_clips["H.264"])
    code, lines, error = run_benchmark("data", *few, "--videos", user, "--markdown", str(page))
    assert (code, error) == (0, "")
    written = page.read_text().splitlines()
    assert [line for line in written if line and not line.startswith("<!--")] == [line for line in lines if line]
    rows = [cells_of(line) for line in lines if line.startswith("|")]
    readers = [row for row in rows if row[1] in ("8x32", "16x4", "8x4")]
    assert [row[0] for row in readers] == [t for t in ("H.264", "MPEG-4", "JPEG", user) for _ in range(3)]
    column = 2 + list(find_readers()).index("this project")
    assert all(re.fullmatch(r"\d+\.\d( \(\d+\.\dx\))?", row[column]) for row in readers)
    assert rows[0][2] == ORIGINAL
    assert [row[0] for row in rows if len(row) == 2] == ["file", "---", "H.264", "MPEG-4", "JPEG"]


def test_memory_is_that_of_the_loading_process_while_it_loads(run_benchmark: Callable) -> None:
    code, lines, _ = run_benchmark("memory", "--clips", "6", "--every", "3", "--files", "3")
    assert code == 0
    rows = [cells_of(line) for line in lines[4:]]
    assert [row[0] for row in rows] == ["3", "6"]
    assert all(50 < float(row[1]) < 2000 for row in rows)
    assert loading.resident_memory(1) > 0
