"""The script for a GPU, tried on the CPU with tiny models and clips."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from sklearn.metrics import accuracy_score

from tests.patience import PATIENCE
from timesformer.benchmarks.training import HUGGING_FACE, ORIGINAL, OURS, build_ours
from timesformer.commands import benchmark
from timesformer.commands.main import main
from timesformer.gpu_benchmark import measurements
from timesformer.gpu_benchmark import parts as gpu

pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, Path]]


@pytest.fixture
def run_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run_gpu(options): the exit code of a dry run and its folder of results."""

    def run(*options: str) -> tuple[int, Path]:
        folder = tmp_path / "results"
        command = ["benchmark", "gpu", "--device", "cpu", "--tiny", "--output", str(folder), *options]
        monkeypatch.setattr("sys.argv", ["timesformer", *command])
        return main(command), folder

    return run


def cells_of(page: str, title: str) -> list[list[str]]:
    """Cells of the rows of a part's table."""
    section = page.partition(f"### {title}\n")[2].partition("\n###")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]


def multiply_adds(row: dict[str, Any]) -> dict[str, int]:
    """fvcore's count of the layers for one clip, and attention, which it does not know, by implementation."""
    model, counts = build_ours(gpu.Settings("cpu", True, None, Path()).size(8)).eval(), []
    clip = torch.zeros(1, 3, row["frames"], row["crop"], row["crop"])
    for model.model.last_block_cls_only, queries in ((False, 5 + 5), (True, 5 + 1)):
        layers = FlopCountAnalysis(model, clip).unsupported_ops_warnings(False).by_operator()
        temporal = 2 * (4 * 2 * 2) * 2 * 32  # in two blocks, 2 frames of each of 4 patches
        spatial = 2 * (queries * 5) * 2 * 32  # 4 patches and the class token in each of 2 frames
        counts.append(layers["linear"] + layers["conv"] + temporal + spatial)
    return {HUGGING_FACE: counts[0], OURS: counts[1], ORIGINAL: counts[1]}  # the code given to --original is ours


@pytest.mark.slow
def test_parts_are_measured_and_a_hanging_one_is_killed(run_gpu: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {name: part._replace(limit=0.001 if name == "large" else PATIENCE) for name, part in gpu.PARTS.items()}
    monkeypatch.setattr(gpu, "PARTS", limits)
    parts = ["tests", "training-8", "large", "inference", "demo", "kernels"]
    code, folder = run_gpu("--original", str(ROOT), "--minutes", str(PATIENCE), "--parts", *parts)
    results, page = json.loads((folder / "gpu.json").read_text()), (folder / "gpu.md").read_text()
    found = {part["name"]: part for part in results["parts"]}
    assert code == 0
    assert {name: part["status"] for name, part in found.items()} == {
        name: "timed out" if name == "large" else "done" for name in parts
    }
    assert {row["outcome"] for row in found["tests"]["rows"]} == {"passed", "skipped"}  # a GPU is not needed by all

    steps = [row for row in found["training-8"]["rows"] if "seconds" in row]
    assert len(steps) == 9
    expected = multiply_adds(steps[0])
    for row in steps:
        assert row["operations_per_clip"] == 2 * expected[row["implementation"]]
        assert row["difference"] < 1e-4
        assert row["original_code"] == (row["implementation"] == ORIGINAL)
    baseline = next(row for row in steps if row["implementation"] == ORIGINAL and row["precision"] == "fp32")
    table = cells_of(page, "Training step, batch size 8")[2:]
    for row, (_, clips, milliseconds, rate, speedup, _, _, _, utilisation, _) in zip(
        steps, [cells for cells in table if cells[3] != "-"], strict=True
    ):
        seconds = float(milliseconds) / 1e3
        assert seconds == pytest.approx(row["seconds"], abs=1e-4)
        assert float(rate) == pytest.approx(int(clips) / row["seconds"], abs=0.1)
        assert float(speedup) == pytest.approx(baseline["seconds"] / row["seconds"], abs=0.01)
        operations = 3 * row["batch_size"] * row["operations_per_clip"] / row["seconds"]
        assert float(utilisation.rstrip("%")) == pytest.approx(
            100 * operations / row["bf16_product_per_second"], abs=0.1
        )

    with (folder / "demo/off/predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    accuracy = accuracy_score([row["label"] for row in predictions], [row["class_1"] for row in predictions])
    assert found["demo"]["rows"][0]["top1"] == pytest.approx(100 * accuracy)

    errors = [row["difference"] for row in found["kernels"]["rows"] if "difference" in row]
    assert len(errors) >= 3  # PyTorch's choice, the unfused kernel and plain products work everywhere
    assert max(errors) < 8 * torch.finfo(torch.bfloat16).eps


TWO_TESTS = """
import select

def test_first():
    pass

def test_second():
    with open({pipe!r}, "rb", buffering=0) as pipe:
        assert select.select([pipe], [], [], {patience})[0], "the row of the first test was not sent"
"""


@pytest.mark.slow
def test_rows_of_tests_are_sent_while_other_tests_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    (file := tmp_path / "test_two.py").write_text(TWO_TESTS.format(pipe=str(pipe), patience=PATIENCE))
    monkeypatch.setattr(measurements, "TESTS", (str(file),))
    descriptor = os.open(pipe, os.O_RDWR)  # so that the second test opens the pipe, and waits for a byte in it
    rows = measurements.run_tests(gpu.Settings("cpu", True, None, tmp_path))
    first = next(rows)
    os.write(descriptor, b"1")
    assert [(row["test"].rpartition(":")[2], row["outcome"], row["message"]) for row in (first, *rows)] == [
        ("test_first", "passed", ""),
        ("test_second", "passed", ""),
    ]
    os.close(descriptor)


@pytest.mark.slow
def test_a_part_that_fails_is_recorded_and_the_next_begins(run_gpu: Run, tmp_path: Path) -> None:
    broken = tmp_path / "original/timesformer/models/vit.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("from timesformer.models import helpers\n")
    code, folder = run_gpu("--original", str(tmp_path / "original"), "--parts", "training-8", "long")
    results = json.loads((folder / "gpu.json").read_text())
    failed, done = results["parts"]
    assert results["command"].startswith("timesformer benchmark gpu --device cpu --tiny")
    assert code == 0
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "helpers" in failed["error"]
    assert failed["error"] in (folder / "gpu.md").read_text()


@pytest.mark.parametrize("option", ["--device", "--original"])
def test_a_missing_device_or_original_is_an_error_before_measuring(
    run_gpu: Run, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    value = "cuda" if option == "--device" else str(tmp_path)
    code, folder = run_gpu(option, value)
    assert (code, folder.exists()) == (2, False)
    assert value in capsys.readouterr().err


def test_parts_of_the_command_are_those_that_exist() -> None:
    assert list(gpu.PARTS) == benchmark.GPU_PARTS
