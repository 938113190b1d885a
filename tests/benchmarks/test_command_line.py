"""tools/benchmark.py prints its tables and writes them into pages."""

import re
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT
from timesformer.benchmarks import generated_clips, lists, startup
from timesformer.benchmarks.generated_clips import Recipe
from timesformer.benchmarks.loading import OURS
from timesformer.benchmarks.pipelines import OTHERS, DecordClips, HuggingFaceClips
from timesformer.benchmarks.readers import READERS
from timesformer.commands import benchmark
from timesformer.datasets.decoding.open import open_video

SMALL = str(Path(__file__).resolve().parents[2] / "configs/Demo/TimeSformer_divST_8x2_48.yaml")
Run = Callable[..., tuple[int, list[str], str]]
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture
def run_benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run_benchmark(arguments): exit code, lines on stdout, and stderr."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
        code = benchmark.main()
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def rows_of(lines: list[str]) -> list[list[str]]:
    """Cells of the rows of all tables, with their headers, without the rules below these."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


@pytest.mark.slow
def test_models_reports_size_and_operations(run_benchmark: Run) -> None:
    code, lines, _ = run_benchmark("models", "--cfg", SMALL)
    assert code == 0
    assert rows_of(lines)[1] == [SMALL, "TimeSformer", "divided_space_time", "8x2, 48", "8", "0.71", "0.05"]


@pytest.mark.slow
def test_models_adds_time_and_memory_to_a_page(run_benchmark: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = "<!-- table: begin -->", "<!-- table: end -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    options = ["--time", "--threads", "1", "--rounds", "1", "--batch-size", "2"]
    code, lines, _ = run_benchmark("models", "--cfg", SMALL, "--markdown", str(page), *options)
    assert code == 0
    forward, step, memory = map(float, rows_of(lines)[1][-3:])
    assert 0 < forward < step
    assert 0.1 < memory < 2  # PyTorch itself, and almost nothing for this model
    assert page.read_text() == "\n".join(["before", begin, *lines, end, "after", ""])


def test_a_page_without_marks_is_an_error_before_measuring(run_benchmark: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    code, lines, error = run_benchmark("models", "--cfg", SMALL, "--markdown", str(page))
    assert (code, lines) == (2, [])
    assert str(page) in error


@pytest.mark.slow
def test_data_prints_and_writes_two_tables(
    run_benchmark: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_clips: dict[str, Path]
) -> None:
    recipes = (Recipe("H.264", "a.mp4", 60, 96, 72, "libx264", {"g": "12"}), Recipe("JPEG", "b", 20, 96, 72, "jpeg"))
    monkeypatch.setattr(generated_clips, "RECIPES", recipes)
    page = tmp_path / "page.md"
    names = ("readers", "crops")
    page.write_text("".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->\n" for name in names))
    few = ["--rounds", "1", "--starts", "1"]
    user = str(tiny_clips["MPEG-4"])
    code, lines, error = run_benchmark("data", *few, "--videos", user, "--markdown", str(page))
    assert (code, error) == (0, "")
    assert [line for line in page.read_text().splitlines() if not line.startswith("<!--")] == lines
    rows = rows_of(lines)
    readers = [row for row in rows if row[1] in ("8x32", "16x4", "8x4")]
    assert [row[0] for row in readers] == [title for title in ("H.264", "JPEG", user) for _ in range(3)]
    column = 2 + list(READERS).index("this project")
    assert all(re.fullmatch(r"\d+\.\d( \(\d+\.\dx\))?", row[column]) for row in readers)


@pytest.mark.slow
def test_loading_compares_ways_with_each_number_of_workers(
    run_benchmark: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_clips: dict[str, Path]
) -> None:
    recipes = (Recipe("MPEG-4", "a.avi", 20, 48, 36, "mpeg4"), Recipe("JPEG", "b", 4, 48, 36, "jpeg"))
    monkeypatch.setattr(generated_clips, "RECIPES", recipes)
    folder = tmp_path / "videos"
    folder.mkdir()
    for title in ("H.264", "MPEG-4"):
        (folder / tiny_clips[title].name).symlink_to(tiny_clips[title])
    code, lines, _ = run_benchmark(
        "loading", *["--rounds", "1", "--clips", "2", "--workers", "0", "1", "--videos"], str(folder)
    )
    assert code == 0
    header, *rows = rows_of(lines)
    assert header == ["clips", "way", "main process, processor time", "1 worker"]
    ways = [OURS, *(way.name for way in OTHERS)]
    assert [row[:2] for row in rows] == [[title, way] for title in ("MPEG-4", "videos") for way in ways]
    for _, way, *cells in rows:
        expected = {OURS: r"\d+\.\d \(\d+\.\dx\)", DecordClips.name: r"\d+\.\d|not installed"}.get(way, r"\d+\.\d")
        assert all(re.fullmatch(expected, cell) for cell in cells), (way, cells)


def test_other_ways_of_loading_take_the_frames_of_the_clip(tiny_clips: dict[str, Path]) -> None:
    processor = pytest.importorskip("transformers").VideoMAEImageProcessor()
    (clip,) = HuggingFaceClips([tiny_clips["MPEG-4"]], 5, 4)  # 20 frames: there is one possible start
    with open_video(tiny_clips["MPEG-4"]) as video:
        expected = processor(list(video.read([0, 4, 8, 12, 16])), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(clip, expected)


@pytest.mark.slow
def test_startup_measures_processes_of_two_checkouts(run_benchmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make_programs = startup._programs

    def few(*arguments: object) -> dict[str, list[str]]:
        made = make_programs(*arguments)
        return {name: made[name] for name in ("Python alone", "`timesformer configs --help`", list(made)[-1])}

    monkeypatch.setattr(startup, "_programs", few)
    code, lines, error = run_benchmark("startup", "--rounds", "1", "--help-of", "configs", "--before", str(ROOT))
    assert (code, error) == (0, "")
    header, *rows = rows_of(lines)
    assert header == ["process", "before", "this version"]
    assert len(rows) == 3
    assert all(float(cell) > 0 for _, *cells in rows for cell in cells)


@needs_proc
@pytest.mark.slow
def test_memory_of_a_worker_is_measured(run_benchmark: Run) -> None:
    code, lines, _ = run_benchmark("memory", "--clips", "6", "--files", "3")
    assert code == 0
    _, *rows = rows_of(lines)
    assert [row[0] for row in rows] == ["3", "6"]
    assert all(float(row[1]) > 50 for row in rows)


@needs_proc
@pytest.mark.slow
def test_lists_are_opened_and_measured(run_benchmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each kind is opened in this process: a fresh one imports PyTorch.
    monkeypatch.setattr(lists, "run_in_subprocess", lambda function, *args: function(*args))
    monkeypatch.setattr(lists, "CLASSES", 4)
    clocks = SimpleNamespace(process_time=count(step=2).__next__, perf_counter=count(step=3).__next__)
    monkeypatch.setattr(lists, "time", clocks)
    monkeypatch.setattr(lists, "resident_memory", lambda process: 100_000_000)
    monkeypatch.setattr(lists, "peak_memory", lambda device: 142_000_000)
    code, lines, _ = run_benchmark("lists", "--clips", "400")
    assert code == 0
    header, *rows = rows_of(lines)
    assert header[:2] == ["dataset", "training clips"]
    assert len({kind for kind, *_ in rows}) == len(rows) == 16
    # 400 training clips and 20 for validation; the random split takes 81%, the official lists hold out 10% or so.
    assert {kind: number for kind, number, *_ in rows if number != "400"}.keys() == {
        "`folder`, at random",
        "`hmdb51`",
        "`ucf101`",
    }
    for _, number, *seconds, memory in rows:
        assert 300 < int(number) <= 400
        processor, elapsed, listing = seconds
        assert (processor, elapsed, memory) == ("2.00", "3.00", "42")
        assert listing in ("-", "2.00")
    assert {seconds[-1] for _, _, *seconds, _ in rows} == {"-", "2.00"}


@pytest.mark.slow
@needs_proc
def test_timeline_reads_windows_in_one_pass_and_alone(run_benchmark: Run, tmp_path: Path) -> None:
    video = generated_clips.make_clip(tmp_path, Recipe("48 x 32", "long.mp4", 120, 48, 32, "mpeg4"))
    code, lines, _ = run_benchmark("timeline", "--videos", str(video), "--rounds", "1")
    assert code == 0
    _, (name, seconds, clip, number, *_), second = rows_of(lines)
    assert number == "1"  # 8.5 seconds are longer than the video
    assert (name, clip, second[2]) == (video.name, "8x32", "16x4")
    assert int(second[3]) == int(float(seconds) / (64 / 30 / 2))  # half overlapping: the last one ends with the video
