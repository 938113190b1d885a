"""The table of models has what was counted and measured, and says what could not be."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from timesformer.errors import UserError
from tools.benchmark import models
from tools.benchmark.tables import marks

ROOT = Path(__file__).resolve().parents[2]
SMALL = str(ROOT / "configs/Demo/TimeSformer_divST_8x2_48.yaml")


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_of_models_has_size_and_operations(run_benchmark: Callable) -> None:
    code, (_, _, row), _ = run_benchmark("models", "--cfg", SMALL)
    assert code == 0
    assert cells_of(row) == [SMALL, "TimeSformer", "divided_space_time", "8x2, 48", "8", "0.71", "0.05"]


def test_time_and_memory_are_added_and_written_between_the_marks(run_benchmark: Callable, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = marks("table")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    measured = ["--time", "--cpu", "--threads", "1", "--rounds", "1", "--batch-size", "2"]
    code, (how, _, head, rule, row), _ = run_benchmark("models", "--cfg", SMALL, "--markdown", str(page), *measured)
    assert code == 0
    assert re.search(r"1 threads, torch .*; clips at once: 2, float32, median of 1; .* of the whole process", how)
    assert cells_of(head)[-3:] == ["forward (ms/clip)", "training step (ms/clip)", "peak memory (GB)"]
    forward, step, memory = map(float, cells_of(row)[-3:])
    assert 0 < forward < step
    assert 0.1 < memory < 2  # PyTorch itself, and next to nothing for this model; not what this process holds
    assert page.read_text() == "\n".join(["before", begin, how, "", head, rule, row, end, "after", ""])


def test_a_page_without_a_place_for_the_table_is_an_error_before_anything_is_measured(
    run_benchmark: Callable, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    code, lines, error = run_benchmark("models", "--cfg", SMALL, "--markdown", str(page))
    assert (code, lines) == (2, [])
    assert f"{page} has no place for the table" in error


def test_a_process_that_dies_while_measuring_is_an_error_that_names_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Dies:
        def __init__(self, *args: object, **options: object) -> None:
            pass

        def __enter__(self) -> "Dies":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def submit(self, *args: object) -> None:
            raise models.BrokenProcessPool

    monkeypatch.setattr(models, "ProcessPoolExecutor", Dies)
    with pytest.raises(UserError, match=r"a.yaml could not be measured: .*lower --batch-size, which is 4"):
        models.measure_apart("a.yaml", None, torch.device("cpu"), 4, 1, 0)
