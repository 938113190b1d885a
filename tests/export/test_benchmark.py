"""`timesformer benchmark export`: the table of a small model. Here because it loads OpenVINO, see `conftest`."""

import importlib.util
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest

from timesformer.benchmarks import exports, training
from timesformer.commands import benchmark

FORMATS = ["ONNX Runtime", "ONNX Runtime, dynamic int8", "OpenVINO", "OpenVINO, int8 (NNCF)"]
SMALL = ["--frames", "2", "--crop", "32", "--depth", "1", "--rounds", "1"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_exported_models_are_compared_with_pytorch_and_hugging_face(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("nncf")
    monkeypatch.setattr(training, "Size", partial(training.Size, width=256, heads=4))
    monkeypatch.setattr(exports, "time", SimpleNamespace(perf_counter=count().__next__))  # a second between two calls
    monkeypatch.setattr(exports, "time_in_turn", lambda runs, rounds: {name: [n + 0.5] for n, name in enumerate(runs)})
    assert benchmark.main(["export", *SMALL, "--nncf"]) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("| ")]
    columns, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert columns == ["", "seconds per clip", "file (MB)", "largest difference of a logit", "seconds to export"]
    assert [row[0] for row in rows] == ["PyTorch, Hugging Face", "PyTorch, this project", *FORMATS]
    assert [row[1] for row in rows] == ["0.50", "1.50", "2.50", "3.50", "4.50", "5.50"]
    huggingface, ours, *exported = rows
    assert [huggingface[2], huggingface[4], ours[2], ours[4]] == [""] * 4
    onnx, onnx_int8, openvino, openvino_int8 = exported
    assert float(ours[3]) == 0
    assert all(float(row[3]) < 1e-4 for row in (huggingface, onnx, openvino))
    assert all(1e-4 < float(row[3]) < 1 for row in (onnx_int8, openvino_int8))
    # four bytes for a weight, or one
    assert float(onnx[2]) > 2 * float(onnx_int8[2]) > 0
    assert float(openvino[2]) > 2 * float(openvino_int8[2]) > 0
    assert [row[4] for row in exported] == ["2", "1", "2", "1"]  # float formats with tracing, which is done once
    progress = printed.err.splitlines()  # on a slow machine, with a line every half minute
    assert {line.partition(":")[0] for line in progress} == {"quantizing with NNCF", "exporting"}
    assert "4/4" in progress[-1]
